"""What is looked at before a weight becomes Planes: the bits that its words have, and their top fields (FORMAT.md, sections 5 and 6).

Words are the unsigned integers of the values' bits, seen as [rows, k], one axis of which is far apart in memory: loops over both go in blocks.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 64


@numba.njit(cache=True, nogil=True)
def row_unions(words: NDArray, unions: NDArray, shift: int, mask: int, tops: NDArray) -> None:
    """The OR of all words of each row, into `unions` [rows]; (word >> shift) & mask of all, into `tops` [rows, k]."""
    rows, k = words.shape
    by, bits = words.dtype.type(shift), words.dtype.type(mask)
    for first in range(0, rows, BLOCK):
        last = min(first + BLOCK, rows)
        for step in range(0, k, BLOCK):
            for row in range(first, last):
                union = unions[row]
                for at in range(step, min(step + BLOCK, k)):
                    word = words[row, at]
                    union |= word
                    tops[row, at] = (word >> by) & bits
                unions[row] = union


@numba.njit(cache=True, nogil=True)
def bounds(words: NDArray, delta: bool) -> tuple[int, int]:
    """The least and the largest of words (or of their differences along a row, the first value counted as one), as signed integers."""
    rows, k = words.shape
    low, high = np.int64(0x7FFFFFFFFFFFFFFF), np.int64(-0x8000000000000000)
    for row in range(rows):
        before = np.int64(0)
        for at in range(k):
            value = np.int64(words[row, at])
            difference = value - before if delta else value
            before = value
            low, high = min(low, difference), max(high, difference)
    return int(low), int(high)


@numba.njit(cache=True, nogil=True)
def subtract(words: NDArray, delta: bool, base: np.uint64, out: NDArray) -> None:
    """Words (or their differences) minus `base`, modulo 2^64, into `out` uint64 [rows, k]."""
    rows, k = words.shape
    for row in range(rows):
        before = np.uint64(0)
        for at in range(k):
            value = np.uint64(words[row, at])
            out[row, at] = (value - before if delta else value) - base
            before = value
