"""Cuts: the top mantissa bit of floats, coded by what the exponent says of it (FORMAT.md, section 5, Planes with bit 3).

Weights are fewer the larger they are, so of two halves of an octave the lower one has more: up to 0.7 of the largest octaves' weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..runtime.members import EVEN_CUT, MOST_CLASSES

CUT_BITS = 8
MOST_CUTS = 15


def choose(counts: NDArray[np.int64], share: float) -> tuple[NDArray[np.uint8], float]:
    """(cuts uint8 [tables, 16], the bits that they save): of counts [tables, 16, 2] of a `share` of all values."""
    total = counts.sum(2)
    cuts = np.clip(np.rint(256 * (counts[..., 0] + 1) / (total + 2)), 1, 255)
    saved = (total + (counts * np.log2(np.stack([cuts, 256 - cuts], -1) / 256)).sum(2)) / share
    found, bits = np.full(counts.shape[:2], EVEN_CUT, np.uint8), 0.0
    for row, of_table, cut in zip(found, saved, cuts, strict=True):
        (pays,) = np.nonzero(of_table > CUT_BITS)
        bits -= CUT_BITS
        if len(pays):
            first, last = max(int(pays[0]), int(pays[-1]) - MOST_CUTS + 1), int(pays[-1]) + 1
            row[first:last] = cut[first:last]
            bits += float(of_table[first:last].sum()) - CUT_BITS * (last - first)
    return found, bits


def cut_bytes(cuts: NDArray[np.uint8]) -> bytes:
    """The cuts of all tables, as they stand in a header."""
    out = b""
    for row in cuts:
        (own,) = np.nonzero(row != EVEN_CUT)
        first, last = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
        out += bytes([first | (last - first) * MOST_CLASSES]) + row[first:last].tobytes()
    return out
