"""One chunk of Planes in one pass (FORMAT.md, sections 5 and 6): words to symbols, symbols to a stream, raw bits and bytes beside it.

"Folded" are words with the sign behind the exponent, in decoding order: [steps, lanes]. A block of steps at a time is folded, into memory that stays in the
first cache, and coded from there, the last block first. Loops over the 64 lanes of a panel are kept apart from what depends on the lane before, so that they
become vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

STEPS = 32
"""Steps that are folded at a time: of 256 lanes of float32, 32 KB."""

TILE = 16
"""Rows and columns that are transposed at a time: with more, lines of the first cache displace each other."""

PANEL = 64


class Layout(NamedTuple):
    """Where a chunk's words are, and what is where in a folded one.

    Words are `turned` where rows are neighbours in memory: [k, rows]. `first` row, `groups` of `lanes` rows. `width`: of floats, whose sign goes between
    exponent and the `behind` lowest bits; 0 for integers. The class value begins at bit `shift`; the `cut` bit is coded, too (-1: none). `raw` bits, the
    first of which is bit `raw_shift`, and `planes` bytes from bit `drop` on are stored, without the `short` lowest bits in short rows.
    """

    turned: bool
    first: int
    groups: int
    lanes: int
    width: int
    behind: int
    shift: int
    cut: int
    raw_shift: int
    raw: int
    planes: int
    drop: int
    short: int


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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fold(words: NDArray, width: int, behind: int, out: NDArray) -> None:
    """Puts the sign of floats behind the exponent: words [n] into `out` [n]."""
    if width == 0:
        out[:] = words
        return
    one, last = words.dtype.type(1), words.dtype.type(width - 1)
    by = words.dtype.type(behind)
    low = words.dtype.type((one << by) - one)
    for at in range(len(out)):
        word = words[at]
        out[at] = ((word & ~low) << one) | ((word >> last) << by) | (word & low)


@numba.njit(cache=True, nogil=True)
def _transpose(words: NDArray, origin: tuple[int, int], out: NDArray) -> None:
    """Words [rows, k] from `origin` (row, step) on, transposed into `out` [steps, lanes]."""
    row, step = origin
    steps, lanes = out.shape
    for first in range(0, lanes, TILE):
        for begin in range(0, steps, TILE):
            for at in range(begin, min(begin + TILE, steps)):
                for lane in range(first, min(first + TILE, lanes)):
                    out[at, lane] = words[row + lane, step + at]


@numba.njit(cache=True, nogil=True)
def _gather(words: NDArray, layout: Layout, origin: tuple[int, int], folded: NDArray) -> None:
    """Folded words of the steps and lanes from `origin` (row, step) on."""
    row, step = origin
    steps, lanes = folded.shape
    if not layout.turned:
        _transpose(words, origin, folded)
    for at in range(steps):
        source = words[step + at, row : row + lanes] if layout.turned else folded[at]
        _fold(source, layout.width, layout.behind, folded[at])


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
    return np.int64(at)


@numba.njit(cache=True, nogil=True)
def _look_up(folded: NDArray, shift: int, law: NDArray, found: NDArray) -> bool:
    """The law of each word's bits from `shift` on, into `found`; whether one escapes."""
    by, together = np.uint64(shift), np.int32(0)
    for lane in range(len(folded)):
        bits = law[np.uint64(folded[lane]) >> by]
        found[lane] = bits
        together |= bits
    return together < 0


@numba.njit(cache=True, nogil=True)
def _encode(folded: NDArray, layout: Layout, law: Law, tables: NDArray, states: NDArray, sections: Sections, ends: tuple[int, int]) -> tuple[int, int]:
    """Encodes folded words [steps, lanes], the last step first, before `ends` of the stream and the escapes; gives where these now begin."""
    steps, lanes = folded.shape
    position, escaped = ends
    top, by, base = (lanes - 1) // PANEL * PANEL, np.uint64(layout.shift), np.uint64(law.base)
    found, given, full = np.empty(PANEL, np.int32), np.empty(PANEL, np.uint8), np.empty(PANEL, np.uint8)
    laws = found.view(np.float32)
    for step in range(steps - 1, -1, -1):
        for coded in range(0 if layout.cut >= 0 else 1, 2):
            for first in range(top, -1, -PANEL):
                n, table = min(PANEL, lanes - first), tables[step, first // PANEL]
                words = folded[step, first : first + n]
                escapes = _look_up(words, layout.shift if coded else layout.cut, law.symbols[table] if coded else law.bits[table], found)
                _advance(laws[:n], states[first : first + n], given, full)
                position = _give_up(given[:n], full, sections.rans, position)
                for lane in range(n - 1, -1, -1) if escapes else range(0):
                    if found[lane] < 0:
                        escaped -= 1
                        sections.escapes[escaped] = (np.uint64(words[lane]) >> by) - base
    return position, escaped


@numba.njit(cache=True, nogil=True)
def _bytes(folded: NDArray, shift: int, out: NDArray) -> None:
    """The eight bits from `shift` on."""
    by = folded.dtype.type(shift)
    for lane in range(len(out)):
        out[lane] = folded[lane] >> by


@numba.njit(cache=True, nogil=True)
def _turned(x: np.uint64) -> np.uint64:
    """Eight bytes of eight bits, transposed: bit i of byte j is bit j of byte i. After: Warren, Hacker's Delight, 7-3."""
    t = (x ^ (x >> np.uint64(7))) & np.uint64(0x00AA00AA00AA00AA)
    x ^= t ^ (t << np.uint64(7))
    t = (x ^ (x >> np.uint64(14))) & np.uint64(0x0000CCCC0000CCCC)
    x ^= t ^ (t << np.uint64(14))
    t = (x ^ (x >> np.uint64(28))) & np.uint64(0x00000000F0F0F0F0)
    return x ^ t ^ (t << np.uint64(28))


@numba.njit(cache=True, nogil=True)
def _store_bits(folded: NDArray, shift: int, bits: int, out: NDArray, at: int) -> None:
    """Bit planes of the `bits` bits (at most 8) from `shift` on, by step and panel, into `out` from `at` on."""
    steps, lanes = folded.shape
    held = np.zeros(PANEL // 8, np.uint64)
    for step in range(steps if bits else 0):
        for first in range(0, lanes, PANEL):
            count = min(PANEL, lanes - first)
            apart = (count + 7) // 8
            held[apart - 1] = 0
            _bytes(folded[step, first : first + count], shift, held.view(np.uint8)[:count])
            for byte in range(apart):
                held[byte] = _turned(held[byte])
            for bit in range(bits):
                plane, by = out[at + bit * apart : at + (bit + 1) * apart], np.uint64(8 * bit)
                for byte in range(apart):
                    plane[byte] = held[byte] >> by
            at += bits * apart


@numba.njit(cache=True, nogil=True)
def _store_planes(folded: NDArray, layout: Layout, out: NDArray, at: int) -> None:
    """The byte planes of folded words [steps, lanes], panel by panel, the most significant plane first, into `out` from `at` on."""
    steps, lanes = folded.shape
    for step in range(steps):
        for first in range(0, lanes, PANEL):
            count = min(PANEL, lanes - first)
            for plane in range(layout.planes):
                _bytes(folded[step, first : first + count], layout.drop + 8 * (layout.planes - 1 - plane), out[at : at + count])
                at += count


@numba.njit(cache=True, nogil=True)
def _kept(layout: Layout, plane: int) -> int:
    """Bits of a plane that short rows store."""
    return max(0, min(8, 8 * (layout.planes - plane) - layout.short))


@numba.njit(cache=True, nogil=True)
def _order(short_row: NDArray, order: NDArray, longs: NDArray, layout: Layout) -> int:
    """The lanes of each panel, long rows first, into `order` [lanes], how many these are into `longs` [panels]; gives the bytes of a step."""
    size = 0
    for panel in range(len(longs)):
        first, at = panel * PANEL, panel * PANEL
        last = min(first + PANEL, len(short_row))
        for wanted in range(2):
            for lane in range(first, last):
                if short_row[lane] == wanted:
                    order[at] = lane
                    at += 1
            longs[panel] = at - first if wanted == 0 else longs[panel]
        for plane in range(layout.planes):
            kept = _kept(layout, plane)
            size += last - first if kept == 8 else longs[panel] + (kept * (last - first - longs[panel]) + 7) // 8
    return size


@numba.njit(cache=True, nogil=True)
def _pack(words: NDArray, lanes: NDArray, shift: int, bits: int, out: NDArray, at: int) -> int:
    """The `bits` bits from `shift` on of words of some lanes, one behind the other, into `out` from `at` on; gives where they end."""
    held, many, mask = np.uint64(0), 0, np.uint64((1 << bits) - 1)
    for lane in lanes:
        held |= ((np.uint64(words[lane]) >> np.uint64(shift)) & mask) << np.uint64(many)
        many += bits
        if many >= 8:
            out[at] = held & np.uint64(255)
            held >>= np.uint64(8)
            at, many = at + 1, many - 8
    if many:
        out[at] = held
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _store_ragged(folded: NDArray, layout: Layout, rows: tuple[NDArray, NDArray], out: NDArray, at: int) -> None:
    """The same where some rows are short; `rows`: (order, longs) of `_order`."""
    steps, lanes = folded.shape
    order, longs = rows
    for step in range(steps):
        words = folded[step]
        for panel in range(len(longs)):
            first, last = panel * PANEL, min((panel + 1) * PANEL, lanes)
            split = first + longs[panel]
            for plane in range(layout.planes):
                shift, kept = layout.drop + 8 * (layout.planes - 1 - plane), _kept(layout, plane)
                if kept == 8 or split == last:
                    _bytes(words[first:last], shift, out[at : at + last - first])
                    at += last - first
                    continue
                by = np.uint64(shift)
                for lane in range(first, split):
                    out[at + lane - first] = np.uint64(words[order[lane]]) >> by
                at = _pack(words, order[split:last], shift + 8 - kept, kept, out, at + split - first)


@numba.njit(cache=True, nogil=True)
def write_chunk(words: NDArray, layout: Layout, law: Law, short_row: NDArray, sections: Sections) -> tuple[int, int]:
    """Codes a chunk of words, [rows, k] or turned, and fills its sections; gives where stream and escapes begin.

    `short_row` uint8 [groups * lanes]: which rows are short; empty where none is.
    """
    k, lanes = words.shape[0 if layout.turned else 1], layout.lanes
    panels = (lanes + PANEL - 1) // PANEL
    folded, states = np.empty((STEPS, lanes), words.dtype), np.full(lanes, 256, np.float32)
    order, longs = np.empty(lanes, np.int64), np.empty(panels, np.int64)
    bits_bytes, low_bytes = layout.raw * (lanes // PANEL * 8 + (lanes % PANEL + 7) // 8), layout.planes * lanes
    ends, low = (len(sections.rans), len(sections.escapes)), len(sections.low)
    for group in range(layout.groups - 1, -1, -1):
        if len(short_row):
            low_bytes = _order(short_row[group * lanes : (group + 1) * lanes], order, longs, layout)
        low -= low_bytes * k
        for step in range((k - 1) // STEPS * STEPS, -1, -STEPS):
            last = min(step + STEPS, k)
            part = folded[: last - step]
            _gather(words, layout, (layout.first + group * lanes, step), part)
            ends = _encode(part, layout, law, law.tables[group, step:last], states, sections, ends)
            _store_bits(part, layout.raw_shift, layout.raw, sections.raw, (group * k + step) * bits_bytes)
            if len(short_row):
                _store_ragged(part, layout, (order, longs), sections.low, low + step * low_bytes)
            else:
                _store_planes(part, layout, sections.low, low + step * low_bytes)
    sections.states[:] = states.astype(np.uint16)
    return ends
