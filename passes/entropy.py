"""The R8 encoder (FORMAT.md, sections 3, 6 and 7). The decoder is `runtime/rans.py`.

After: Duda 2013 (arXiv:1311.2540). Symbols are encoded in the reverse of the decoding order; bytes are written from the end to the front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Table

MAX_CLASSES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """An encoded stream: the sections of FORMAT.md."""

    rans: NDArray[np.uint8]
    heads: NDArray[np.uint16]


@numba.njit(cache=True, nogil=True)
def _encode(table_of: NDArray, class_of: NDArray, frequency: NDArray, start: NDArray, steps: NDArray, states: NDArray, out: NDArray) -> int:
    """Encodes `class_of` (class indices in decoding order, `steps[i]` of them in step i, lanes ascending) into the end of `out`; returns where the bytes begin."""
    position, at = len(out), len(class_of)
    for step in range(len(steps) - 1, -1, -1):
        for lane in range(steps[step] - 1, -1, -1):
            at -= 1
            f = frequency[table_of[at], class_of[at]]
            x = states[lane]
            if x >= f << 8:
                position -= 1
                out[position] = x & 255
                x >>= 8
            states[lane] = ((x // f) << 8) + x % f + start[table_of[at], class_of[at]]
    return position


def encode(tables: tuple[Table, ...], table_of: NDArray[np.uint8], class_of: NDArray[np.uint8], steps: NDArray[np.int64]) -> Stream:
    """Encodes class indices, which stand in decoding order, with the table of each; `steps` says how many lanes each step has.

    Every frequency that is used must be at least 1.
    """
    frequency, start = _frequency_arrays(tables)
    states = np.full(int(steps.max(initial=1)), 256, np.uint32)
    out = np.empty(2 * len(class_of) + 16, np.uint8)
    position = _encode(table_of, class_of, frequency, start, steps, states, out)
    return Stream(out[position:].copy(), states.astype(np.uint16))


def _frequency_arrays(tables: tuple[Table, ...]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    frequency = np.zeros((len(tables), MAX_CLASSES), np.uint32)
    for row, table in zip(frequency, tables, strict=True):
        row[: len(table.frequencies)] = table.frequencies
    return frequency, (np.cumsum(frequency, axis=1) - frequency).astype(np.uint32)
