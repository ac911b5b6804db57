"""Slices of different axes, one behind the other, are one Slice."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .constants import add_constant, all_names, fresh_name, small_array

Parameters = list[NDArray[np.generic]]


class FuseSlices(ir.passes.InPlacePass):
    """Slice(Slice(x, axes 2), axes 3) -> Slice(x, axes 2 and 3); opset 10 and later, constant parameters."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = all_names(model)
        nodes = [n for n in list(ir.traversal.RecursiveGraphIterator(model.graph)) if n.op_type == "Slice" and n.domain == ""]
        fused = [n for n in nodes if _fuse(model.graph, n, taken)]
        return ir.passes.PassResult(model, bool(fused))


def _fuse(graph: ir.Graph, second: ir.Node, taken: set[str]) -> bool:
    source = second.inputs[0]
    first = None if source is None else source.producer()
    if source is None or first is None or first.op_type != "Slice" or first.domain != "" or first.graph is not second.graph:
        return False
    if source.is_graph_output() or len(source.uses()) != 1:
        return False
    before, after = _parameters(first), _parameters(second)
    if before is None or after is None or not _are_disjoint(before[2], after[2]):
        return False
    second.resize_inputs(5)
    second.replace_input_with(0, first.inputs[0])
    for index, name in enumerate(("starts", "ends", "axes", "steps")):
        both = np.concatenate([before[index], after[index]]).astype(np.int64)
        second.replace_input_with(index + 1, add_constant(graph, fresh_name(name, taken), both))
    first.graph.remove(first, safe=True)  # type: ignore[union-attr]
    return True


def _parameters(node: ir.Node) -> Parameters | None:
    """starts, ends, axes, steps; None if one of them is not constant, or axes are not given."""
    arrays = [small_array(value) for value in node.inputs[1:4]]
    if len(arrays) != 3 or any(a is None for a in arrays):
        return None
    steps = small_array(node.inputs[4]) if len(node.inputs) > 4 else np.ones(len(arrays[0]), np.int64) if arrays[0] is not None else None
    if len(node.inputs) > 4 and node.inputs[4] is None:
        return None
    return [a for a in (*arrays, steps) if a is not None] if steps is not None else None


def _are_disjoint(first: NDArray[np.generic], second: NDArray[np.generic]) -> bool:
    """Of one sign, so that no axis is meant twice under two numbers."""
    both = [int(a) for a in (*first.tolist(), *second.tolist())]
    return len(set(both)) == len(both) and (min(both) >= 0 or max(both) < 0)
