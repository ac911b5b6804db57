"""Writes payloads: forms to bytes (FORMAT.md). What is written, `runtime/reader.py` reads back. Pools are written by `pool`."""

from __future__ import annotations

import zlib
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, Member, Sparse
from ..runtime.trellis import quantizers
from . import tables as tabling
from .entropy import encode
from .members import Coded, framed, member_bytes, table_bytes, varint
from .pool import pools, write_pool
from .symbols import classify

__all__ = ["chunking", "pools", "write", "write_pool"]

CHUNK_STEPS, PAIR_STEPS = 1024, 512
"""Symbols a lane that a chunk has at least, where the weight allows: heads then cost 1.5 B in 1,024 symbols. Fewer are enough for two panels in the place
of one, which waits for its own states and is decoded at half the speed."""

GATHER_PANELS = 4
"""Panels in a chunk that a Gather reads: it decodes from the chunk's head to the asked panel."""


def write(member: Member, gathered: bool = False) -> bytes:
    """A chunked payload of one weight; `gathered` says that a Gather reads it.

    Raises ValueError where levels need more than 16 bits.
    """
    levels = member.symbols.levels
    found = quantizers(levels) if member.symbols.quantizers == 2 else None
    coding = tabling.plan(levels, found)
    if coding is None:
        raise ValueError("levels span more than 16 bits")
    coded = Coded(member, coding, coding.map, found)
    width, groups = chunking(member.view.rows, member.view.k, gathered)
    directory, bodies = bytearray(), []
    for cut in _cuts(member, width, groups):
        entry, body = _chunk(coded, cut)
        directory += entry
        bodies.append(body)
    header = table_bytes(coding.tables) + member_bytes(coded, len(coding.tables)) + bytes([width]) + varint(groups) + directory
    return b"".join([framed(0, bytes(header)), *bodies])


def chunking(rows: int, k: int, gathered: bool) -> tuple[int, int]:
    """(panels side by side, groups a chunk): the widest chunks that still have enough symbols a lane, as short as that allows.

    A payload that a Gather reads has one panel side by side and at most 4 panels a chunk.
    """
    if gathered:
        full = rows // PANEL_ROWS
        return 1, max((g for g in range(1, GATHER_PANELS + 1) if full and full % g == 0), default=1)
    for width, least in ((4, CHUNK_STEPS), (3, CHUNK_STEPS), (2, PAIR_STEPS), (1, CHUNK_STEPS)):
        full = rows // (PANEL_ROWS * width)
        if full * k >= least or width == 1:
            enough = [g for g in range(1, full + 1) if full % g == 0 and g * k >= CHUNK_STEPS]
            return width, enough[0] if enough else max(full, 1)
    raise AssertionError("unreachable: width 1 always returns")


_Cut = tuple[int, slice, int]
"""What one chunk codes: a batch, rows of it, and the lanes of a group."""


def _cuts(member: Member, width: int, groups: int) -> list[_Cut]:
    """All chunks, in order."""
    lanes = PANEL_ROWS * width
    full, rest = divmod(member.view.rows, lanes)
    rows = [(slice(group * lanes, (group + groups) * lanes), lanes) for group in range(0, full, groups)]
    rows += [(slice(full * lanes, member.view.rows), rest)] if rest else []
    return [(batch, part, many) for batch in range(member.view.batch) for part, many in rows]


def _chunk(coded: Coded, cut: _Cut) -> tuple[bytes, bytes]:
    """(directory entry, bytes) of one chunk."""
    batch, rows, lanes = cut
    view, row_class = coded.member.view, coded.coding.row_class
    levels = coded.member.symbols.levels[batch, rows].reshape(-1, lanes, view.k)
    by = None if coded.quantizers is None else coded.quantizers[batch, rows].reshape(levels.shape)
    panels = batch * (view.panels // view.batch) + np.arange(rows.start, rows.stop) // PANEL_ROWS
    found = classify(coded, coded.coding.tables, levels, by, None if row_class is None else row_class[panels])
    steps = np.full(len(levels) * view.k, lanes)
    stream = encode(coded.coding.tables, found.table, found.index, steps)
    sparse = isinstance(coded.member.form, Sparse)
    values = _chunk_values(coded.member, cut) if sparse else np.empty(0, np.uint8)
    raw = _planes(found.raw, len(steps), lanes)
    body = stream.rans.tobytes() + stream.heads.astype("<u2").tobytes() + raw + found.escapes.tobytes() + values.tobytes()
    entry = varint(len(stream.rans)) + varint(len(found.escapes)) + (varint(len(values)) if sparse else b"")
    return entry + zlib.crc32(body).to_bytes(4, "little"), body


def _planes(raw: NDArray[np.uint8], steps: int, lanes: int) -> bytes:
    """Bits [steps * lanes, r] as bit planes by step and panel."""
    if not raw.size:
        return b""
    bits = raw.reshape(steps, lanes, -1).transpose(0, 2, 1)
    panels = [np.packbits(bits[:, :, at : at + PANEL_ROWS], axis=2, bitorder="little") for at in range(0, lanes, PANEL_ROWS)]
    return np.concatenate([panel.reshape(steps, -1) for panel in panels], axis=1).tobytes()


def _chunk_values(member: Member, cut: _Cut) -> NDArray:
    """The values of a Sparse member's chunk, in decoding order."""
    form, (batch, rows, lanes) = cast(Sparse, member.form), cut
    kept = form.mask.levels == 1
    everywhere = np.zeros(member.view.shape, form.values.codes.dtype)
    everywhere[kept] = form.values.codes
    ordered, chosen = (all_rows[batch, rows].reshape(-1, lanes, member.view.k).transpose(0, 2, 1) for all_rows in (everywhere, kept))
    return ordered[chosen]
