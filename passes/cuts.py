"""Cuts: the top mantissa bit of floats, coded by what the exponent says of it (FORMAT.md, section 5, Planes with bit 3).

Weights are fewer the larger they are, so of two halves of an octave the lower one has more: up to 0.7 of the largest octaves' weights.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.members import EVEN_CUT, MOST_CLASSES

CUT_BITS = 8
MOST_CUTS = 15


def choose(counts: NDArray, index: NDArray[np.uint8], share: float) -> tuple[NDArray[np.uint8], float]:
    """(cuts uint8 [tables, 16], the bits that they save): of counts [tables, values, 2] of a `share` of all values; `index` [tables, values] are their class indexes."""
    found = np.full((len(counts), MOST_CLASSES), EVEN_CUT, np.uint8)
    return found, _choose(counts, index, share, found)


@numba.njit(cache=True, nogil=True)
def _choose(counts: NDArray, index: NDArray, share: float, found: NDArray) -> float:
    bits = 0.0
    saved, cuts = np.empty(MOST_CLASSES), np.empty(MOST_CLASSES, np.uint8)
    for table in range(len(counts)):
        halves = np.zeros((MOST_CLASSES, 2), np.int64)
        for value in range(index.shape[1]):
            halves[index[table, value]] += counts[table, value]
        first, last = MOST_CLASSES, 0
        for c in range(MOST_CLASSES):
            zero, one = halves[c]
            cut = min(max(np.rint(256 * (zero + 1) / (zero + one + 2)), 1.0), 255.0)
            cuts[c] = np.uint8(cut)
            saved[c] = (zero + one + zero * np.log2(cut / 256) + one * np.log2((256 - cut) / 256)) / share
            if saved[c] > CUT_BITS:
                first, last = min(first, c), c + 1
        first = max(first, last - MOST_CUTS)
        bits -= CUT_BITS
        for c in range(first, last):
            found[table, c] = cuts[c]
            bits += saved[c] - CUT_BITS
    return bits


def cut_bytes(cuts: NDArray[np.uint8]) -> bytes:
    """The cuts of all tables, as they stand in a header."""
    out, even = b"", bytes([EVEN_CUT])
    for row in cuts:
        rest = row.tobytes().lstrip(even)
        own = rest.rstrip(even)
        out += bytes([(MOST_CLASSES - len(rest) if own else 0) | len(own) * MOST_CLASSES]) + own
    return out
