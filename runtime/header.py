"""Parses headers: bytes to forms without levels (FORMAT.md, sections 2, 6 and 7). Validates everything before it allocates."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .cursor import Cursor
from .errors import CorruptionError, FormatError, TruncatedError, UnsupportedVersionError
from .form import PANEL_ROWS, Member, Payload, Planes, Sparse
from .members import read_member, read_table
from .planes import escape_bytes, low_bytes

MAGIC = b"OC"
DRAFT = 4
FORMAT_VERSION = f"0.{DRAFT}"
FORMAT_KEY = "onnx_compress.format"
"""The metadata_props key that names the payload format of a compressed model."""

LOSSLESS_VERSION = f"{FORMAT_VERSION} lossless"
"""Its value in a file that gives its original back: so it is known as one even where the record of that is damaged."""

LENGTH_START, LENGTH_END = 4, 8
"""Where header_bytes stands, u32."""

SYMBOLS_PER_BYTE = 65536
LEAST_ENTRY_BYTES = 6  # of a chunk in the directory: two varints and a checksum
POOL_SYMBOLS = 65536
POOL_MEMBERS = 4096


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stream of a chunked payload: which rows it codes and where its bytes are."""

    batch: int
    first_row: int
    lanes: int
    groups: int
    rans_bytes: int
    escapes: int
    values: int
    crc: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Pool:
    """The one stream of a pool."""

    lanes: int
    rans_bytes: int
    escapes: int
    crc: int
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """A parsed header; the forms' levels are still None."""

    payload: Payload
    header_bytes: int
    chunks: tuple[Chunk, ...]
    pool: Pool | None


def read_header(data: NDArray[np.uint8]) -> Header:
    """Parses and validates the header of `data`, uint8 [n]; reads no stream.

    Raises FormatError, TruncatedError, CorruptionError or UnsupportedVersionError.
    """
    cursor = Cursor(data, len(data))
    if cursor.take(2, "the magic").tobytes() != MAGIC:
        raise FormatError("these bytes are no onnx-compress payload (the magic is missing)")
    if (draft := cursor.u8("the draft")) != DRAFT:
        raise UnsupportedVersionError(
            f"payload of format draft {draft}; this version reads draft {DRAFT} only: install the onnx-compress that wrote it"
        )
    pooled = bool(cursor.byte_in("the kind", 0, 1))
    header_bytes = cursor.u32("header_bytes")
    if header_bytes > len(data):
        raise TruncatedError(f"the header has {header_bytes} bytes, the payload only {len(data)}")
    if header_bytes < 12:
        raise FormatError(f"header_bytes is {header_bytes}, at least 12 are needed")
    if zlib.crc32(data[: header_bytes - 4].data) != int.from_bytes(data[header_bytes - 4 : header_bytes].tobytes(), "little"):
        raise CorruptionError("the header's checksum does not match: the payload was changed after it was written")
    cursor.end = header_bytes - 4
    header = _read_body(cursor, pooled)
    if cursor.position != cursor.end:
        raise FormatError(f"{cursor.end - cursor.position} unexpected bytes at the end of the header")
    return header


def _read_body(cursor: Cursor, pooled: bool) -> Header:
    tables = tuple(read_table(cursor) for _ in range(cursor.varint("table_count", 0, 256)))
    count = cursor.varint("member_count", 1, POOL_MEMBERS) if pooled else 1
    members = tuple(read_member(cursor, len(tables), pooled) for _ in range(count))
    symbols = sum(member.view.size for member in members)
    if symbols > SYMBOLS_PER_BYTE * len(cursor.data):
        raise FormatError(f"{symbols} symbols in a payload of {len(cursor.data)} bytes are not believable")
    payload, header_bytes = Payload(tables, members, pooled), cursor.end + 4
    if pooled:
        return Header(payload, header_bytes, (), _read_pool_layout(cursor, members, header_bytes))
    return Header(payload, header_bytes, _read_chunk_layout(cursor, members[0], header_bytes), None)


def _read_chunk_layout(cursor: Cursor, member: Member, offset: int) -> tuple[Chunk, ...]:
    lanes = PANEL_ROWS * cursor.byte_in("width", 1, 4)
    full, rest = divmod(member.view.rows, lanes)
    groups = cursor.varint("groups_per_chunk", 1)
    if full and full % groups:
        raise FormatError(f"groups_per_chunk {groups} does not divide {full} groups")
    many = member.view.batch * (full // groups + (rest > 0))
    if many * LEAST_ENTRY_BYTES > cursor.end - cursor.position:  # before anything of that size is made
        raise TruncatedError(f"a directory of {many} chunks does not fit the header")
    starts = [(row * lanes, lanes, groups) for row in range(0, full, groups)] + ([(full * lanes, rest, 1)] if rest else [])
    chunks = []
    for batch in range(member.view.batch):
        for first_row, width, count in starts:
            chunks.append(_read_chunk(cursor, member, Chunk(batch, first_row, width, count, 0, 0, 0, 0, offset, 0)))
            offset += chunks[-1].size
    _check_end(offset, len(cursor.data))
    return tuple(chunks)


def _read_chunk(cursor: Cursor, member: Member, place: Chunk) -> Chunk:
    rans_bytes, escapes = cursor.varint("rans_bytes"), cursor.varint("escape_count")
    value_bytes = values = 0
    if isinstance(member.form, Sparse):
        values = cursor.varint("value_count")
        value_bytes = values * member.form.values.codes.itemsize
    if isinstance(member.form, Planes):
        value_bytes = low_bytes(member, place.batch * member.view.rows + place.first_row, place.groups, place.lanes)
        escapes *= escape_bytes(member)
    size = rans_bytes + 2 * place.lanes + raw_bytes(member, place) + escapes + value_bytes
    return replace(place, rans_bytes=rans_bytes, escapes=escapes, values=values, crc=cursor.u32("chunk_crc"), size=size)


def stored_raw_bits(member: Member) -> int:
    """Bits of a raw part that the raw section holds: all but the one that is coded."""
    return member.symbols.raw_bits - (isinstance(member.form, Planes) and member.form.fields.cuts is not None)


def raw_bytes(member: Member, chunk: Chunk) -> int:
    """Bytes of a chunk's raw section: for each step and panel, bit planes of ceil(lanes / 8) bytes."""
    full, rest = divmod(chunk.lanes, PANEL_ROWS)
    return chunk.groups * member.view.k * stored_raw_bits(member) * (full * (PANEL_ROWS // 8) + -(-rest // 8))


def _read_pool_layout(cursor: Cursor, members: tuple[Member, ...], offset: int) -> Pool:
    lanes = cursor.byte_in("lanes", 1, 64)
    pool = Pool(lanes, cursor.varint("rans_bytes"), cursor.varint("escape_count"), cursor.u32("stream_crc"), offset)
    if (symbols := sum(member.view.size for member in members)) > POOL_SYMBOLS:
        raise FormatError(f"a pool of {symbols} symbols, at most {POOL_SYMBOLS} are legal")
    raw_bits = sum(member.symbols.raw_bits * member.view.size for member in members)
    _check_end(offset + pool.rans_bytes + 2 * lanes + -(-raw_bits // 8) + pool.escapes, len(cursor.data))
    return pool


def _check_end(expected: int, actual: int) -> None:
    if expected > actual:
        raise TruncatedError(f"the payload has {actual} bytes, its header announces {expected}")
    if expected < actual:
        raise FormatError(f"{actual - expected} unexpected bytes behind the payload's last stream")
