"""Writes payloads: forms to bytes (FORMAT.md). What is written, `runtime/reader.py` reads back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, Codebook, Dense, Form, Grid, Member, Sparse, Symbols, Table
from ..runtime.header import (
    DENSE_KINDS,
    DRAFT,
    MAGIC,
    POOL_MEMBERS,
    POOL_SYMBOLS,
    TAG_CODEBOOK,
    TAG_DENSE,
    TAG_GRID,
    TAG_SPARSE,
    TAG_SYMBOLS,
)
from . import tables as tabling
from .entropy import encode

CHUNK_STEPS = 1024
"""Symbols a lane that a chunk has at least, where the weight allows: heads then cost 1.5 B in 1,024 symbols."""

GATHER_PANELS = 4
"""Panels in a chunk that a Gather reads: it decodes from the chunk's head to the asked panel."""

POOL_BELOW = 16384
"""Weights with fewer symbols share a pool."""

LANE_SYMBOLS = 512
"""Symbols a lane that a pool has about: fewer lanes in small pools, since a lane costs 1.5 bytes."""


def varint(value: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> bytes:
    """A signed number as a varint."""
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class _Coded:
    """A member with how its symbols are coded; `table_numbers` maps row classes to tables of the payload."""

    member: Member
    coding: tabling.Coding
    table_numbers: tuple[int, ...]


def pools(sizes: Sequence[int]) -> list[list[int]]:
    """Numbers of the weights that share a pool, by their numbers of symbols: those below 16,384, in order, at most 65,536 symbols and 4,096 weights a pool."""
    filled: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if size >= POOL_BELOW:
            continue
        if not filled or size > room or len(filled[-1]) == POOL_MEMBERS:
            filled.append([])
            room = POOL_SYMBOLS
        filled[-1].append(number)
        room -= size
    return filled


def write(member: Member, gathered: bool = False) -> bytes:
    """A chunked payload of one weight; `gathered` says that a Gather reads it.

    Raises ValueError where levels need more than 16 bits.
    """
    coding = tabling.plan(_levels(member))
    if coding is None:
        raise ValueError("levels span more than 16 bits")
    coded = _Coded(member, coding, tuple(range(len(coding.tables))))
    width, groups = chunking(member.view.rows, member.view.k, gathered)
    directory, bodies = bytearray(), []
    for levels, panel in _chunks(member, width, groups):
        entry, body = _chunk(coded, levels, panel)
        directory += entry
        bodies.append(body)
    header = _tables(coding.tables) + _member(coded, len(coding.tables)) + bytes([width]) + varint(groups) + directory
    return b"".join([_framed(0, bytes(header)), *bodies])


def write_pool(members: list[Member]) -> bytes:
    """A pool of small weights, in this order; none of them Sparse, all levels within 16 bits.

    Raises ValueError for levels that need more.
    """
    plans = [tabling.plan(_levels(member), row_classes=(1,)) for member in members]
    codings = [plan for plan in plans if plan is not None]
    if len(codings) < len(members) or not all(np.array_equal(_levels(m), _levels(m).astype(np.int16)) for m in members):
        raise ValueError("levels span more than 16 bits")
    histograms = [_class_histogram(member, coding) for member, coding in zip(members, codings, strict=True)]
    shared, owners = tabling.share(histograms)
    coded = [_Coded(m, c, (owner,)) for m, c, owner in zip(members, codings, owners, strict=True)]
    classes, numbers, raws, escapes = zip(*(_classify(one, shared, _levels(one.member), None) for one in coded), strict=True)
    symbols = sum(member.view.size for member in members)
    lanes = min(64, max(8, symbols // LANE_SYMBOLS))
    steps = np.full(-(-symbols // lanes), lanes)
    steps[-1] = symbols - lanes * (len(steps) - 1)
    stream = encode(shared, np.concatenate(numbers), np.concatenate(classes), steps)
    raw = np.packbits(np.concatenate(raws), bitorder="little").tobytes()
    heads = np.full(lanes, 256, "<u2")
    heads[: len(stream.heads)] = stream.heads
    body = stream.rans.tobytes() + heads.tobytes() + raw + b"".join(escapes)
    header = _tables(shared) + varint(len(members)) + b"".join(_member(one, len(shared)) for one in coded) + bytes([lanes])
    header += varint(len(stream.rans)) + varint(sum(map(len, escapes))) + zlib.crc32(body).to_bytes(4, "little")
    return _framed(1, header) + body


def chunking(rows: int, k: int, gathered: bool) -> tuple[int, int]:
    """(panels side by side, groups a chunk): the widest chunks that still have 1,024 symbols a lane, as short as that allows.

    A payload that a Gather reads has one panel side by side and at most 4 panels a chunk.
    """
    if gathered:
        full = rows // PANEL_ROWS
        return 1, max((g for g in range(1, GATHER_PANELS + 1) if full and full % g == 0), default=1)
    for width in (4, 3, 2, 1):
        full = rows // (PANEL_ROWS * width)
        if full * k >= CHUNK_STEPS or (width == 1):
            enough = [g for g in range(1, full + 1) if full % g == 0 and g * k >= CHUNK_STEPS]
            return width, enough[0] if enough else max(full, 1)
    raise AssertionError("unreachable: width 1 always returns")


def _levels(member: Member) -> NDArray[np.int32]:
    return member.symbols.levels


def _framed(kind: int, body: bytes) -> bytes:
    """Magic, draft, kind and length in front of a header's body, its checksum behind."""
    start = MAGIC + bytes([DRAFT, kind]) + (len(body) + 12).to_bytes(4, "little") + body
    return start + zlib.crc32(start).to_bytes(4, "little")


def _tables(tables: tuple[Table, ...]) -> bytes:
    return varint(len(tables)) + b"".join(map(_table, tables))


def _table(table: Table) -> bytes:
    return bytes([len(table.frequencies) | table.escape << 7]) + zigzag(table.first) + bytes(table.frequencies[:-1])


def _member(coded: _Coded, table_count: int) -> bytes:
    view = coded.member.view
    identity = view.permutation == tuple(range(len(view.dims)))
    layout = bytes([coded.member.dtype, len(view.dims) | (0 if identity else 128)])
    dims = b"".join(map(varint, view.dims)) + (b"" if identity else bytes(view.permutation))
    return layout + dims + varint(view.batch) + varint(view.rows) + _form(coded.member.form, coded, table_count)


def _form(form: Form, coded: _Coded, table_count: int) -> bytes:
    symbols = _symbols(coded, table_count)
    match form:
        case Grid():
            column = b"" if form.column_scale is None else _dense(form.column_scale)
            return bytes([TAG_GRID, bool(column)]) + varint(form.block) + _dense(form.scale) + column + symbols
        case Codebook():
            scale = b"" if form.scale is None else _dense(form.scale)
            return bytes([TAG_CODEBOOK, bool(scale)]) + _dense(form.centroids) + scale + symbols
        case Sparse():
            return bytes([TAG_SPARSE, DENSE_KINDS.index(form.values.kind)]) + symbols
        case Symbols():
            return symbols


def _dense(dense: Dense) -> bytes:
    exponent = bytes([dense.exponent & 255]) if dense.kind == "log8" else b""
    return bytes([TAG_DENSE, DENSE_KINDS.index(dense.kind)]) + varint(len(dense.codes)) + exponent + dense.codes.tobytes()


def _symbols(coded: _Coded, table_count: int) -> bytes:
    coding = coded.coding
    classes = 1 if coding.row_class is None else len(coded.table_numbers)
    head = bytes([TAG_SYMBOLS, coding.raw_bits]) + zigzag(coding.escape_base) + bytes([classes, 1, 1])
    numbers = bytes(coded.table_numbers[:classes]) if table_count > 1 else b""
    return head + numbers + (b"" if coding.row_class is None else coding.row_class.tobytes())


def _chunks(member: Member, width: int, groups: int) -> list[tuple[NDArray[np.int32], int]]:
    """(levels [groups, lanes, k], number of the first panel) of every chunk, in order."""
    levels, lanes = _levels(member), PANEL_ROWS * width
    full, rest = divmod(member.view.rows, lanes)
    chunks = []
    for batch in range(member.view.batch):
        panel = batch * (member.view.panels // member.view.batch)
        for group in range(0, full, groups):
            rows = levels[batch, group * lanes : (group + groups) * lanes]
            chunks.append((rows.reshape(groups, lanes, -1), panel + group * width))
        if rest:
            chunks.append((levels[batch, full * lanes :][None], panel + full * width))
    return chunks


def _chunk(coded: _Coded, levels: NDArray[np.int32], panel: int) -> tuple[bytes, bytes]:
    """(directory entry, bytes) of one chunk."""
    groups, lanes, k = levels.shape
    row_class = coded.coding.row_class
    panels = panel + np.arange(groups * lanes).reshape(groups, lanes) // PANEL_ROWS
    classes = None if row_class is None else np.broadcast_to(row_class[panels][:, None, :], (groups, k, lanes)).reshape(-1)
    index, numbers, raw, escapes = _classify(coded, coded.coding.tables, levels.transpose(0, 2, 1), classes)
    stream = encode(coded.coding.tables, numbers, index, np.full(groups * k, lanes))
    values = b""
    if isinstance(coded.member.form, Sparse):
        values = _chunk_values(coded.member, levels, panel)
    body = stream.rans.tobytes() + stream.heads.astype("<u2").tobytes() + _planes(raw, groups * k, lanes) + escapes + values
    entry = varint(len(stream.rans)) + varint(len(escapes))
    if isinstance(coded.member.form, Sparse):
        entry += varint(len(values) // coded.member.form.values.codes.itemsize)
    return entry + zlib.crc32(body).to_bytes(4, "little"), body


def _classify(
    coded: _Coded, tables: tuple[Table, ...], levels: NDArray[np.int32], classes: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], bytes]:
    """Levels in decoding order to (class indices, table numbers, raw bits [symbols * r], escape bytes)."""
    coding = coded.coding
    shifted = levels.reshape(-1) + ((1 << coding.raw_bits) >> 1)
    values = shifted >> coding.raw_bits
    numbers = (
        np.full(len(values), coded.table_numbers[0], np.uint8) if classes is None else np.array(coded.table_numbers, np.uint8)[classes]
    )
    index = np.empty(len(values), np.uint8)
    escaped = np.zeros(len(values), np.bool_)
    for number in set(coded.table_numbers):
        lookup, escapes = _class_lookup(tables[number], coding.escape_base)
        mine = slice(None) if len(set(coded.table_numbers)) == 1 else numbers == number
        offsets = values[mine] - coding.escape_base
        index[mine], escaped[mine] = lookup[offsets], escapes[offsets]
    raw = (shifted[:, None] >> np.arange(coding.raw_bits) & 1).astype(np.uint8).reshape(-1)
    return index, numbers, raw, (values[escaped] - coding.escape_base).astype(np.uint8).tobytes()


def _class_lookup(table: Table, low: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Class index, and whether it is the escape, of the class values low..low + 255."""
    index = np.full(256, len(table.frequencies) - 1, np.uint8)
    escapes = np.ones(256, np.bool_)
    for number in range(len(table.frequencies) - table.escape):
        value = table.first + number - low
        if table.frequencies[number] and 0 <= value < 256:
            index[value], escapes[value] = number, False
    return index, escapes & table.escape


def _class_histogram(member: Member, coding: tabling.Coding) -> tuple[NDArray[np.float64], int, int]:
    values = (_levels(member) + ((1 << coding.raw_bits) >> 1)) >> coding.raw_bits
    return *tabling.histogram(values), coding.raw_bits


def _planes(raw: NDArray[np.uint8], steps: int, lanes: int) -> bytes:
    """Bits [steps * lanes * r] as bit planes by step and panel."""
    raw_bits = len(raw) // (steps * lanes)
    if not raw_bits:
        return b""
    bits = raw.reshape(steps, lanes, raw_bits).transpose(0, 2, 1)
    panels = [np.packbits(bits[:, :, at : at + PANEL_ROWS], axis=2, bitorder="little") for at in range(0, lanes, PANEL_ROWS)]
    return np.concatenate([panel.reshape(steps, -1) for panel in panels], axis=1).tobytes()


def _chunk_values(member: Member, mask: NDArray[np.int32], panel: int) -> bytes:
    """The values of a Sparse member's chunk, in decoding order."""
    form = cast(Sparse, member.form)
    everywhere = np.zeros(member.view.shape, form.values.codes.dtype)
    everywhere[_levels(member) == 1] = form.values.codes
    batch, panel = divmod(panel, member.view.panels // member.view.batch)
    groups, lanes, k = mask.shape
    rows = everywhere[batch, panel * PANEL_ROWS : panel * PANEL_ROWS + groups * lanes].reshape(groups, lanes, k)
    return rows.transpose(0, 2, 1)[mask.transpose(0, 2, 1) == 1].tobytes()
