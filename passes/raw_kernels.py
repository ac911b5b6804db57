"""What stands beside a chunk's stream (FORMAT.md, section 6): bit planes and byte planes of folded words [steps, lanes].

These are compiled into `chunk_kernels`, whose cache knows nothing of changes here: after one, remove `passes/__pycache__`.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS


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
def store_bits(folded: NDArray, shift: int, bits: int, out: NDArray, at: int) -> None:
    """Bit planes of the `bits` bits (at most 8) from `shift` on, by step and panel, into `out` from `at` on."""
    steps, lanes = folded.shape
    held = np.zeros(PANEL_ROWS // 8, np.uint64)
    for step in range(steps if bits else 0):
        for first in range(0, lanes, PANEL_ROWS):
            count = min(PANEL_ROWS, lanes - first)
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
def store_planes(folded: NDArray, layout: Layout, out: NDArray, at: int) -> None:
    """The byte planes of folded words [steps, lanes], panel by panel, the most significant plane first, into `out` from `at` on."""
    steps, lanes = folded.shape
    for step in range(steps):
        for first in range(0, lanes, PANEL_ROWS):
            count = min(PANEL_ROWS, lanes - first)
            for plane in range(layout.planes):
                _bytes(folded[step, first : first + count], layout.drop + 8 * (layout.planes - 1 - plane), out[at : at + count])
                at += count


@numba.njit(cache=True, nogil=True)
def _kept(layout: Layout, plane: int) -> int:
    """Bits of a plane that short rows store."""
    return max(0, min(8, 8 * (layout.planes - plane) - layout.short))


@numba.njit(cache=True, nogil=True)
def order_rows(short_row: NDArray, order: NDArray, longs: NDArray, layout: Layout) -> int:
    """The lanes of each panel, long rows first, into `order` [lanes], how many these are into `longs` [panels]; gives the bytes of a step."""
    size = 0
    for panel in range(len(longs)):
        first, at = panel * PANEL_ROWS, panel * PANEL_ROWS
        last = min(first + PANEL_ROWS, len(short_row))
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
def store_ragged(folded: NDArray, layout: Layout, rows: tuple[NDArray, NDArray], out: NDArray, at: int) -> None:
    """The same where some rows are short; `rows`: (order, longs) of `order_rows`."""
    steps, lanes = folded.shape
    order, longs = rows
    for step in range(steps):
        words = folded[step]
        for panel in range(len(longs)):
            first, last = panel * PANEL_ROWS, min((panel + 1) * PANEL_ROWS, lanes)
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
