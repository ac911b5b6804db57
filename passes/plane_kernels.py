"""What is looked at before a weight becomes Planes: the bits that its words have, and how often there is which top field (FORMAT.md, sections 5 and 6).

Words are the unsigned integers of the values' bits, and arrays are as they lie in memory: [rows, k], or [k, rows] where they are `turned`.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS


@numba.njit(cache=True, nogil=True)
def _join(words: NDArray, unions: NDArray) -> None:
    for at in range(len(words)):
        unions[at] |= words[at]


@numba.njit(cache=True, nogil=True)
def _joined(words: NDArray) -> int:
    union = words[0]
    for at in range(len(words)):
        union = words.dtype.type(union | words[at])  # numba would make it 64 bits
    return union


@numba.njit(cache=True, nogil=True)
def _bound(values: NDArray, bounds: NDArray) -> None:
    """Extends `bounds`, [3] of the same type: the least of all values, the least that is not 0, less 1, and the largest."""
    least, low, high = bounds
    for at in range(len(values)):
        value = values[at]
        least, low, high = min(least, value), min(low, values.dtype.type(value - 1)), max(high, value)  # of 0, less 1 is the largest number
    bounds[0], bounds[1], bounds[2] = least, low, high


@numba.njit(cache=True, nogil=True)
def survey(words: NDArray, field: tuple[int, int], lines: NDArray, columns: NDArray, tops: NDArray) -> tuple[int, int, int]:
    """The OR of all words [n, length] of each line, into `lines` [n], and of each column, onto `columns` [length]; of all, (word >> shift) & mask, into `tops`.

    `field`: (shift, mask). Gives the least of `tops`, the least that is not 0, if there is one, and the largest.
    """
    by, mask = words.dtype.type(field[0]), words.dtype.type(field[1])
    bounds = np.zeros(3, tops.dtype)
    bounds[:2] -= tops.dtype.type(1)
    for number in range(len(words)):
        line, out = words[number], tops[number]
        _join(line, columns)
        lines[number] = _joined(line)
        for at in range(len(line)):
            out[at] = (line[at] >> by) & mask
        _bound(out, bounds)
    return int(bounds[0]), int(bounds[1]) + 1, int(bounds[2])


@numba.njit(cache=True, nogil=True)
def zeros_at_end(words: NDArray, most: int) -> NDArray:
    """How many zero bits each word ends with, at most `most`: int64 [n]."""
    zeros = np.empty(len(words), np.int64)
    for at in range(len(words)):
        word, many = np.uint64(words[at]), 0
        while many < most and not word & np.uint64(1):
            word, many = word >> np.uint64(1), many + 1
        zeros[at] = many
    return zeros


@numba.njit(cache=True, nogil=True)
def count(tops: NDArray, turned: bool, place: tuple[int, int, int], units: NDArray, columns: NDArray) -> None:
    """Counts class values by unit of rows and by column, in `units` [units, values] and `columns` [k, values].

    `place`: (the value that counts as 0, as do those below it; the number of the first line; rows of a unit).
    """
    least, first, unit_rows = np.uint64(place[0]), place[1], place[2]
    for number in range(len(tops)):
        line = tops[number]
        for start in range(0, len(line), unit_rows if turned else len(line)):
            unit = units[start // unit_rows if turned else (first + number) // unit_rows]
            for at in range(start, min(start + unit_rows, len(line)) if turned else len(line)):
                value = max(np.uint64(line[at]), least) - least
                unit[value] += 1
                columns[np.uint64(first + number if turned else at), value] += 1


@numba.njit(cache=True, nogil=True)
def count_joint(tops: NDArray, turned: bool, place: tuple[int, int, int], of_column: NDArray, units: NDArray) -> None:
    """The same by unit and class of the column, uint8 [k], in `units` [units, column classes, values]."""
    least, first, unit_rows = np.uint64(place[0]), place[1], place[2]
    for number in range(len(tops)):
        line = tops[number]
        if turned:
            for start in range(0, len(line), unit_rows):
                unit = units[start // unit_rows, of_column[first + number]]
                for at in range(start, min(start + unit_rows, len(line))):
                    unit[max(np.uint64(line[at]), least) - least] += 1
        else:
            own = units[(first + number) // unit_rows]
            for at in range(len(line)):
                own[np.uint64(of_column[at]), max(np.uint64(line[at]), least) - least] += 1


@numba.njit(cache=True, nogil=True)
def count_halves(words: NDArray, turned: bool, place: tuple[int, int, int], tables: NDArray, counts: NDArray) -> None:
    """Counts (word >> shift) & mask, a class value with the bit below it, of some lines of words, by their table, in `counts` [tables, 2 * values].

    `place`: (shift, mask, lines from one that is counted to the next); `tables` [panels, columns].
    """
    by, mask, apart = np.uint64(place[0]), np.uint64(place[1]), place[2]
    for number in range(0, len(words), apart):
        line = words[number]
        if turned:
            for panel in range(len(tables)):
                own = counts[tables[panel, number]]
                for at in range(panel * PANEL_ROWS, min((panel + 1) * PANEL_ROWS, len(line))):
                    own[(np.uint64(line[at]) >> by) & mask] += 1
        else:
            of_column = tables[number // PANEL_ROWS]
            for at in range(len(line)):
                counts[of_column[at], (np.uint64(line[at]) >> by) & mask] += 1


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
