"""Parses tables, members and their forms, without levels (FORMAT.md, sections 3 to 5). Validates everything before it allocates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .cursor import Cursor
from .errors import FormatError
from .form import PROBABILITY_ONE, Codebook, Dense, Fields, Form, Grid, Mapped, Member, Planes, Sparse, Symbols, Table, View

FLOAT_DTYPES = (1, 10, 16)
INTEGER_RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15), 22: (-8, 7)}
WIDTHS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8}
"""Bits of a value, of the dtypes that Planes may have."""

EXPONENT_BITS = {1: 8, 10: 5, 11: 11, 16: 8, 17: 4, 18: 4, 19: 5, 20: 5}
"""Of the floats among them."""

DENSE_KINDS = ("float32", "float16", "bfloat16", "log8")
DENSE_CODES = (np.dtype("<u4"), np.dtype("<u2"), np.dtype("<u2"), np.dtype("u1"))
TAG_DENSE, TAG_SPARSE, TAG_GRID, TAG_CODEBOOK, TAG_SYMBOLS, TAG_PLANES, TAG_MAPPED = range(7)
MOST_CENTROIDS = 65536
MOST_CLASSES = 16
EVEN_CUT = 128
"""Of a class whose top raw bit is as often 0 as 1."""

MOST_GROUPS = 256


@dataclass(frozen=True, slots=True, eq=False)
class _Scope:
    """Where a form is read, and what it belongs to; `tables` are those of the payload."""

    cursor: Cursor
    dtype: int
    view: View
    tables: int
    pooled: bool

    @property
    def rows(self) -> int:
        """Rows in all batches."""
        return self.view.batch * self.view.rows


def read_table(cursor: Cursor) -> Table:
    """A table of frequencies."""
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


def read_member(cursor: Cursor, tables: int, pooled: bool) -> Member:
    """A member with its form, which has no levels yet."""
    dtype = cursor.u8("a dtype")
    if dtype not in WIDTHS and dtype not in INTEGER_RANGES:
        raise FormatError(f"dtype {dtype} is not one that weights can have")
    view = _read_view(cursor)
    form = _read_form(_Scope(cursor, dtype, view, tables, pooled))
    legal = WIDTHS if isinstance(form, Planes) else INTEGER_RANGES if isinstance(form, Symbols) else FLOAT_DTYPES
    if dtype not in legal:
        raise FormatError(f"form {type(form).__name__} does not fit dtype {dtype}")
    if pooled and isinstance(form, Sparse | Planes):
        raise FormatError("a pool holds no Sparse and no Planes members")
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


def _read_form(scope: _Scope) -> Form:
    cursor = scope.cursor
    tag = cursor.u8("a form's tag")
    if tag == TAG_SYMBOLS:
        return _read_symbols(scope)
    if tag == TAG_GRID:
        return _read_grid(scope)
    if tag == TAG_CODEBOOK:
        flags = cursor.byte_in("Codebook flags", 0, 1)
        centroids = _read_centroids(cursor, 1)
        scale = _read_dense(cursor, (scope.rows,), "a codebook's scale") if flags & 1 else None
        return Codebook(centroids, _read_leaf(scope), scale)
    if tag == TAG_MAPPED:
        return _read_mapped(scope)
    if tag == TAG_SPARSE:
        kind = cursor.byte_in("Sparse kind", 0, 2)
        return Sparse(_read_leaf(scope), Dense(DENSE_KINDS[kind], np.empty(0, DENSE_CODES[kind])))
    if tag == TAG_PLANES:
        return _read_planes(scope)
    raise FormatError(f"tag {tag} is no form of a weight")


def _read_grid(scope: _Scope) -> Grid:
    cursor, k = scope.cursor, scope.view.k
    flags = cursor.byte_in("Grid flags", 0, 1)
    block = cursor.varint("a grid's block", 0, k)
    blocks = -(-k // block) if block else 1
    scale = _read_dense(cursor, (1, scope.rows * blocks), "a grid's scale")
    column_scale = _read_dense(cursor, (k,), "a column scale") if flags & 1 else None
    return Grid(scale, _read_leaf(scope, most_quantizers=2), column_scale, block)


def _read_mapped(scope: _Scope) -> Mapped:
    cursor = scope.cursor
    flags = cursor.byte_in("Mapped flags", 0, 1)
    groups = cursor.varint("groups", 1, MOST_GROUPS)
    centroids = _read_centroids(cursor, groups)
    scale = _read_dense(cursor, (scope.rows,), "the scale of a Mapped form") if flags & 1 else None
    row_group = _read_classes(cursor, scope.rows, groups, "a row's group") if groups > 1 else None
    return Mapped(centroids, groups, row_group, _read_leaf(scope), scale)


def _read_planes(scope: _Scope) -> Planes:
    cursor, width = scope.cursor, WIDTHS.get(scope.dtype, 0)
    flags = cursor.byte_in("Planes flags", 0, 15)
    integers = bool(flags & 1)
    if integers == (scope.dtype in EXPONENT_BITS) or (flags & 4 and not integers) or (flags & 8 and integers):
        raise FormatError(f"Planes flags {flags} do not fit dtype {scope.dtype}")
    base = int.from_bytes(cursor.take(8, "a base").tobytes(), "little") if integers else 0
    drop, planes = cursor.byte_in("dropped bits", 0, 63), cursor.byte_in("byte planes", 0, 7)
    short = cursor.byte_in("short bits", 1, 8 * planes) if flags & 2 else 0
    short_row = _read_classes(cursor, scope.rows, 2, "a short row") if flags & 2 else None
    cuts = _read_cuts(scope) if flags & 8 else None
    tops = _read_leaf(scope)
    if cuts is not None and not tops.raw_bits:
        raise FormatError("cuts of raw parts that have no bits")
    if drop + 8 * planes + tops.raw_bits >= width:
        raise FormatError(f"{drop} + 8 x {planes} + {tops.raw_bits} bits leave none of the {width} of dtype {scope.dtype} to symbols")
    return Planes(Fields(planes, drop, integers, bool(flags & 4), base, short, short_row, cuts), tops, np.empty((0, 0, 0), np.uint64))


def _read_cuts(scope: _Scope) -> NDArray[np.uint8]:
    """For each table a u8 (low 4 bits: the first class index that has a cut, high 4 bits: how many have), and these; 128 for the others."""
    cursor, cuts = scope.cursor, np.full((scope.tables, MOST_CLASSES), EVEN_CUT, np.uint8)
    for row in cuts:
        count, first = divmod(cursor.u8("cuts"), MOST_CLASSES)
        if first + count > MOST_CLASSES:
            raise FormatError(f"cuts of {count} classes from {first} on: a table has {MOST_CLASSES}")
        row[first : first + count] = cursor.take(count, "cuts")
        if not row.all():
            raise FormatError("a cut is 0, legal is 1..255")
    return cuts


def _read_leaf(scope: _Scope, most_quantizers: int = 1) -> Symbols:
    if scope.cursor.u8("a form's tag") != TAG_SYMBOLS:
        raise FormatError("a leaf of integers must be Symbols")
    return _read_symbols(scope, most_quantizers)


def _read_centroids(cursor: Cursor, groups: int) -> Dense:
    """Centroids of `groups` codebooks of one size."""
    kind = _read_dense_kind(cursor, "centroids")
    count = cursor.varint("centroids", 1)
    if count > MOST_CENTROIDS or count % groups:
        raise FormatError(f"{count} centroids in {groups} groups: at most {MOST_CENTROIDS} are legal, as many in each group")
    return _read_dense_codes(cursor, kind, count, "centroids")


def _read_dense(cursor: Cursor, counts: tuple[int, ...], what: str) -> Dense:
    """A leaf that has one of `counts` values."""
    kind = _read_dense_kind(cursor, what)
    count = cursor.varint(what, 1)
    if count not in counts:
        raise FormatError(f"{what} has {count} values, expected {' or '.join(map(str, counts))}")
    return _read_dense_codes(cursor, kind, count, what)


def _read_dense_kind(cursor: Cursor, what: str) -> int:
    if cursor.u8(what) != TAG_DENSE:
        raise FormatError(f"{what} must be Dense")
    return cursor.byte_in(what, 0, 3)


def _read_dense_codes(cursor: Cursor, kind: int, count: int, what: str) -> Dense:
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


def _read_symbols(scope: _Scope, most_quantizers: int = 1) -> Symbols:
    cursor, view = scope.cursor, scope.view
    raw_bits = cursor.byte_in("raw_bits", 0, 8)
    escape_base = cursor.zigzag("escape_base")
    rows, columns = cursor.byte_in("row classes", 1, 16), cursor.byte_in("column classes", 1, 16)
    quantizers = cursor.byte_in("quantizers", 1, most_quantizers)
    if not scope.tables:
        raise FormatError("symbols without a table")
    table_of = np.zeros((rows, columns, quantizers), np.uint8)
    if scope.tables > 1:
        numbers = _legal(cursor.take(table_of.size, "a table map"), scope.tables, "a table number")
        table_of = numbers.reshape(table_of.shape)
    units = scope.rows if scope.pooled else view.panels
    row_class = _read_classes(cursor, units, rows, "a row class") if rows > 1 else None
    column_class = _read_classes(cursor, view.k, columns, "a column class") if columns > 1 else None
    return Symbols(np.empty((0, 0, 0), np.int32), raw_bits, escape_base, table_of, row_class, column_class, quantizers)


def class_bits(classes: int) -> int:
    """Bits of a class code below `classes`: ceil(log2(classes))."""
    return (classes - 1).bit_length()


def _read_classes(cursor: Cursor, count: int, classes: int, what: str) -> NDArray[np.uint8]:
    """`count` codes below `classes`, ceil(log2(classes)) bits each, least significant first."""
    bits = class_bits(classes)
    flags = np.unpackbits(cursor.take(-(-count * bits // 8), what), bitorder="little")
    if flags[count * bits :].any():
        raise FormatError(f"an unused bit behind {what} is set")
    codes = np.zeros(count, np.uint8)
    for bit in range(bits):
        codes |= flags[bit : count * bits : bits] << np.uint8(bit)
    return _legal(codes, classes, what)


def _legal(codes: NDArray[np.uint8], limit: int, what: str) -> NDArray[np.uint8]:
    if codes.size and int(codes.max()) >= limit:
        raise FormatError(f"{what} is {int(codes.max())}, legal is 0..{limit - 1}")
    return codes
