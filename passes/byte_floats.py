"""Small float tensors (biases, normalisation) in 8 bits: level * scale in standard operators, which onnxruntime folds when it creates a session.

Vectors whose lengths are multiples of one length g share a chain: levels int8 [blocks, g], a float16 scale a block, Cast, Mul, Reshape, Split. Tensors of
higher rank have a chain of their own with one scale, and one that ends in zeros (the second bias of an LSTM, `recurrent_bias.py`) a Pad instead of these.

    value = float(level) * float(scale),  level = round(value / scale) in -127..127,  scale = float16(largest of the block / 127)
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import gcd

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .small_floats import Restorer, is_relative, small_floats

LARGEST = 127
"""Of levels."""

LEAST_SCALE, LARGEST_SCALE = 2.0**-18, 2.0**15
"""float16 holds scales in this range to 1 %; smaller ones count as the least."""

LEAST_OPSET = 7
"""Before, Mul did not broadcast as it does now."""

CHAIN_BYTES, ALONE_BYTES, PAD_BYTES = 110.0, 40.0, 65.0
"""What the nodes and shapes of a chain of vectors, of a tensor by itself and of a Pad take beside the one Cast (and Split) that 16 bits take, too."""

SCALE_BYTES = 2.0

PAD_INPUT_OPSET = 11
"""From here on Pad takes its pads as an input instead of an attribute."""


def eligible(model: ir.Model, untouchable: Container[str]) -> list[ir.Value]:
    """Small floats that 8 bits can hold: no relative operator reads them, and one scale covers them."""
    if model.graph.opset_imports.get("", 1) < LEAST_OPSET:
        return []
    return [value for value in small_floats(model, untouchable) if not is_relative(value) and _in_range(_array(value))]


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)


def _in_range(values: NDArray[np.float32]) -> bool:
    largest = float(np.abs(values).max(initial=0.0))
    return LEAST_SCALE * LARGEST <= largest <= LARGEST_SCALE * LARGEST


def coded(blocks: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """(levels, scales [.., 1]) of blocks [.., g]."""
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    scales = np.maximum(largest / np.float32(LARGEST), np.float32(LEAST_SCALE)).astype(np.float16)
    levels = np.clip(np.rint(blocks / scales.astype(np.float32)), -LARGEST, LARGEST)
    return levels.astype(np.int8), scales


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values as one block holds them: what smaller blocks do is no worse."""
    levels, scales = coded(values.reshape(1, -1))
    return (levels.astype(np.float32) * scales.astype(np.float32)).reshape(values.shape)


@dataclass(frozen=True, slots=True)
class Chain:
    """Vectors that share nodes: their names, the length of a block, and the bytes that 8 bits save against 16."""

    names: tuple[str, ...]
    block: int
    saved_bytes: float


def chains(sizes: Mapping[str, int]) -> list[Chain]:
    """The chains that save most, one after the other, of vectors with these lengths; what is in none stays in 16 bits."""
    left, found = dict(sizes), []
    while left:
        lengths = set(left.values())
        blocks = lengths | {gcd(one, other) for one, other in combinations(lengths, 2)}
        best = max((_chain(left, block) for block in sorted(blocks)), key=lambda chain: chain.saved_bytes)
        if best.saved_bytes <= 0:
            break
        found.append(best)
        left = {name: size for name, size in left.items() if name not in best.names}
    return found


def _chain(sizes: Mapping[str, int], block: int) -> Chain:
    names = tuple(name for name, size in sizes.items() if size % block == 0)
    values = sum(sizes[name] for name in names)
    return Chain(names, block, values - SCALE_BYTES * values / block - CHAIN_BYTES)


def saved_bytes(values: Sequence[ir.Value]) -> dict[str, float]:
    """What each of these saves in 8 bits against 16, by name, its share of a chain where it is in one; those that save nothing are left out."""
    found: dict[str, float] = {}
    for chain in chains({str(value.name): value.const_value.size for value in values if _is_vector(value)}):  # type: ignore[union-attr]
        sizes = {str(value.name): value.const_value.size for value in values if value.name in chain.names}  # type: ignore[union-attr]
        found |= {name: chain.saved_bytes * size / sum(sizes.values()) for name, size in sizes.items()}
    alone = {str(value.name): value.const_value.size - ALONE_BYTES for value in values if not _is_vector(value)}  # type: ignore[union-attr]
    return found | {name: saved for name, saved in alone.items() if saved > 0}


def store_in_bytes(model: ir.Model, names: Container[str]) -> tuple[str, ...]:
    """Stores the eligible tensors with these names in 8 bits, as far as that saves bytes; gives the names of those that moved."""
    values = [value for value in eligible(model, ()) if value.name in names]
    restorer, moved = Restorer(model), saved_bytes(values)
    pads: dict[tuple[int, ...], ir.Value] = {}
    for value in (value for value in values if value.name in moved and not _is_vector(value)):
        restorer.replace(value, _alone(restorer, _array(value), pads))
    for chain in chains({str(value.name): value.const_value.size for value in values if _is_vector(value)}):  # type: ignore[union-attr]
        _together(restorer, [value for value in values if value.name in chain.names], chain.block)
    return tuple(moved)


def _is_vector(value: ir.Value) -> bool:
    return value.const_value is not None and len(value.const_value.shape) == 1


def _together(restorer: Restorer, values: Sequence[ir.Value], block: int) -> None:
    levels, scales = coded(np.concatenate([_array(value) for value in values]).reshape(-1, block))
    parts = [restorer.to_float(restorer.constant("small_levels", levels)), restorer.to_float(restorer.constant("small_scales", scales))]
    flat = restorer.node("Reshape", [*restorer.node("Mul", parts), restorer.constant("small_shape", np.array([-1], np.int64))])
    sizes = [value.const_value.size for value in values]  # type: ignore[union-attr]
    pieces = restorer.split(flat[0], sizes) if len(sizes) > 1 else flat
    for value, piece in zip(values, pieces, strict=True):
        restorer.replace(value, piece)


def _alone(restorer: Restorer, array: NDArray[np.float32], pads: dict[tuple[int, ...], ir.Value]) -> ir.Value:
    """A tensor with one scale; zeros at the end of the last axis, if there are enough, by a Pad; `pads` are those that others have."""
    zeros = array.shape[-1] - int(np.flatnonzero(array.any(axis=tuple(range(array.ndim - 1)))).max(initial=-1)) - 1
    padded = zeros * array.size // array.shape[-1] > PAD_BYTES
    kept = array[..., : array.shape[-1] - zeros] if padded else array
    levels, scales = coded(kept.reshape(1, -1))
    parts = [restorer.to_float(restorer.constant("small_levels", levels.reshape(kept.shape))), restorer.constant("small_scale", scales.astype(np.float32).reshape(()))]
    value = restorer.node("Mul", parts)[0]
    if not padded:
        return value
    sizes = (*[0] * (2 * array.ndim - 1), zeros)
    if restorer.opset < PAD_INPUT_OPSET:
        return restorer.node("Pad", [value], {"pads": list(sizes)})[0]
    if sizes not in pads:
        pads[sizes] = restorer.constant("small_pads", np.array(sizes, np.int64))
    return restorer.node("Pad", [value, pads[sizes]])[0]
