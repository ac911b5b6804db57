"""Header bytes: tables, members and their forms (FORMAT.md, sections 1 to 5). What is written, `runtime/members.py` reads back."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Codebook, Dense, Grid, Mapped, Member, Planes, Sparse, Symbols, Table
from ..runtime.header import DRAFT, MAGIC
from ..runtime.members import DENSE_KINDS, TAG_CODEBOOK, TAG_DENSE, TAG_GRID, TAG_MAPPED, TAG_PLANES, TAG_SPARSE, TAG_SYMBOLS, class_bits
from .cuts import cut_bytes
from .tables import Coding


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A member with how its symbols are coded, and the quantizers of its levels where these are trellis-coded.

    `numbers` uint8 [row classes, column classes, quantizers]: tables of the payload.
    """

    member: Member
    coding: Coding
    numbers: NDArray[np.uint8]
    quantizers: NDArray[np.uint8] | None


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


def framed(kind: int, body: bytes) -> bytes:
    """Magic, draft, kind and length in front of a header's body, its checksum behind."""
    start = MAGIC + bytes([DRAFT, kind]) + (len(body) + 12).to_bytes(4, "little") + body
    return start + zlib.crc32(start).to_bytes(4, "little")


def table_bytes(tables: tuple[Table, ...]) -> bytes:
    """The tables and their number."""
    return varint(len(tables)) + b"".join(map(_table, tables))


def _table(table: Table) -> bytes:
    return bytes([len(table.frequencies) | table.escape << 7]) + zigzag(table.first) + bytes(table.frequencies[:-1])


def member_bytes(coded: Coded, table_count: int) -> bytes:
    """One member; `table_count` tables are in the payload."""
    view = coded.member.view
    identity = view.permutation == tuple(range(len(view.dims)))
    layout = bytes([coded.member.dtype, len(view.dims) | (0 if identity else 128)])
    dims = b"".join(map(varint, view.dims)) + (b"" if identity else bytes(view.permutation))
    return layout + dims + varint(view.batch) + varint(view.rows) + _form(coded, table_count)


def _form(coded: Coded, table_count: int) -> bytes:
    symbols = _symbols(coded, table_count)
    match coded.member.form:
        case Grid() as form:
            column = _optional(form.column_scale)
            return bytes([TAG_GRID, bool(column)]) + varint(form.block) + _dense(form.scale) + column + symbols
        case Codebook() as form:
            scale = _optional(form.scale)
            return bytes([TAG_CODEBOOK, bool(scale)]) + _dense(form.centroids) + scale + symbols
        case Mapped() as form:
            scale = _optional(form.scale)
            group = packed(form.row_group, form.groups)
            return bytes([TAG_MAPPED, bool(scale)]) + varint(form.groups) + _dense(form.centroids) + scale + group + symbols
        case Sparse() as form:
            return bytes([TAG_SPARSE, DENSE_KINDS.index(form.values.kind)]) + symbols
        case Planes(fields=fields):
            flags = fields.integers | (fields.short_row is not None) << 1 | fields.delta << 2 | (fields.cuts is not None) << 3
            base = fields.base.to_bytes(8, "little") if fields.integers else b""
            short = b"" if fields.short_row is None else bytes([fields.short]) + packed(fields.short_row, 2)
            cuts = b"" if fields.cuts is None else cut_bytes(fields.cuts)
            return bytes([TAG_PLANES, flags]) + base + bytes([fields.drop, fields.planes]) + short + cuts + symbols
        case Symbols():
            return symbols


def _optional(dense: Dense | None) -> bytes:
    return b"" if dense is None else _dense(dense)


def _dense(dense: Dense) -> bytes:
    exponent = bytes([dense.exponent & 255]) if dense.kind == "log8" else b""
    return bytes([TAG_DENSE, DENSE_KINDS.index(dense.kind)]) + varint(len(dense.codes)) + exponent + dense.codes.tobytes()


def _symbols(coded: Coded, table_count: int) -> bytes:
    coding, (rows, columns, quantizers) = coded.coding, coded.numbers.shape
    head = bytes([TAG_SYMBOLS, coding.raw_bits]) + zigzag(coding.escape_base) + bytes([rows, columns, quantizers])
    numbers = coded.numbers.tobytes() if table_count > 1 else b""
    return head + numbers + packed(coding.row_class, rows) + packed(coding.column_class, columns)


def packed(codes: NDArray[np.uint8] | None, classes: int) -> bytes:
    """Codes below `classes`, ceil(log2(classes)) bits each, least significant first; nothing where there are none."""
    if codes is None:
        return b""
    bits = np.unpackbits(codes[:, None], axis=1, count=class_bits(classes), bitorder="little")
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()
