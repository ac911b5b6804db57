"""Constants of a graph: which values are constant, and how one is put in the place of another."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# A tensor of fewer elements is structure (axes, shapes, clip limits), never a weight.
WEIGHT_ELEMENTS = 64
# Key in `ir.Value.meta`, never in the file: this initializer stays byte-identical, whatever it is renamed to while it is lifted.
UNTOUCHABLE = "onnx_compress.untouchable"

FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def is_constant(value: ir.Value | None) -> bool:
    """An initializer that no caller can override."""
    return value is not None and value.is_initializer() and not value.is_graph_input() and value.const_value is not None


def is_untouchable(value: ir.Value | None) -> bool:
    return value is not None and bool(value.meta.get(UNTOUCHABLE, False))


def mark_untouchable(model: ir.Model, names: frozenset[str]) -> None:
    """Mark initializers and outputs of Constant nodes by their names in the file, in subgraphs and functions too."""
    graphs: list[ir.Graph] = [*model.graphs()]
    for function in model.functions.values():
        graphs += [function.graph, *function.subgraphs()]
    for graph in graphs:
        values = [*graph.initializers.values(), *(n.outputs[0] for n in graph if n.op_type == "Constant")]
        for value in values:
            if value.name in names:
                value.meta[UNTOUCHABLE] = True


def tensor_of(value: ir.Value) -> ir.TensorProtocol:
    """The tensor of a constant value."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is no constant")
    return value.const_value


def is_stored(value: ir.Value | None) -> bool:
    """Whether a value is an initializer, or one behind a Cast."""
    return stored(value) is not None


def stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a value is, or is cast from."""
    if value is None or is_constant(value):
        return value
    cast = value.producer()
    if cast is None or cast.op_type != "Cast" or cast.domain or not is_constant(cast.inputs[0]):
        return None
    return cast.inputs[0]


def is_private(value: ir.Value) -> bool:
    """A float constant that one node of the main graph alone reads (or a Cast that one node alone reads), and that may change."""
    if is_untouchable(value) or value.is_graph_output() or tensor_of(value).dtype not in FLOATS:
        return False
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].node.graph is not value.graph:
        return False
    node = uses[0].node
    return node.op_type != "Cast" or (len(list(node.outputs[0].uses())) == 1 and not node.outputs[0].is_graph_output())


def dims_of(value: ir.Value | None) -> tuple[int, ...] | None:
    """The dims of a constant, also behind a Cast; None for anything else."""
    found = stored(value)
    return None if found is None else tuple(tensor_of(found).shape.numpy())


def small_array(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of a constant of fewer than WEIGHT_ELEMENTS elements, else None."""
    if value is None or not is_constant(value) or tensor_of(value).size >= WEIGHT_ELEMENTS:
        return None
    return np.asarray(tensor_of(value).numpy())


def all_names(model: ir.Model) -> set[str]:
    """Every name of a value, in the main graph and in all subgraphs."""
    names: set[str] = set()
    for graph in model.graphs():
        names.update(v.name for v in (*graph.inputs, *graph.initializers.values()) if v.name)
        names.update(v.name for node in graph for v in node.outputs if v.name)
    return names


def fresh_name(name: str, taken: set[str]) -> str:
    """`name`, or the first of name_1, name_2, ... that is free; it is taken from now on."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def add_constant(graph: ir.Graph, name: str, array: NDArray[np.generic], dtype: ir.DataType | None = None) -> ir.Value:
    """A new initializer. Raises ValueError if the graph has one of that name."""
    tensor = ir.tensor(array, dtype=dtype, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def set_constant(value: ir.Value, array: NDArray[np.generic]) -> None:
    """Give an initializer other contents under its old name."""
    tensor = ir.tensor(array, dtype=value.const_value.dtype if value.const_value else None, name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(tensor.dtype)
