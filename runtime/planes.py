"""Planes: the bits of values as symbols, raw bytes and zeros (FORMAT.md, sections 5 and 6). The reference decoder's part of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptionError
from .form import PANEL_ROWS, Fields, Member, Planes
from .members import EXPONENT_BITS, WIDTHS


def _form(member: Member) -> Planes:
    assert isinstance(member.form, Planes)
    return member.form


def escape_bytes(member: Member) -> int:
    """Bytes of an escaped value: two where the symbols' classes have more than eight bits."""
    form = _form(member)
    return 2 if WIDTHS[member.dtype] - form.fields.drop - 8 * form.fields.planes - form.tops.raw_bits > 8 else 1


def _short_rows(fields: Fields, rows: slice) -> NDArray[np.bool_]:
    """Which of the rows are short."""
    if fields.short_row is None:
        return np.zeros(rows.stop - rows.start, np.bool_)
    return fields.short_row[rows] == 1


def _panels(first: int, groups: int, lanes: int) -> list[slice]:
    """The rows of each panel of a chunk, groups ascending."""
    starts = [first + group * lanes + at for group in range(groups) for at in range(0, lanes, PANEL_ROWS)]
    return [slice(start, min(start + PANEL_ROWS, first + ((start - first) // lanes + 1) * lanes)) for start in starts]


def _step_bytes(fields: Fields, plane: int, lanes: int, short: int) -> tuple[int, int]:
    """Bytes that one step of a panel takes in a plane: whole ones, and those of the bits that short rows keep."""
    kept = fields.kept_bits(plane)
    return (lanes, 0) if kept == 8 else (lanes - short, -(-kept * short // 8))


def low_bytes(member: Member, first: int, groups: int, lanes: int) -> int:
    """Bytes of the planes section of a chunk that begins at row `first` (of all batches)."""
    fields, total = _form(member).fields, 0
    if fields.short_row is None:
        return groups * lanes * fields.planes * member.view.k
    for rows in _panels(first, groups, lanes):
        short = int(_short_rows(fields, rows).sum())
        total += sum(sum(_step_bytes(fields, plane, rows.stop - rows.start, short)) for plane in range(fields.planes))
    return total * member.view.k


def read_low(section: NDArray[np.uint8], member: Member, first: int, groups: int, lanes: int) -> NDArray[np.uint64]:
    """The raw bytes of a chunk as numbers, uint64 [groups * lanes, k]. Raises CorruptionError."""
    fields, k = _form(member).fields, member.view.k
    low, at = np.zeros((groups * lanes, k), np.uint64), 0
    panels = _panels(first, groups, lanes)
    for group in range(groups):
        mine = panels[group * len(panels) // groups : (group + 1) * len(panels) // groups]
        sizes = [[_step_bytes(fields, p, rows.stop - rows.start, int(_short_rows(fields, rows).sum())) for p in range(fields.planes)] for rows in mine]
        many = sum(sum(pair) for panel in sizes for pair in panel)
        steps = section[at : at + many * k].reshape(k, many)
        at += many * k
        column = 0
        for rows, panel in zip(mine, sizes, strict=True):
            for plane, (whole, packed) in enumerate(panel):
                low[rows.start - first : rows.stop - first] |= _plane(steps[:, column : column + whole + packed], fields, plane, rows) << np.uint64(8 * (fields.planes - 1 - plane))
                column += whole + packed
    return low


def _plane(steps: NDArray[np.uint8], fields: Fields, plane: int, rows: slice) -> NDArray[np.uint64]:
    """One plane of a panel, uint64 [rows, k], from its bytes [k, n]."""
    found = np.zeros((rows.stop - rows.start, len(steps)), np.uint64)
    kept, short = fields.kept_bits(plane), _short_rows(fields, rows)
    whole = np.ones_like(short) if kept == 8 else ~short
    found[whole] = steps[:, : whole.sum()].T
    if kept < 8 and kept * short.sum():
        bits = np.unpackbits(steps[:, whole.sum() :], axis=1, bitorder="little")
        if bits[:, kept * short.sum() :].any():
            raise CorruptionError("an unused bit of the planes section is set")
        parts = bits[:, : kept * short.sum()].reshape(len(steps), -1, kept).astype(np.uint64)
        found[short] = (parts << np.arange(8 - kept, 8, dtype=np.uint64)).sum(2).T
    return found


def words(member: Member) -> NDArray:
    """The bits of all values, unsigned [batch, rows, k] of the dtype's width."""
    form, width = _form(member), WIDTHS[member.dtype]
    fields = form.fields
    half, mask = (1 << form.tops.raw_bits) >> 1, (1 << (16 + form.tops.raw_bits)) - 1
    tops = ((form.tops.levels.astype(np.int64) + half) & mask).view(np.uint64)
    u = ((tops << np.uint64(8 * fields.planes)) + form.low) << np.uint64(fields.drop)
    if fields.integers:
        u = u + np.uint64(fields.base)
        if fields.delta:
            u = np.cumsum(u, axis=2, dtype=np.uint64)
        return u.astype(f"<u{width // 8}")
    mantissa = width - 1 - EXPONENT_BITS[member.dtype] - (fields.cuts is not None)
    sign, exponent = u >> np.uint64(mantissa) & np.uint64(1), u >> np.uint64(mantissa + 1)
    bits = sign << np.uint64(width - 1) | (exponent << np.uint64(mantissa)) & np.uint64((1 << (width - 1)) - 1) | u & np.uint64((1 << mantissa) - 1)
    return bits.astype(f"<u{width // 8}")
