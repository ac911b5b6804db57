"""How channels lie in a value, and where operators that move values take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx_ir as ir

from .constants import small_array
from .fold_shapes import known_dims

REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin")
POOLS = ("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool")


@dataclass(frozen=True, slots=True)
class Layout:
    """`channels` channels of `block` entries each lie along `axis` of `rank` axes."""

    axis: int
    rank: int
    channels: int
    block: int = 1

    @property
    def size(self) -> int:
        """Entries along the axis."""
        return self.channels * self.block


def moved(node: ir.Node, before: Layout) -> Layout | None:
    """Where a node takes the channels of its first input (of its weight's rows, for a layer); None where they do not stay apart, or nobody knows."""
    match node.op_type:
        case "Conv" | "ConvTranspose":
            return replace(before, axis=1)
        case "Gemm":
            return replace(before, axis=1, rank=2)
        case "MatMul":
            dims = known_dims(node.outputs[0])
            return Layout(len(dims) - 1, len(dims), before.channels) if dims else None
        case "Transpose":
            return _transposed(node, before)
        case "Squeeze":
            return _without(axes_of(node, before.rank), before)
        case "Flatten":
            return _flattened(node, before) if node.attributes.get_int("axis", 1) in (1, 1 - before.rank) else None
        case "Reshape":
            return _flattened(node, before) if _is_flattening(node) else None
        case "Pad":
            return before if before.axis not in padded_axes(node, before.rank) else None
        case operator if operator in POOLS:
            return before if before.axis == 1 else None
        case operator if operator in REDUCTIONS:
            axes = axes_of(node, before.rank)
            if axes is None or before.axis in axes:
                return None
            return before if node.attributes.get_int("keepdims", 1) else _without(axes, before)
    return None


def axes_of(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes that a reduction or Squeeze names, from 0 on."""
    axes: Sequence[int] | None = node.attributes.get_ints("axes")
    if axes is None and len(node.inputs) > 1:
        array = small_array(node.inputs[1])
        axes = None if array is None else [int(axis) for axis in array.reshape(-1)]
    return tuple(axis % rank for axis in axes) if axes else None


def padded_axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes that a Pad changes; all of them where that is not known."""
    pads: Sequence[int] | None = node.attributes.get_ints("pads")
    if pads is None and len(node.inputs) in (2, 3):
        array = small_array(node.inputs[1])
        pads = None if array is None else [int(size) for size in array]
    if pads is None or len(pads) != 2 * rank:
        return tuple(range(rank))
    return tuple(axis for axis in range(rank) if pads[axis] or pads[axis + rank])


def _transposed(node: ir.Node, before: Layout) -> Layout | None:
    order = node.attributes.get_ints("perm", tuple(reversed(range(before.rank))))
    return replace(before, axis=tuple(order).index(before.axis)) if order is not None and len(order) == before.rank else None


def _without(axes: Sequence[int] | None, before: Layout) -> Layout | None:
    if axes is None or before.axis in axes:
        return None
    return replace(before, axis=before.axis - sum(axis < before.axis for axis in axes), rank=before.rank - len(axes))


def _flattened(node: ir.Node, before: Layout) -> Layout | None:
    """[N, C, ...] to [N, C * ...], where the sizes behind C are known."""
    dims = known_dims(node.inputs[0])
    if before.axis != 1 or dims is None or len(dims) != before.rank:
        return None
    sizes = [size for size in dims[2:] if isinstance(size, int)]
    return Layout(1, 2, before.channels, before.block * prod(sizes)) if len(sizes) == before.rank - 2 else None


def _is_flattening(node: ir.Node) -> bool:
    """A Reshape to [N, -1] that names no number of channels."""
    target = small_array(node.inputs[1]) if len(node.inputs) > 1 else None
    dims = known_dims(node.inputs[0])
    if target is None or target.size != 2 or dims is None or node.attributes.get_int("allowzero", 0) != 0:
        return False
    first, last = (int(size) for size in target)
    return last == -1 and first in (0, dims[0])
