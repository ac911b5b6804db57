"""What the first operators say about the values that an input takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MOVING = (
    "Cast",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Flatten",
    "Identity",
    "Transpose",
    "Slice",
    "Expand",
    "Concat",
    "Tile",
    "Split",
    "Clip",
    "Where",
)

FAR = 16
"""Nodes followed behind an input."""

LARGE_DIVISOR = 100.0
LARGE_SHIFT = 50.0
"""An input that is divided by as much, or has as much taken away, is in 0..255 (127.5 or 255, and means of 104 to 124)."""


def table_rows(model: ir.Model) -> dict[str, int]:
    """For every input that ends up as the indices of a Gather, how many values it may take, from 0 on."""
    found = {}
    for value in model.graph.inputs:
        limits = list(_limits(value, FAR))
        if limits:
            found[str(value.name)] = max(min(limits), 1)
    return found


def takes_bytes(model: ir.Model) -> frozenset[str]:
    """The inputs that the model itself brings from 0..255 into a smaller range."""
    return frozenset(str(value.name) for value in model.graph.inputs if any(_shrinks(use.node, use.idx) for use in value.uses()))


def _limits(value: ir.Value, far: int) -> Iterator[int]:
    if not far:
        return
    for use in value.uses():
        node = use.node
        if node.op_type == "Gather" and use.idx == 1:
            rows = _axis_size(node.inputs[0], node.attributes.get_int("axis", 0))
            yield from () if rows is None else (rows,)
        elif node.op_type in MOVING:
            for output in node.outputs:
                yield from _limits(output, far - 1)
        elif node.op_type == "Add":
            other = _constant(node.inputs[1 - use.idx])
            if other is not None and other.size:
                yield from (limit - int(other.max()) for limit in _limits(node.outputs[0], far - 1))


def _axis_size(table: ir.Value | None, axis: int) -> int | None:
    """The size of an axis of a constant, which may lie behind a Cast or the like."""
    while table is not None and table.const_value is None:
        node = table.producer()
        if node is None or node.op_type not in ("Cast", "Identity", "DequantizeLinear"):
            return None
        table = node.inputs[0]
    if table is None or table.const_value is None or not len(table.const_value.shape):
        return None
    return int(table.const_value.shape.numpy()[axis])


def _shrinks(node: ir.Node, index: int) -> bool:
    if node.op_type not in ("Div", "Mul", "Sub", "Add") or (index and node.op_type in ("Div", "Sub")):
        return False
    other = _constant(node.inputs[1 - index])
    if other is None or not other.size:
        return False
    most, least = float(np.abs(other).max()), float(np.abs(other).min())
    match node.op_type:
        case "Div":
            return least >= LARGE_DIVISOR
        case "Mul":
            return 0 < most <= 1 / LARGE_DIVISOR
        case _:
            return least >= LARGE_SHIFT


def _constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return np.asarray(value.const_value.numpy())
