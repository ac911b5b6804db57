"""Small float tensors (biases, normalisation) in 16 bits: all of them in one initializer, one Cast and one Split.

onnxruntime folds both nodes into float constants when it creates a session, so that nothing is slower and nothing is lost but 13 bits of mantissa.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

LEAST_VALUES = 8
"""Below this, a Split output costs as much as it saves."""

CAST_ALONE_VALUES = 64
"""From here on halving one tensor saves more than its Cast node costs, about 40 bytes with names."""

SPLIT_INPUT_OPSET = 13
"""From here on Split takes its sizes as an input instead of an attribute."""

RELATIVE_OPERATORS = frozenset({"Div", "Reciprocal", "Log", "Pow", "Sqrt", "QuantizeLinear", "DequantizeLinear"})
"""To these a small value matters as much as a large one: a divisor that becomes zero gives an infinity."""

FLOAT16_MAX = 65504.0
RELATIVE_ERROR = 2.0**-10


def halve(model: ir.Model, untouchable: Container[str]) -> tuple[str, ...]:
    """Stores float32 vectors, and float16 ones behind a Cast to float, in one float16 initializer; gives the names of those that moved.

    Tensors of higher rank get a Cast each. Left alone: what `untouchable` names, tensors that float16 would change by more than a relative 2^-10
    of their largest value, graph outputs.
    """
    small = [value for value in model.graph.initializers.values() if value.name not in untouchable and _movable(value)]
    vectors = [value for value in small if len(value.const_value.shape) == 1]  # type: ignore[union-attr]
    others = [value for value in small if len(value.const_value.shape) > 1 and _pays_alone(value)]  # type: ignore[union-attr]
    taken = _names(model)
    if len(vectors) > 1:
        _pack(model, vectors, taken)
    for value in others:
        _cast_alone(model, value, taken)
    return tuple(str(value.name) for value in (*(vectors if len(vectors) > 1 else ()), *others))


def _names(model: ir.Model) -> set[str]:
    """The names of all values, also inside subgraphs."""
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    graphs = {id(node.graph): node.graph for node in nodes if node.graph is not None} | {id(model.graph): model.graph}
    values = [value for graph in graphs.values() for value in (*graph.inputs, *graph.initializers.values())]
    return {str(value.name) for value in (*values, *(output for node in nodes for output in node.outputs))}


def _free(stem: str, taken: set[str]) -> str:
    """`stem`, or `stem` with a number behind it; taken from now on."""
    name, number = stem, 1
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name


def _pack(model: ir.Model, moved: list[ir.Value], taken: set[str]) -> None:
    """All vectors in one initializer, one Cast and one Split."""
    values = np.concatenate([value.const_value.numpy().astype(np.float16) for value in moved])  # type: ignore[union-attr]
    packed = _initializer(model, _free("small_floats", taken), values)
    cast = ir.node("Cast", [packed], attributes={"to": int(ir.DataType.FLOAT)})
    split = _split(model, cast.outputs[0], [value.const_value.size for value in moved], taken)  # type: ignore[union-attr]
    first = next(iter(model.graph))
    for node in (cast, split):
        model.graph.insert_before(first, node)
    for value, piece in zip(moved, split.outputs, strict=True):
        _replace(model, value, piece, taken)


def _pays_alone(value: ir.Value) -> bool:
    """Whether half the bytes of a float32 tensor are more than a Cast node's."""
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= CAST_ALONE_VALUES


def _cast_alone(model: ir.Model, value: ir.Value, taken: set[str]) -> None:
    """One float32 tensor as float16 and a Cast of its own."""
    stored = _initializer(model, _free(f"{value.name}.half", taken), value.const_value.numpy().astype(np.float16))  # type: ignore[union-attr]
    cast = ir.node("Cast", [stored], attributes={"to": int(ir.DataType.FLOAT)})
    model.graph.insert_before(next(iter(model.graph)), cast)
    _replace(model, value, cast.outputs[0], taken)


def _initializer(model: ir.Model, name: str, array: NDArray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _movable(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or value.is_graph_output() or value.is_graph_input() or len(tensor.shape) < 1 or tensor.size < LEAST_VALUES:
        return False
    if tensor.dtype == ir.DataType.FLOAT16:
        return _casts(value) is not None and len(tensor.shape) == 1
    if tensor.dtype != ir.DataType.FLOAT or not value.uses():
        return False
    exactly = any(use.node.op_type in RELATIVE_OPERATORS for use in value.uses())
    return float16_fits(tensor.numpy()) and (not exactly or _each_fits(tensor.numpy()))


def float16_fits(values: NDArray[np.float32]) -> bool:
    """Whether rounding to float16 changes no value by more than 2^-10 of the largest."""
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FLOAT16_MAX:
        return False
    return bool(np.abs(values.astype(np.float16).astype(np.float32) - values).max(initial=0.0) <= RELATIVE_ERROR * largest)


def _each_fits(values: NDArray[np.float32]) -> bool:
    """Whether rounding to float16 changes no value by more than 2^-10 of itself."""
    return bool((np.abs(values.astype(np.float16).astype(np.float32) - values) <= RELATIVE_ERROR * np.abs(values)).all())


def _casts(value: ir.Value) -> list[ir.Node] | None:
    """The nodes that consume a 16-bit value, if all of them cast it to float for other nodes alone."""
    nodes = [use.node for use in value.uses()]
    to_float = all(
        node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT and not node.outputs[0].is_graph_output()
        for node in nodes
    )
    return nodes if nodes and to_float else None


def _split(model: ir.Model, value: ir.Value, sizes: list[int], taken: set[str]) -> ir.Node:
    opset = model.graph.opset_imports.get("", 1)
    if opset < SPLIT_INPUT_OPSET:
        return ir.node("Split", [value], attributes={"axis": 0, "split": sizes}, num_outputs=len(sizes))
    lengths = _initializer(model, _free("small_float_sizes", taken), np.array(sizes, np.int64))
    return ir.node("Split", [value, lengths], num_outputs=len(sizes))


def _replace(model: ir.Model, value: ir.Value, piece: ir.Value, taken: set[str]) -> None:
    """Lets the consumers of an initializer, or of its Casts, use a piece of the split instead."""
    casts = _casts(value) if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT16 else None
    for node in casts or ():
        ir.convenience.replace_all_uses_with(node.outputs[0], piece)
        node.graph.remove(node, safe=True)  # type: ignore[union-attr]
    if casts is None:
        ir.convenience.replace_all_uses_with(value, piece)
    piece.name = _free(f"{value.name}.float", taken)
    del model.graph.initializers[str(value.name)]
