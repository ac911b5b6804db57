"""One chunk of Planes in one pass (FORMAT.md, sections 5 and 6): words to symbols, symbols to a stream, raw bits and bytes beside it.

"Folded" are words with the sign behind the exponent, in decoding order: [steps, lanes]. A block of steps at a time is folded, into memory that stays in the
second cache, and coded from there, the last block first. Loops over the 64 lanes of a panel are kept apart from what depends on the lane before, so that they
become vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS
from .raw_kernels import Layout, order_rows, store_bits, store_planes, store_ragged

STEPS = 256
"""Steps that are folded at a time: of 256 lanes of float32, 256 KB. Of rows far apart, fewer would be too few neighbouring bytes to be fetched ahead."""

TILE_LANES, TILE_STEPS = 8, 16
"""What is transposed at a time, a row of the result after the other: few lines of the first cache are read and written."""


class Law(NamedTuple):
    """What a table says of each class value: `symbols` and `bits` [tables, values], frequency + 512 * start as float32, whose bits are seen as int32.

    Negative ones escape, as the difference to `base`. The law of a cut bit stands at 2 * value + bit. `tables` [groups, columns of k, panels]: each panel's.
    """

    symbols: NDArray
    bits: NDArray
    tables: NDArray
    base: int


class Sections(NamedTuple):
    """What a chunk consists of: `rans` and `escapes` are filled from their ends, `raw` and `low` from their beginnings; `states` uint16 [lanes]."""

    rans: NDArray
    escapes: NDArray
    raw: NDArray
    low: NDArray
    states: NDArray


@numba.njit(cache=True, nogil=True)
def _fold(words: NDArray, width: int, behind: int, out: NDArray) -> None:
    """Puts the sign of floats behind the exponent: words [n] into `out` [n]."""
    one, last, by = words.dtype.type(1), words.dtype.type(width - 1), words.dtype.type(behind)
    low = words.dtype.type((one << by) - one)
    for at in range(len(out)):
        word = words[at]
        out[at] = ((word & ~low) << one) | ((word >> last) << by) | (word & low)


@numba.njit(cache=True, nogil=True)
def _fold_all(words: NDArray, width: int, behind: int) -> None:
    """The same where they are: two names of one array would not become vectors."""
    one, last, by = words.dtype.type(1), words.dtype.type(width - 1), words.dtype.type(behind)
    low = words.dtype.type((one << by) - one)
    for at in range(len(words)):
        word = words[at]
        words[at] = ((word & ~low) << one) | ((word >> last) << by) | (word & low)


@numba.njit(cache=True, nogil=True)
def _transpose(words: NDArray, origin: tuple[int, int], out: NDArray) -> None:
    """Words [rows, k] from `origin` (row, step) on, transposed into `out` [steps, lanes]."""
    row, step = origin
    steps, lanes = out.shape
    for first in range(0, lanes, TILE_LANES):
        for begin in range(0, steps, TILE_STEPS):
            tile = out[begin : begin + TILE_STEPS, first : first + TILE_LANES]
            source = words[row + first : row + first + TILE_LANES, step + begin : step + begin + TILE_STEPS]
            for at in range(tile.shape[0]):
                for lane in range(tile.shape[1]):
                    tile[at, lane] = source[lane, at]


@numba.njit(cache=True, nogil=True)
def _gather(words: NDArray, layout: Layout, origin: tuple[int, int], folded: NDArray) -> None:
    """Folded words of the steps and lanes from `origin` (row, step) on."""
    row, step = origin
    steps, lanes = folded.shape
    if not layout.turned:
        _transpose(words, origin, folded)
        if layout.width:
            _fold_all(folded.reshape(-1), layout.width, layout.behind)
        return
    for at in range(steps):
        source = words[step + at, row : row + lanes]
        if layout.width:
            _fold(source, layout.width, layout.behind, folded[at])
        else:
            folded[at] = source


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _advance(laws: NDArray, states: NDArray, given: NDArray, full: NDArray) -> None:
    """Takes a symbol into each state, by frequency + 512 * start: `given` and `full` get the byte that each lane would give up and whether it does.

    All numbers are integers below 2^24, so float32 has them exactly; a quotient is less than 2^8 and, if no integer, differs from one by 2^-8 at least.
    """
    for lane in range(len(states)):
        law, x = abs(laws[lane]), states[lane]
        start = np.floor(law * np.float32(1 / 512))
        f = law - start * np.float32(512)
        high = np.floor(x * np.float32(1 / 256))
        over = x >= f * np.float32(256)
        given[lane] = np.uint8(np.int32(x - high * np.float32(256)))
        full[lane] = np.uint8(over)
        x = high if over else x
        states[lane] = x + np.floor(x / f) * (np.float32(256) - f) + start


@numba.njit(cache=True, nogil=True)
def _give_up(given: NDArray, full: NDArray, rans: NDArray, position: int) -> int:
    """Writes the bytes that lanes give up, the last one first; gives where they begin."""
    at = np.uint64(position)
    for lane in range(len(given) - 1, -1, -1):
        rans[at - np.uint64(1)] = given[lane]
        at -= np.uint64(full[lane])
    return int(np.int64(at))


@numba.njit(cache=True, nogil=True)
def _look_up(folded: NDArray, shift: int, law: NDArray, found: NDArray) -> bool:
    """The law of each word's bits from `shift` on, into `found`; whether one escapes."""
    by, together = np.uint64(shift), np.int32(0)
    for lane in range(len(folded)):
        bits = law[np.uint64(folded[lane]) >> by]
        found[lane] = bits
        together |= bits
    return bool(together < 0)


@numba.njit(cache=True, nogil=True)
def _escape(folded: NDArray, laws: NDArray, origin: tuple[int, int], escapes: NDArray, escaped: int) -> int:
    """Writes the words of lanes that escape, the last one first: the bits from `origin` (shift, base) on, less the base; gives where they begin."""
    by, base = np.uint64(origin[0]), np.uint64(origin[1])
    for lane in range(len(folded) - 1, -1, -1):
        if laws[lane] < 0:
            escaped -= 1
            escapes[escaped] = (np.uint64(folded[lane]) >> by) - base
    return escaped


@numba.njit(cache=True, nogil=True)
def _encode(folded: NDArray, layout: Layout, law: Law, tables: NDArray, states: NDArray, sections: Sections, ends: tuple[int, int]) -> tuple[int, int]:
    """Encodes folded words [steps, lanes], the last step first, before `ends` of the stream and the escapes; gives where these now begin.

    In a step, the symbols of all lanes come before their cut bits, which are therefore encoded first.
    """
    steps, lanes = folded.shape
    position, escaped = ends
    found, given, full = np.empty(lanes, np.int32), np.empty(lanes, np.uint8), np.empty(lanes, np.uint8)
    laws = found.view(np.float32)
    for step in range(steps - 1, -1, -1):
        words = folded[step]
        if layout.cut >= 0:
            for first in range(0, lanes, PANEL_ROWS):
                last = min(first + PANEL_ROWS, lanes)
                _look_up(words[first:last], layout.cut, law.bits[tables[step, first // PANEL_ROWS]], found[first:last])
            _advance(laws, states, given, full)
            position = _give_up(given, full, sections.rans, position)
        escapes = False
        for first in range(0, lanes, PANEL_ROWS):
            last = min(first + PANEL_ROWS, lanes)
            escapes |= _look_up(words[first:last], layout.shift, law.symbols[tables[step, first // PANEL_ROWS]], found[first:last])
        _advance(laws, states, given, full)
        position = _give_up(given, full, sections.rans, position)
        if escapes:
            escaped = _escape(words, found, (layout.shift, law.base), sections.escapes, escaped)
    return position, escaped


@numba.njit(cache=True, nogil=True)
def write_chunk(words: NDArray, layout: Layout, law: Law, short_row: NDArray, sections: Sections) -> tuple[int, int]:
    """Codes a chunk of words, [rows, k] or turned, and fills its sections; gives where stream and escapes begin.

    `short_row` uint8 [groups * lanes]: which rows are short; empty where none is.
    """
    k, lanes = words.shape[0 if layout.turned else 1], layout.lanes
    panels = (lanes + PANEL_ROWS - 1) // PANEL_ROWS
    folded, states = np.empty((STEPS, lanes), words.dtype), np.full(lanes, 256, np.float32)
    order, longs = np.empty(lanes, np.int64), np.empty(panels, np.int64)
    bits_bytes, low_bytes = layout.raw * (lanes // PANEL_ROWS * 8 + (lanes % PANEL_ROWS + 7) // 8), layout.planes * lanes
    ends, low = (len(sections.rans), len(sections.escapes)), len(sections.low)
    for group in range(layout.groups - 1, -1, -1):
        if len(short_row):
            low_bytes = order_rows(short_row[group * lanes : (group + 1) * lanes], order, longs, layout)
        low -= low_bytes * k
        for step in range((k - 1) // STEPS * STEPS, -1, -STEPS):
            last = min(step + STEPS, k)
            part = folded[: last - step]
            _gather(words, layout, (layout.first + group * lanes, step), part)
            ends = _encode(part, layout, law, law.tables[group, step:last], states, sections, ends)
            store_bits(part, layout.raw_shift, layout.raw, sections.raw, (group * k + step) * bits_bytes)
            if len(short_row):
                store_ragged(part, layout, (order, longs), sections.low, low + step * low_bytes)
            else:
                store_planes(part, layout, sections.low, low + step * low_bytes)
    sections.states[:] = states.astype(np.uint16)
    return ends
