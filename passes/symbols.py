"""Symbols: levels to class indices, table numbers, raw parts and escapes, in decoding order (FORMAT.md, section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Table
from .histograms import NO_QUANTIZERS
from .members import Coded

ESCAPE = 16
"""Marks, beside the class index, a class value that escapes."""


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """Symbols in decoding order: `index` and `table` uint8 [n], `raw` uint8 [n, raw bits] (a bit each), `escapes` uint8 [m]."""

    index: NDArray[np.uint8]
    table: NDArray[np.uint8]
    raw: NDArray[np.uint8]
    escapes: NDArray[np.uint8]


@numba.njit(cache=True, nogil=True)
def _classify(levels: NDArray, quantizers: NDArray, classes: tuple[NDArray, NDArray, NDArray], lookup: NDArray, origin: tuple[int, int],
              out: tuple[NDArray, NDArray, NDArray, NDArray]) -> int:  # fmt: skip
    """Fills `out` (index, table, raw, escapes) for levels [groups, lanes, k], group by group, step by step, lane by lane; gives the number of escapes.

    `classes`: row class [groups * lanes], column class [k], table numbers [row class, column class, quantizer]; `origin`: (raw bits, escape base).
    """
    row_class, column_class, numbers = classes
    index, table, raw, escapes = out
    raw_bits, base = origin
    half = (1 << raw_bits) >> 1
    groups, lanes, k = levels.shape
    two = numbers.shape[2] == 2
    at, escaped = 0, 0
    for group in range(groups):
        for step in range(k):
            for lane in range(lanes):
                shifted = levels[group, lane, step] + half
                offset = (shifted >> raw_bits) - base
                number = numbers[row_class[group * lanes + lane], column_class[step], quantizers[group, lane, step] if two else 0]
                code = lookup[number, offset]
                index[at], table[at] = code & 15, number
                for bit in range(raw_bits):
                    raw[at, bit] = shifted >> bit & 1
                if code & ESCAPE:
                    escapes[escaped] = offset
                    escaped += 1
                at += 1
    return escaped


def classify(coded: Coded, tables: tuple[Table, ...], levels: NDArray[np.int32], quantizers: NDArray[np.uint8] | None, rows: NDArray[np.uint8] | None) -> Classified:
    """The symbols of levels [groups, lanes, k], of which `rows` [groups * lanes] are the row classes; `tables` are those of the payload."""
    coding = coded.coding
    groups, lanes, k = levels.shape
    lookup = np.stack([_class_lookup(table, coding.escape_base) for table in tables])
    row_class = np.zeros(groups * lanes, np.uint8) if rows is None else rows
    column_class = np.zeros(k, np.uint8) if coding.column_class is None else coding.column_class
    out = (
        np.empty(levels.size, np.uint8),
        np.empty(levels.size, np.uint8),
        np.empty((levels.size, coding.raw_bits), np.uint8),
        np.empty(levels.size, np.uint8),
    )
    escaped = _classify(
        levels,
        NO_QUANTIZERS if quantizers is None else quantizers,
        (row_class, column_class, coded.numbers),
        lookup,
        (coding.raw_bits, coding.escape_base),
        out,
    )
    index, table, raw, escapes = out
    return Classified(index, table, raw, escapes[:escaped].copy())


def _class_lookup(table: Table, low: int) -> NDArray[np.uint8]:
    """Class index, with ESCAPE where it is the escape's, of the class values low..low + 255."""
    codes = np.full(256, len(table.frequencies) - 1 | table.escape * ESCAPE, np.uint8)
    for number in range(len(table.frequencies) - table.escape):
        value = table.first + number - low
        if table.frequencies[number] and 0 <= value < 256:
            codes[value] = number
    return codes
