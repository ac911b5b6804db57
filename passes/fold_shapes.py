"""Shapes that are known: Shape of static dimensions becomes a constant, computed targets of Reshape too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from .constants import add_constant, all_names, fresh_name, is_constant, small_array, tensor_of

# Key in `ir.Value.meta`, never in the file: the inferred shape; a graph output's own `shape` is what the file declares.
_INFERRED = "onnx_compress.inferred_shape"


class InferShapes(ir.passes.InPlacePass):
    """Infer all shapes of the main graph afresh: what a file says of inner values, or an exporter guessed of its outputs, is not trusted."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        declared = [(v, v.shape, v.type) for v in (*model.graph.inputs, *model.graph.outputs)]
        values = [v for node in model.graph for v in node.outputs]
        for value in values:
            value.shape = None
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
        for value in (*model.graph.inputs, *values):
            value.meta[_INFERRED] = value.shape
        for value, shape, kind in declared:
            value.shape, value.type = shape, kind
        return ir.passes.PassResult(model, modified=False)


class ForgetShapes(ir.passes.InPlacePass):
    """Forget shapes and types of inner values: they would be written as value_info. Inputs and outputs of (sub)graphs keep what they declare."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for graph in model.graphs():
            for value in (v for node in graph for v in node.outputs):
                value.meta.pop(_INFERRED, None)
                if not value.is_graph_output():
                    value.shape, value.type = None, None
        return ir.passes.PassResult(model, modified=True)


class FoldShapes(ir.passes.InPlacePass):
    """Replace Shape and Reshape targets that shape inference knows. Main graph only: in the body of a Loop shapes may differ from run to run."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = all_names(model)
        count = 0
        for node in list(model.graph):
            if node.domain != "":
                continue
            if node.op_type == "Shape":
                count += _fold_shape(model.graph, node, taken)
            elif node.op_type == "Reshape":
                count += _fold_target(model.graph, node, taken)
        return ir.passes.PassResult(model, bool(count))


def known_dims(value: ir.Value | None) -> list[int | str | None] | None:
    """The dimensions of a value: a number, a name (equal names are equal numbers), or None for unknown. None: not even the rank."""
    if value is None:
        return None
    shape = tensor_of(value).shape if is_constant(value) else value.meta.get(_INFERRED)
    if shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in shape]


def _fold_shape(graph: ir.Graph, node: ir.Node, taken: set[str]) -> int:
    dims = known_dims(node.inputs[0])
    result = node.outputs[0]
    if dims is None or result.is_graph_output():
        return 0
    dims = dims[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(dims))]
    if all(isinstance(d, int) for d in dims):
        result.replace_all_uses_with(_int64(graph, result.name, np.array(dims, np.int64), taken))
        graph.remove(node, safe=True)
        return 1
    return sum(_fold_gather(graph, use.node, dims, taken) for use in list(result.uses()))


def _fold_gather(graph: ir.Graph, node: ir.Node, dims: list[int | str | None], taken: set[str]) -> int:
    """Gather(Shape(x), i) where the dimensions it asks for are static."""
    if node.op_type != "Gather" or node.domain != "" or node.graph is not graph or node.outputs[0].is_graph_output():
        return 0
    indices = small_array(node.inputs[1])
    if indices is None or not all(-len(dims) <= i < len(dims) and isinstance(dims[i], int) for i in indices.reshape(-1).tolist()):
        return 0
    known = np.array([d if isinstance(d, int) else -1 for d in dims], np.int64)
    node.outputs[0].replace_all_uses_with(_int64(graph, node.outputs[0].name, known[indices.astype(np.int64)], taken))
    graph.remove(node, safe=True)
    return 1


def _fold_target(graph: ir.Graph, node: ir.Node, taken: set[str]) -> int:
    """Reshape(x, computed) -> Reshape(x, constant): static numbers, 0 for a dimension that stays in its place, at most one -1."""
    target = node.inputs[1] if len(node.inputs) > 1 else None
    before, after = known_dims(node.inputs[0]), known_dims(node.outputs[0])
    if target is None or is_constant(target) or after is None or node.attributes.get_int("allowzero", 0) != 0:
        return 0
    stays = [before is not None and i < len(before) and d is not None and before[i] == d for i, d in enumerate(after)]
    numbers = [d if isinstance(d, int) else 0 if same else -1 for d, same in zip(after, stays, strict=True)]
    if numbers.count(-1) > 1 or 0 in after:
        return 0
    node.replace_input_with(1, _int64(graph, target.name, np.array(numbers, np.int64), taken))
    return 1


def _int64(graph: ir.Graph, name: str | None, array: NDArray[np.int64], taken: set[str]) -> ir.Value:
    return add_constant(graph, fresh_name(name or "shape", taken), np.asarray(array, np.int64))
