"""Parses headers: bytes to forms without levels (FORMAT.md, sections 2 to 7). Validates everything before it allocates."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .cursor import Cursor
from .errors import CorruptionError, FormatError, TruncatedError, UnsupportedVersionError
from .form import PANEL_ROWS, PROBABILITY_ONE, Codebook, Dense, Form, Grid, Member, Payload, Sparse, Symbols, Table, View

MAGIC = b"OC"
DRAFT = 1
FORMAT_VERSION = f"0.{DRAFT}"
FLOAT_DTYPES = (1, 10, 16)
INTEGER_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15), 22: (-8, 7)}
DENSE_KINDS = ("float32", "float16", "bfloat16", "log8")
DENSE_CODES = (np.dtype("<u4"), np.dtype("<u2"), np.dtype("<u2"), np.dtype("u1"))
TAG_DENSE, TAG_SPARSE, TAG_GRID, TAG_CODEBOOK, TAG_SYMBOLS, TAG_PLANES, TAG_MAPPED = range(7)
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
    tables = tuple(_read_table(cursor) for _ in range(cursor.varint("table_count", 0, 256)))
    count = cursor.varint("member_count", 1, POOL_MEMBERS) if pooled else 1
    members = tuple(_read_member(cursor, len(tables), pooled) for _ in range(count))
    symbols = sum(member.view.size for member in members)
    if symbols > SYMBOLS_PER_BYTE * len(cursor.data):
        raise FormatError(f"{symbols} symbols in a payload of {len(cursor.data)} bytes are not believable")
    payload, header_bytes = Payload(tables, members, pooled), cursor.end + 4
    if pooled:
        return Header(payload, header_bytes, (), _read_pool_layout(cursor, members, header_bytes))
    return Header(payload, header_bytes, _read_chunk_layout(cursor, members[0], header_bytes), None)


def _read_table(cursor: Cursor) -> Table:
    code = cursor.u8("a table's classes")
    classes, escape = code & 127, code >= 128
    if not 1 <= classes <= 16:
        raise FormatError(f"a table has {classes} classes, legal is 1..16")
    first = cursor.zigzag("a table's first class")
    frequencies = [int(f) for f in cursor.take(classes - 1, "a table's frequencies")]
    rest = PROBABILITY_ONE - sum(frequencies)
    if rest < 1:
        raise FormatError(f"a table's frequencies sum to more than {PROBABILITY_ONE - 1} before the last class")
    return Table(first, (*frequencies, rest), escape)


def _read_member(cursor: Cursor, tables: int, pooled: bool) -> Member:
    dtype = cursor.u8("a dtype")
    if dtype not in FLOAT_DTYPES and dtype not in INTEGER_RANGES:
        raise FormatError(f"dtype {dtype} is not one that weights can have")
    view = _read_view(cursor)
    form = _read_form(cursor, view, tables)
    if isinstance(form, Symbols) == (dtype in FLOAT_DTYPES):
        raise FormatError(f"form {type(form).__name__} does not fit dtype {dtype}")
    if pooled and isinstance(form, Sparse):
        raise FormatError("a pool holds no Sparse members")
    return Member(dtype, view, form)


def _read_view(cursor: Cursor) -> View:
    layout = cursor.u8("a layout")
    rank = layout & 127
    if rank > 8:
        raise FormatError(f"rank {rank}, at most 8 is legal")
    dims = tuple(cursor.varint("a dimension", 1, 2**31 - 1) for _ in range(rank))
    size = math.prod(dims)
    if size >= 2**40:
        raise FormatError(f"dims {dims} have too many values")
    permutation = tuple(int(axis) for axis in cursor.take(rank, "a permutation")) if layout & 128 else tuple(range(rank))
    if sorted(permutation) != list(range(rank)):
        raise FormatError(f"{permutation} is no permutation of {rank} axes")
    batch, rows = cursor.varint("batch", 1), cursor.varint("rows", 1)
    if size % (batch * rows):
        raise FormatError(f"batch {batch} x rows {rows} does not divide the {size} values of dims {dims}")
    return View(dims, permutation, batch, rows)


def _read_form(cursor: Cursor, view: View, tables: int) -> Form:
    tag = cursor.u8("a form's tag")
    if tag in (TAG_PLANES, TAG_MAPPED):
        raise UnsupportedVersionError(f"form {('Planes', 'Mapped')[tag - TAG_PLANES]} is reserved in draft {DRAFT}")
    if tag == TAG_SYMBOLS:
        return _read_symbols(cursor, view, tables)
    if tag == TAG_GRID:
        return _read_grid(cursor, view, tables)
    if tag == TAG_CODEBOOK:
        flags = cursor.byte_in("Codebook flags", 0, 1)
        centroids = _read_dense(cursor, (), "centroids")
        scale = _read_dense(cursor, (view.batch * view.rows,), "a codebook's scale") if flags & 1 else None
        return Codebook(centroids, _read_leaf(cursor, view, tables), scale)
    if tag == TAG_SPARSE:
        kind = cursor.byte_in("Sparse kind", 0, 2)
        return Sparse(_read_leaf(cursor, view, tables), Dense(DENSE_KINDS[kind], np.empty(0, DENSE_CODES[kind])))
    raise FormatError(f"tag {tag} is no form of a weight")


def _read_grid(cursor: Cursor, view: View, tables: int) -> Grid:
    flags = cursor.byte_in("Grid flags", 0, 1)
    block = cursor.varint("a grid's block", 0, view.k)
    blocks = -(-view.k // block) if block else 1
    scale = _read_dense(cursor, (1, view.batch * view.rows * blocks), "a grid's scale")
    column_scale = _read_dense(cursor, (view.k,), "a column scale") if flags & 1 else None
    return Grid(scale, _read_leaf(cursor, view, tables), column_scale, block)


def _read_leaf(cursor: Cursor, view: View, tables: int) -> Symbols:
    if cursor.u8("a form's tag") != TAG_SYMBOLS:
        raise FormatError("a leaf of integers must be Symbols")
    return _read_symbols(cursor, view, tables)


def _read_dense(cursor: Cursor, counts: tuple[int, ...], what: str) -> Dense:
    if cursor.u8(what) != TAG_DENSE:
        raise FormatError(f"{what} must be Dense")
    kind = cursor.byte_in(what, 0, 3)
    count = cursor.varint(what, 1)
    if counts and count not in counts:
        raise FormatError(f"{what} has {count} values, expected {' or '.join(map(str, counts))}")
    if not counts and count > 65536:
        raise FormatError(f"{count} centroids, at most 65536 are legal")
    exponent = 0
    if DENSE_KINDS[kind] == "log8":
        exponent = int(np.int8(np.uint8(cursor.u8(what))))
        if not -100 <= exponent <= 84:
            raise FormatError(f"{what}: exponent {exponent}, legal is -100..84")
    codes = cursor.take(count * DENSE_CODES[kind].itemsize, what).view(DENSE_CODES[kind])
    exponent_mask = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}.get(DENSE_KINDS[kind])
    if exponent_mask and ((codes & exponent_mask) == exponent_mask).any():
        raise FormatError(f"{what} holds a value that is not finite")
    return Dense(DENSE_KINDS[kind], codes, exponent)


def _read_symbols(cursor: Cursor, view: View, tables: int) -> Symbols:
    raw_bits = cursor.byte_in("raw_bits", 0, 8)
    escape_base = cursor.zigzag("escape_base")
    rows, columns = cursor.byte_in("row classes", 1, 16), cursor.byte_in("column classes", 1, 16)
    if (quantizers := cursor.u8("quantizers")) != 1:
        raise UnsupportedVersionError(f"{quantizers} quantizers: trellis-coded levels are reserved in draft {DRAFT}")
    if not tables:
        raise FormatError("symbols without a table")
    table_of = np.zeros((rows, columns, 1), np.uint8)
    if tables > 1:
        table_of = _classes(cursor.take(rows * columns, "a table map"), tables, "a table number").reshape(rows, columns, 1)
    row_class = _classes(cursor.take(view.panels, "row classes"), rows, "a row class") if rows > 1 else None
    column_class = _classes(cursor.take(view.k, "column classes"), columns, "a column class") if columns > 1 else None
    return Symbols(np.empty((0, 0, 0), np.int32), raw_bits, escape_base, table_of, row_class, column_class)


def _classes(codes: NDArray[np.uint8], limit: int, what: str) -> NDArray[np.uint8]:
    if codes.size and int(codes.max()) >= limit:
        raise FormatError(f"{what} is {int(codes.max())}, legal is 0..{limit - 1}")
    return codes


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
    size = rans_bytes + 2 * place.lanes + raw_bytes(member, place) + escapes + value_bytes
    return replace(place, rans_bytes=rans_bytes, escapes=escapes, values=values, crc=cursor.u32("chunk_crc"), size=size)


def raw_bytes(member: Member, chunk: Chunk) -> int:
    """Bytes of a chunk's raw section: for each step and panel, r bit planes of ceil(lanes / 8) bytes."""
    full, rest = divmod(chunk.lanes, PANEL_ROWS)
    return chunk.groups * member.view.k * member.symbols.raw_bits * (full * (PANEL_ROWS // 8) + -(-rest // 8))


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
