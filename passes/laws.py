"""Laws: what tables say of each class value and of its cut bit, as the coder's kernels want it (for `planes`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.members import MOST_CLASSES
from .tables import Coding


@dataclass(frozen=True, slots=True, eq=False)
class Laws:
    """`numbers` int32 [tables, values] and `index` uint8 [tables, values]: the law of each class value up to the largest, and its class index.

    `bits` int32 [tables, 2 * values] are the laws of its cut bit, at 2 * value + bit. A law is frequency + 512 * start as float32, negative where the value escapes,
    as the difference to `base`, and seen as an int32.
    """

    base: int
    numbers: NDArray[np.int32]
    index: NDArray[np.uint8]
    bits: NDArray[np.int32]

    @property
    def escapes(self) -> bool:
        """Whether a value escapes."""
        return bool(self.numbers.min() < 0)

    def with_cuts(self, cuts: NDArray[np.uint8] | None) -> Laws:
        """The same with laws of cut bits, of `cuts` [tables, 16]; None where there are none."""
        if cuts is None:
            return self
        bits = np.empty((*self.index.shape, 2), np.float32)
        _fill_bits(cuts, self.index, bits)
        return replace(self, bits=bits.reshape(len(bits), -1).view(np.int32))


def laws_of(coding: Coding, largest: int) -> Laws:
    """The laws of class values up to `largest`, without cuts."""
    tables = coding.tables
    frequencies = np.zeros((len(tables), MOST_CLASSES), np.int64)
    for row, table in zip(frequencies, tables, strict=True):
        row[: len(table.frequencies)] = table.frequencies
    windows = np.array([(table.first, len(table.frequencies), table.escape) for table in tables], np.int64)
    numbers, index = np.zeros((len(tables), largest + 1), np.float32), np.empty((len(tables), largest + 1), np.uint8)
    _fill(frequencies, windows, coding.escape_base, numbers, index)
    return Laws(coding.escape_base, numbers.view(np.int32), index, np.zeros((1, 1), np.int32))


@numba.njit(cache=True, nogil=True)
def _fill(frequencies: NDArray, windows: NDArray, base: int, numbers: NDArray, index: NDArray) -> None:
    """Laws of tables with `frequencies` [tables, 16] and `windows` (first class value, classes, escape) [tables, 3]."""
    for table in range(len(windows)):
        first, classes, escape = windows[table]
        total = frequencies[table].sum()
        last = frequencies[table, classes - 1] + 512.0 * (total - frequencies[table, classes - 1])
        numbers[table, base:], index[table] = np.float32(-last if escape else last), classes - 1
        start = 0
        for c in range(classes - 1 if escape else classes):
            frequency, value = frequencies[table, c], first + c
            if frequency > 0 and 0 <= value < numbers.shape[1]:
                numbers[table, value], index[table, value] = np.float32(frequency + 512 * start), c
            start += frequency


@numba.njit(cache=True, nogil=True)
def _fill_bits(cuts: NDArray, index: NDArray, bits: NDArray) -> None:
    for table in range(len(index)):
        for value in range(index.shape[1]):
            cut = np.int64(cuts[table, index[table, value]])
            bits[table, value, 0], bits[table, value, 1] = np.float32(cut), np.float32(256 - cut + 512 * cut)
