"""Trellis-coded levels: two quantizers interleaved on one grid, and a state of eight that says which of them comes next (FORMAT.md, section 5).

A row starts in state 0. In state s the quantizer is q = s & 1; a level l then stands for the multiple m of the scale,

    m = 2 l - q sign(l)          (q = 0: even multiples; q = 1: odd multiples and zero)

and the next state is NEXT[s][l & 1]. Each quantizer alone has twice the step, so it costs a bit less; the path between the two keeps the density of
the fine grid. After: Marcellin and Fischer 1990, "Trellis coded quantization"; the two quantizers are those of dependent quantization (Schwarz,
Nguyen, Marpe and Wiegand 2019).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STATES = 8

NEXT = np.array([[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]], np.uint8)
"""The state that follows state s on a level of parity p."""


def quantizers(levels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The quantizer (0 or 1) of each level of [.., k], of the same shape."""
    parity = np.ascontiguousarray(np.moveaxis((levels & 1).astype(np.uint8), -1, 0))  # steps first: one after the other in memory
    found = np.empty(parity.shape, np.uint8)
    state = np.zeros(levels.shape[:-1], np.uint8)
    for step, odd in enumerate(parity):
        found[step] = state & 1
        state = NEXT.reshape(-1)[state << 1 | odd]
    return np.ascontiguousarray(np.moveaxis(found, 0, -1))


def multiples(levels: NDArray[np.int32]) -> NDArray[np.int32]:
    """What the levels [.., k] stand for, in units of the scale."""
    return np.asarray(2 * levels - quantizers(levels) * np.sign(levels), np.int32)
