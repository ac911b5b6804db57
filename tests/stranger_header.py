"""What a header says, read from FORMAT.md alone (see `stranger.py`)."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from tests.stranger_bytes import Bytes, require

M = [
    *(0x3F800000, 0x3F85AAC3, 0x3F8B95C2, 0x3F91C3D3, 0x3F9837F0, 0x3F9EF532, 0x3FA5FED7, 0x3FAD583F),
    *(0x3FB504F3, 0x3FBD08A4, 0x3FC5672A, 0x3FCE248C, 0x3FD744FD, 0x3FE0CCDF, 0x3FEAC0C7, 0x3FF5257D),
]


FLOATS = {1: "<f4", 10: "<f2", 16: "<u2"}


RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 21: (0, 15), 22: (-8, 7)}


STORED = {2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 21: "u1", 22: "i1"}


VALUE_BYTES = (4, 2, 2)


WIDTH = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8}


EXPONENT = {1: 8, 10: 5, 11: 11, 16: 8, 17: 4, 18: 4, 19: 5, 20: 5}


PLANES_STORED = {**FLOATS, 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 11: "<f8", 12: "<u4", 13: "<u8", 17: "u1", 18: "u1", 19: "u1", 20: "u1"}


NEXT = [[0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]]


@dataclass
class Table:
    first: int
    frequency: list[int]
    escape: bool
    start: list[int] = field(default_factory=list)

    def index(self, slot: int) -> int:
        return next(i for i, (s, f) in enumerate(zip(self.start, self.frequency, strict=True)) if s <= slot < s + f)


@dataclass
class Symbols:
    raw_bits: int
    escape_base: int
    columns: int
    quantizers: int
    map: list[int]
    row_class: list[int] | None
    column_class: list[int] | None
    levels: dict[tuple[int, int, int], int] = field(default_factory=dict)
    multiples: dict[tuple[int, int, int], int] = field(default_factory=dict)
    states: dict[tuple[int, int], int] = field(default_factory=dict)

    def table(self, unit: int, place: tuple[int, int, int]) -> int:
        row_class = self.row_class[unit] if self.row_class else 0
        column_class = self.column_class[place[2]] if self.column_class else 0
        q = self.states.get(place[:2], 0) & 1 if self.quantizers == 2 else 0
        return self.map[(row_class * self.columns + column_class) * self.quantizers + q]

    def put(self, place: tuple[int, int, int], level: int) -> None:
        self.levels[place] = self.multiples[place] = level
        if self.quantizers == 2:
            s = self.states.get(place[:2], 0)
            self.multiples[place] = 2 * level - (s & 1) * ((level > 0) - (level < 0))
            self.states[place[:2]] = NEXT[s][level & 1]


@dataclass
class Planes:
    integers: bool
    delta: bool
    base: int
    drop: int
    count: int
    short: int
    short_row: list[int]
    cuts: list[list[int]]
    words: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def kept(self, p: int) -> int:
        return max(0, min(8, 8 * (self.count - p) - self.short))


@dataclass
class Member:
    dtype: int
    dims: list[int]
    permutation: list[int]
    batch: int
    rows: int
    k: int
    symbols: Symbols = None  # type: ignore[assignment]
    value: Callable[[int, int, int, int], float] | None = None
    sparse: int | None = None
    values: dict[tuple[int, int, int], float] = field(default_factory=dict)
    codes: int | None = None
    planes: Planes | None = None

    def escape_bytes(self) -> int:
        if self.planes is None:
            return 1
        return 2 if WIDTH[self.dtype] - self.planes.drop - 8 * self.planes.count - self.symbols.raw_bits > 8 else 1

    def stored_bits(self) -> int:
        return self.symbols.raw_bits - (self.planes is not None and bool(self.planes.cuts))

    def panels(self) -> int:
        return -(-self.rows // 64)

    def places(self) -> Iterator[tuple[int, int, int]]:
        return ((b, o, c) for b in range(self.batch) for o in range(self.rows) for c in range(self.k))


def round32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def value_of(kind: int, code: bytes) -> float:
    if kind == 0:
        return float(struct.unpack("<f", code)[0])
    if kind == 1:
        return float(struct.unpack("<e", code)[0])
    return float(struct.unpack("<f", b"\0\0" + code)[0])


def read_table(r: Bytes) -> Table:
    classes = r.u8()
    n = classes & 127
    require(1 <= n <= 16, 1, "classes")
    first = r.zigzag()
    frequency = [r.u8() for _ in range(n - 1)]
    frequency.append(256 - sum(frequency))
    require(frequency[-1] >= 1, 1, "frequencies")
    return Table(first, frequency, classes > 127, [sum(frequency[:i]) for i in range(n)])


def read_dense(r: Bytes, counts: Callable[[int], bool]) -> list[float]:
    require(r.u8() == 0, 1, "not Dense")
    kind, count = r.u8(0, 3), r.varint(1)
    require(counts(count), 1, "count")
    if kind == 3:
        exponent = (r.u8() ^ 128) - 128
        require(-100 <= exponent <= 84, 1, "exponent")
        mantissas = [value_of(0, m.to_bytes(4, "little")) for m in M]
        return [mantissas[j & 15] * 2.0 ** (exponent + (j >> 4)) for j in r.take(count)]
    size = VALUE_BYTES[kind]
    section = r.take(size * count)
    values = [value_of(kind, section[i * size : i * size + size]) for i in range(count)]
    require(all(map(math.isfinite, values)), 1, "not finite")
    return values


def read_symbols(r: Bytes, member: Member, tables: int, pool: bool, tagged: bool = True, most_quantizers: int = 1) -> None:
    if tagged:
        require(r.u8() == 4, 1, "not Symbols")
    raw_bits, escape_base = r.u8(0, 8), r.zigzag()
    rows, columns, quantizers = r.u8(1, 16), r.u8(1, 16), r.u8(1, most_quantizers)
    require(tables > 0, 1, "no table")
    many = rows * columns * quantizers
    numbers = list(r.take(many)) if tables > 1 else [0] * many
    require(all(number < tables for number in numbers), 1, "map")
    units = member.batch * (member.rows if pool else member.panels())
    row_class = r.codes(units, rows) if rows > 1 else None
    column_class = r.codes(member.k, columns) if columns > 1 else None
    member.symbols = Symbols(raw_bits, escape_base, columns, quantizers, numbers, row_class, column_class)


def read_grid(r: Bytes, member: Member, tables: int, pool: bool) -> None:
    flags, block = r.u8(0, 1), r.varint(0, member.k)
    blocks = -(-member.k // block) if block else 1
    full = member.batch * member.rows * blocks
    scale = read_dense(r, lambda count: count in (1, full))
    column = read_dense(r, lambda count: count == member.k) if flags else None

    def value(b: int, o: int, c: int, _: int) -> float:
        s = scale[0] if len(scale) == 1 else scale[(b * member.rows + o) * blocks + (c // block if block else 0)]
        s = s if column is None else round32(s * column[c])
        return round32(s * round32(member.symbols.multiples[b, o, c]))

    member.value = value
    read_symbols(r, member, tables, pool, most_quantizers=2)


def read_codebook(r: Bytes, member: Member, tables: int, pool: bool) -> None:
    flags = r.u8(0, 1)
    centroids = read_dense(r, lambda count: count <= 65536)
    scale = read_dense(r, lambda count: count == member.batch * member.rows) if flags else None

    def value(b: int, o: int, _: int, level: int) -> float:
        return centroids[level] if scale is None else round32(scale[b * member.rows + o] * centroids[level])

    member.value, member.codes = value, len(centroids)
    read_symbols(r, member, tables, pool)


def read_mapped(r: Bytes, member: Member, tables: int, pool: bool) -> None:
    flags, groups = r.u8(0, 1), r.varint(1, 256)
    centroids = read_dense(r, lambda count: count <= 65536 and count % groups == 0)
    rows = member.batch * member.rows
    scale = read_dense(r, lambda count: count == rows) if flags else None
    row_group = r.codes(rows, groups) if groups > 1 else [0] * rows
    n = len(centroids) // groups

    def value(b: int, o: int, _: int, code: int) -> float:
        row = b * member.rows + o
        that = centroids[row_group[row] * n + code]
        return that if scale is None else round32(scale[row] * that)

    member.value, member.codes = value, n
    read_symbols(r, member, tables, pool)


def read_cuts(r: Bytes) -> list[int]:
    code = r.u8()
    first, count = code & 15, code >> 4
    require(first + count <= 16, 1, "cuts")
    own = list(r.take(count))
    require(all(own), 1, "a cut of 0")
    return [128] * first + own + [128] * (16 - first - count)


def read_planes(r: Bytes, member: Member, tables: int, pool: bool) -> None:
    require(member.dtype in WIDTH, 1, "dtype of Planes")
    flags = r.u8(0, 15)
    require(bool(flags & 1) == (member.dtype not in EXPONENT) and (flags & 1 or not flags & 4), 1, "flags of Planes")
    require(not (flags & 1 and flags & 8), 1, "cuts of integers")
    base = int.from_bytes(r.take(8), "little") if flags & 1 else 0
    drop, count = r.u8(0, 63), r.u8(0, 7)
    rows = member.batch * member.rows
    short = r.u8(1, 8 * count) if flags & 2 else 0
    short_row = r.codes(rows, 2) if flags & 2 else [0] * rows
    cuts = [read_cuts(r) for _ in range(tables)] if flags & 8 else []
    member.planes = Planes(bool(flags & 1), bool(flags & 4), base, drop, count, short, short_row, cuts)
    read_symbols(r, member, tables, pool)
    require(not flags & 8 or member.symbols.raw_bits > 0, 1, "no raw bit is there to be coded")
    require(drop + 8 * count + member.symbols.raw_bits < WIDTH[member.dtype], 1, "no bits for symbols")


def read_member(r: Bytes, tables: int, pool: bool) -> Member:
    dtype = r.u8()
    require(dtype in WIDTH or dtype in RANGES, 1, "dtype")
    layout = r.u8()
    rank = layout & 127
    require(rank <= 8, 1, "rank")
    dims = [r.varint(1, 2**31 - 1) for _ in range(rank)]
    size = math.prod(dims)
    require(size < 2**40, 1, "dims")
    permutation = list(r.take(rank)) if layout > 127 else list(range(rank))
    require(sorted(permutation) == list(range(rank)), 1, "permutation")
    batch, rows = r.varint(1), r.varint(1)
    require(size % (batch * rows) == 0, 1, "batch * rows")
    member = Member(dtype, dims, permutation, batch, rows, size // (batch * rows))
    tag = r.u8()
    require(tag in (1, 2, 3, 4, 5, 6), 1, "form")
    if tag == 1:
        member.sparse = r.u8(0, 2)
        read_symbols(r, member, tables, pool)
    elif tag == 4:
        read_symbols(r, member, tables, pool, tagged=False)
    else:
        {2: read_grid, 3: read_codebook, 5: read_planes, 6: read_mapped}[tag](r, member, tables, pool)
    require(tag == 5 or (dtype in (RANGES if tag == 4 else FLOATS)), 1, "form does not fit the dtype")
    require(not (pool and tag in (1, 5)), 1, "Sparse or Planes in a pool")
    return member
