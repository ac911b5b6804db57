"""Structure that a tensor of floats has exactly: few distinct values, mostly zeros, integers times a scale a row or block.

What is found is a proposal: `optimizer/exact.py` decodes it and compares every bit.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

EXPONENT_MASK = {1: 0x7F800000, 10: 0x7C00, 16: 0x7F80}
MOST_VALUES = {1: 65536, 10: 512, 16: 512}
"""Of 16-bit floats more distinct values are usual, and do not pay."""

BLOCKS = np.array([0, 16, 32, 64, 128, 256])
"""Values that may share a scale; 0: a row."""

LARGEST_LEVEL = 255
"""Levels of dequantized weights: 8 bits, with a zero point."""

SAMPLE = 4096
"""Values that are looked at first: where a quarter of them is distinct, so will be too many of the rest."""

SPARSE_SAMPLE = 0.75
"""Where more of the sample is not zero, more than half of all will not be."""

MOST_DIVISORS = 16
"""The smallest non-zero magnitude of a block is sought as this many times the scale at most."""


def few_values(bits: NDArray, dtype: int) -> tuple[NDArray, NDArray[np.int32]] | None:
    """(distinct values, sorted; the number of each) of bits of any shape; None where there are too many to pay, or a NaN or an infinity."""
    most = min(MOST_VALUES[dtype], max(1, bits.size // 8))
    flat = bits.reshape(-1)
    sample = np.sort(_sample(flat))
    if np.count_nonzero(sample[1:] != sample[:-1]) + 1 > min(most, max(1, len(sample) // 4)):
        return None
    values, codes = np.unique(flat, return_inverse=True)
    mask = EXPONENT_MASK[dtype]
    if len(values) > most or ((values & mask) == mask).any():
        return None
    order = np.argsort(as_float(values, dtype), kind="stable")
    place = np.empty(len(values), np.int32)
    place[order] = np.arange(len(values), dtype=np.int32)
    return values[order], place[codes].reshape(bits.shape)


def _sample(flat: NDArray) -> NDArray:
    """Some values; an odd number apart, so that they are of all columns where there are 2^n."""
    return flat[:: flat.size // SAMPLE | 1]


def as_float(bits: NDArray, dtype: int) -> NDArray[np.float32]:
    """The float32 values of bits of a float, float16 or bfloat16."""
    if dtype == 1:
        return bits.view(np.float32)
    return bits.view(np.float16).astype(np.float32) if dtype == 10 else (bits.astype(np.uint32) << 16).view(np.float32)


def sparse_mask(bits: NDArray, dtype: int) -> NDArray[np.bool_] | None:
    """Where values are not +0, if these are at most half of all; None also where one is a NaN or infinite."""
    flat = bits.reshape(-1)
    sample = _sample(flat)
    if np.count_nonzero(sample) > SPARSE_SAMPLE * len(sample) or np.count_nonzero(flat) * 2 > bits.size:
        return None
    kept = bits != 0
    mask = EXPONENT_MASK[dtype]
    return None if ((bits[kept] & mask) == mask).any() else kept


def grid(bits: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.int32], int] | None:
    """(scales [rows * blocks], levels [batch, rows, k], block) with round32(scale * level) = value, to the bit; None where there are none."""
    batch, rows, k = bits.shape
    first = np.ascontiguousarray(bits[0, 0]).view(np.float32)
    for block in BLOCKS[_with_scales(first)].tolist():
        found = _of_blocks(np.ascontiguousarray(bits).view(np.float32).reshape(batch * rows, k), block)
        if found is not None:
            scales, levels = found
            if block == 0 and (scales == scales[0, 0]).all():
                scales = scales[:1]
            return scales.reshape(-1), levels.reshape(bits.shape), block
    return None


def _of_blocks(values: NDArray[np.float32], block: int) -> tuple[NDArray[np.float32], NDArray[np.int32]] | None:
    """(scales [rows, blocks], levels [rows, k]) of values [rows, k]; of whole rows where `block` is 0."""
    k = values.shape[1]
    scales, levels = np.empty((len(values), -(-k // block) if block else 1), np.float32), np.empty(values.shape, np.int32)
    return (scales, levels) if _grid(values, block or k, scales, levels) else None


@numba.njit(cache=True, nogil=True)
def _with_scales(row: NDArray) -> NDArray:
    """Which of `BLOCKS` have scales in a row, bool [n]; none where a value is not finite."""
    found = np.zeros(len(BLOCKS), np.bool_)
    for number in range(len(BLOCKS) if np.isfinite(row).all() else 0):
        each, first = BLOCKS[number] or len(row), 0
        found[number] = BLOCKS[number] < len(row)
        while found[number] and first < len(row):
            found[number], first = _scale(row[first : first + each]) != 0, first + each
    return found


@numba.njit(cache=True, nogil=True)
def _grid(values: NDArray, block: int, scales: NDArray, levels: NDArray) -> bool:
    """Scales and levels of all blocks; false at the first that has none."""
    rows, k = values.shape
    for row in range(rows):
        for number in range(scales.shape[1]):
            first, last = number * block, min(k, (number + 1) * block)
            scale = _scale(values[row, first:last])
            if scale == 0:
                return False
            scales[row, number] = scale
            for at in range(first, last):
                levels[row, at] = np.int32(np.rint(values[row, at] / scale))
    return True


@numba.njit(cache=True, nogil=True)
def _scale(values: NDArray) -> np.float32:
    """A scale whose integer multiples, rounded, are the values; 0 where there is none, 1 where all are zero."""
    least, most = np.float32(np.inf), np.float32(0)
    for value in values:
        size = abs(value)
        if value == 0 and math.copysign(1.0, value) < 0:
            return np.float32(0)  # -0 is no multiple
        if size > 0:
            least, most = min(least, size), max(most, size)
    if most == 0:
        return np.float32(1)
    if not most < np.inf or most > least * np.float32(LARGEST_LEVEL * MOST_DIVISORS):
        return np.float32(0)
    for divisor in range(1, MOST_DIVISORS + 1):
        level = np.rint(most / (least / np.float32(divisor)))
        if level > LARGEST_LEVEL:
            break
        guess = np.float32(np.float64(most) / level)
        scale = np.nextafter(np.nextafter(guess, np.float32(0)), np.float32(0))
        for _ in range(5):
            if _fits(values, scale):
                return scale
            scale = np.nextafter(scale, np.float32(np.inf))
    return np.float32(0)


@numba.njit(cache=True, nogil=True)
def _fits(values: NDArray, scale: np.float32) -> bool:
    for value in values:
        level = np.float32(np.rint(value / scale))
        if np.float32(scale * level) != value or abs(level) > LARGEST_LEVEL:
            return False
    return True
