"""The inner loops of the encoder of Planes (FORMAT.md, sections 5 and 6): words to symbols and raw bytes, symbols to a stream.

Words are the unsigned integers of the values' bits, seen as [rows, k], one axis of which is far apart in memory: loops over both go in blocks.
"Folded" are words with the sign behind the exponent, in decoding order: [groups * k, lanes].
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK = 64
PANEL = 64


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


@numba.njit(cache=True, nogil=True)
def gather_steps(words: NDArray, lanes: int, split: tuple[int, int, int, int], folded: NDArray, tops: NDArray) -> None:
    """Words [groups * lanes, k] in decoding order, `folded` [groups * k, lanes], and above their lowest bits, less `base`, `tops`.

    `split`: (width of a float, whose sign goes behind the exponent: [exponent, sign, mantissa], or 0; bits of its mantissa; bits below the tops; base).
    """
    rows, k = words.shape
    width, mantissa, shift, base = split
    one, last = words.dtype.type(1), words.dtype.type(max(width, 1) - 1)
    by, low, sign = words.dtype.type(mantissa), words.dtype.type((one << words.dtype.type(mantissa)) - one), one << last
    above, least = words.dtype.type(shift), words.dtype.type(base)
    for first in range(0, rows, BLOCK):
        for step in range(0, k, BLOCK):
            end = min(step + BLOCK, k)
            for row in range(first, min(first + BLOCK, rows)):
                group, lane = row // lanes, row % lanes
                for at in range(step, end):
                    word = words[row, at]
                    if width:
                        word = (((word & ~sign) & ~low) << one) | ((word >> last) << by) | (word & low)
                    folded[group * k + at, lane] = word
                    tops[group * k + at, lane] = (word >> above) - least


@numba.njit(cache=True, nogil=True)
def store_planes(folded: NDArray, planes: int, drop: int, out: NDArray) -> None:
    """The byte planes of folded words [steps, lanes], panel by panel, the most significant plane first, into `out` uint8."""
    steps, lanes = folded.shape
    at = 0
    for step in range(steps):
        for first in range(0, lanes, PANEL):
            count = min(PANEL, lanes - first)
            for plane in range(planes):
                shift = folded.dtype.type(drop + 8 * (planes - 1 - plane))
                for lane in range(count):
                    out[at + lane] = folded[step, first + lane] >> shift
                at += count


@numba.njit(cache=True, nogil=True)
def store_ragged(folded: NDArray, short_row: NDArray, split: tuple[int, int, int], out: NDArray) -> int:
    """The same where some rows are short: `short_row` [groups * lanes]; `split`: (planes, dropped bits, short bits). Gives the bytes written."""
    planes, drop, short = split
    steps, lanes = folded.shape
    k = steps // (len(short_row) // lanes)
    at = 0
    for step in range(steps):
        row = step // k * lanes
        for first in range(0, lanes, PANEL):
            last = min(first + PANEL, lanes)
            for plane in range(planes):
                shift = drop + 8 * (planes - 1 - plane)
                kept = max(0, min(8, 8 * (planes - plane) - short))
                for lane in range(first, last):
                    if kept == 8 or not short_row[row + lane]:
                        out[at] = (folded[step, lane] >> shift) & 255
                        at += 1
                if kept == 8:
                    continue
                held, bits = np.uint64(0), 0
                for lane in range(first, last):
                    if short_row[row + lane]:
                        held |= np.uint64((folded[step, lane] >> (shift + 8 - kept)) & ((1 << kept) - 1)) << np.uint64(bits)
                        bits += kept
                        if bits >= 8:
                            out[at] = held & np.uint64(255)
                            held >>= np.uint64(8)
                            at, bits = at + 1, bits - 8
                if bits:
                    out[at] = held & np.uint64(255)
                    at += 1
    return at


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
def store_bits(folded: NDArray, shift: int, bits: int, out: NDArray) -> None:
    """Bit planes of the `bits` bits (at most 8) from `shift` on, by step and panel, into `out` uint8."""
    steps, lanes = folded.shape
    by, mask, at = folded.dtype.type(shift), np.uint64((1 << bits) - 1), 0
    for step in range(steps):
        for first in range(0, lanes, PANEL):
            count = min(PANEL, lanes - first)
            apart = (count + 7) // 8
            for byte in range(apart):
                held = np.uint64(0)
                for lane in range(8 * byte, min(8 * byte + 8, count)):
                    held |= (np.uint64(folded[step, first + lane] >> by) & mask) << np.uint64(8 * (lane & 7))
                held = _turned(held)
                for bit in range(bits):
                    out[at + bit * apart + byte] = held >> np.uint64(8 * bit)
            at += bits * apart


@numba.njit(cache=True, nogil=True)
def _advance(tops: NDArray, laws: NDArray, reciprocals: NDArray, states: NDArray, out: NDArray) -> int:
    """Takes one symbol into each state; `out` [2, lanes] gets the byte that each would give up and whether it does. Gives how many symbols escape.

    `laws` uint32 [class values, 3]: frequency, start, whether it escapes. The quotient is exact: a state below 2^16 times a reciprocal that is too large
    by less than 1 (in 2^24) errs by less than 2^-8 <= 1 / frequency.
    """
    escaped = np.uint32(0)
    for lane in range(len(states)):
        value = np.uint64(tops[lane])
        f, x = laws[0, value], states[lane]
        full = np.uint32(x >= f << np.uint32(8))
        out[0, lane] = x
        out[1, lane] = full
        x >>= full << np.uint32(3)
        q = np.uint32((np.uint64(x) * np.uint64(reciprocals[value])) >> np.uint64(24))
        states[lane] = x + q * (np.uint32(256) - f) + laws[1, value]
        escaped += laws[2, value]
    return int(escaped)


class Law(NamedTuple):
    """What `encode_tops` codes with: `classes` uint32 [tables, 3, values] and their `reciprocals`, as `_advance` wants them; `cuts` uint8 [tables, values] and
    the `bit` of folded words that is coded with them, or -1.
    """

    classes: NDArray
    reciprocals: NDArray
    cuts: NDArray
    bit: int


@numba.njit(cache=True, nogil=True)
def _advance_bits(tops: NDArray, folded: NDArray, cuts: NDArray, bit: int, states: NDArray, inverse: NDArray, out: NDArray) -> None:
    """Takes the cut bit of each word into its state, as `_advance` takes symbols."""
    by, one = folded.dtype.type(bit), folded.dtype.type(1)
    for lane in range(len(states)):
        t = np.uint32((folded[lane] >> by) & one)
        cut, x = np.uint32(cuts[tops[lane]]), states[lane]
        f = np.uint32(256) - cut if t else cut
        full = np.uint32(x >= f << np.uint32(8))
        out[0, lane] = x
        out[1, lane] = full
        x >>= full << np.uint32(3)
        q = np.uint32((np.uint64(x) * np.uint64(inverse[f])) >> np.uint64(24))
        states[lane] = x + q * (np.uint32(256) - f) + t * cut


@numba.njit(cache=True, nogil=True)
def _give_up(out: NDArray, many: int, rans: NDArray, position: int) -> int:
    """Writes the bytes that lanes give up, the last one first; gives where they begin."""
    for lane in range(many - 1, -1, -1):
        rans[position - 1] = out[0, lane]
        position -= out[1, lane]
    return position


@numba.njit(cache=True, nogil=True)
def encode_tops(tops: NDArray, folded: NDArray, tables: NDArray, law: Law, states: NDArray, rans: NDArray, escapes: NDArray) -> tuple[int, int]:
    """Encodes class values [steps, lanes], counted from their least, and a bit of `folded`, into the ends of `rans` and `escapes`; gives where they begin.

    `tables` [groups, columns of k, panels]: the number of each panel's table.
    """
    steps, lanes = tops.shape
    k, top = tables.shape[1], (lanes - 1) // PANEL * PANEL
    position, escaped = len(rans), len(escapes)
    out = np.empty((2, PANEL), np.uint8)
    inverse = np.empty(256, np.uint32)
    for f in range(1, 256):
        inverse[f] = ((1 << 24) + f - 1) // f
    for step in range(steps - 1, -1, -1):
        of_panel = tables[step // k, step % k]
        for first in range(top, -1, -PANEL) if law.bit >= 0 else range(0):
            last = min(first + PANEL, lanes)
            _advance_bits(tops[step, first:last], folded[step, first:last], law.cuts[of_panel[first // PANEL]], law.bit, states[first:last], inverse, out)
            position = _give_up(out, last - first, rans, position)
        for first in range(top, -1, -PANEL):
            last, table = min(first + PANEL, lanes), of_panel[first // PANEL]
            many = _advance(tops[step, first:last], law.classes[table], law.reciprocals[table], states[first:last], out)
            position = _give_up(out, last - first, rans, position)
            if many == 0:
                continue
            for lane in range(last - 1, first - 1, -1):
                if law.classes[table, 2, tops[step, lane]]:
                    escaped -= 1
                    escapes[escaped] = tops[step, lane]
    return position, escaped
