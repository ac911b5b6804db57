"""A second decoder, written from the text of runtime/FORMAT.md alone: pure Python, one symbol at a time, nothing imported from the package.

Where it and `runtime/reader.py` agree, the page says what the code does. `decode` gives the tensors of all members; `Rejected.number` is the R number.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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


class Rejected(Exception):  # noqa: N818  (what happened, not what went wrong)
    """The bytes are to be rejected with this number."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"R{number}: {reason}")
        self.number = number


def require(condition: bool, number: int, reason: str) -> None:
    if not condition:
        raise Rejected(number, reason)


class Bytes:
    """Reads fields one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        require(self.at + count <= len(self.data), 2, "ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self, low: int = 0, high: int = 255) -> int:
        value = self.take(1)[0]
        require(low <= value <= high, 1, f"byte {value} is not in {low}..{high}")
        return value

    def varint(self, low: int = 0, high: int = 2**35 - 1) -> int:
        value = 0
        for i in range(5):
            byte = self.take(1)[0]
            value += (byte & 127) << (7 * i)
            if byte < 128:
                require(low <= value <= high, 1, f"varint {value} is not in {low}..{high}")
                return value
        raise Rejected(1, "a varint of more than 5 bytes")

    def zigzag(self) -> int:
        z = self.varint()
        value = (z >> 1) ^ -(z & 1)
        require(-32768 <= value <= 32767, 1, f"zigzag {value}")
        return value

    def codes(self, count: int, n: int) -> list[int]:
        w = next(w for w in range(9) if 2**w >= n)
        section = self.take((count * w + 7) // 8)
        bits = int.from_bytes(section, "little")
        require(bits >> (count * w) == 0, 1, "unused bits of codes")
        flags = [byte >> i & 1 for byte in section for i in range(8)]
        numbers = [sum(flags[i * w + j] << j for j in range(w)) for i in range(count)]
        require(all(number < n for number in numbers), 1, f"a code is not below {n}")
        return numbers


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


class Stream:
    """The sections of one stream and their reading positions."""

    def __init__(self, tables: list[Table], body: bytes, sizes: list[int], escape_bytes: int = 1) -> None:
        self.tables, self.escape_bytes = tables, escape_bytes
        self.rans, heads, self.raw, self.escapes, self.values = (body[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(5))
        self.states = [heads[i] + 256 * heads[i + 1] for i in range(0, len(heads), 2)]
        require(min(self.states) >= 256, 3, "a head below 256")
        self.at = self.escape_at = self.value_at = self.raw_at = 0

    def step(self, numbers: list[int]) -> list[tuple[Table, int]]:
        """The class index of each of the first lanes, with its table."""
        found = [self.one(lane, number) for lane, number in enumerate(numbers)]
        for lane in range(len(numbers)):
            if self.states[lane] < 256:
                self.feed(lane)
        return found

    def one(self, lane: int, number: int) -> tuple[Table, int]:
        """The class index of one lane, with its table; the lane may then need a byte."""
        table, x = self.tables[number], self.states[lane]
        i = table.index(x & 255)
        self.states[lane] = table.frequency[i] * (x >> 8) + (x & 255) - table.start[i]
        return table, i

    def feed(self, lane: int) -> None:
        require(self.at < len(self.rans), 3, "rans section is too short")
        self.states[lane] = self.states[lane] << 8 | self.rans[self.at]
        self.at += 1

    def bit(self, lane: int, cut: int) -> int:
        """A bit that is coded with its cut; the lane may then need a byte."""
        x = self.states[lane]
        t = int((x & 255) >= cut)
        self.states[lane] = (256 - cut if t else cut) * (x >> 8) + (x & 255) - (cut if t else 0)
        return t

    def class_value(self, table: Table, index: int, escape_base: int) -> int:
        if table.escape and index == len(table.frequency) - 1:
            require(self.escape_at < len(self.escapes), 3, "escapes")
            self.escape_at += self.escape_bytes
            return escape_base + int.from_bytes(self.escapes[self.escape_at - self.escape_bytes : self.escape_at], "little")
        return table.first + index

    def planes(self, lanes: int, bits: int) -> list[int]:
        """The raw parts of one panel's step."""
        size, parts = -(-lanes // 8), [0] * lanes
        for bit in range(bits):
            plane = int.from_bytes(self.raw[self.raw_at : self.raw_at + size], "little")
            self.raw_at += size
            require(plane >> lanes == 0, 3, "unused bit")
            parts = [part | (plane >> lane & 1) << bit for lane, part in enumerate(parts)]
        return parts

    def low(self, planes: Planes, rows: list[int]) -> list[int]:
        """The numbers that the planes of one panel's step make."""
        low = [0] * len(rows)
        for p in range(planes.count):
            h, part = planes.kept(p), [0] * len(rows)
            short = [lane for lane, row in enumerate(rows) if planes.short_row[row] and h < 8]
            for lane in range(len(rows)):
                if lane not in short:
                    part[lane] = self.values[self.value_at]
                    self.value_at += 1
            size = -(-h * len(short) // 8)
            bits = int.from_bytes(self.values[self.value_at : self.value_at + size], "little")
            self.value_at += size
            require(bits >> (h * len(short)) == 0, 3, "unused bit of planes")
            for number, lane in enumerate(short):
                part[lane] = (bits >> (h * number) & ((1 << h) - 1)) << (8 - h)
            low = [number << 8 | byte for number, byte in zip(low, part, strict=True)]
        return low

    def end(self) -> None:
        require(all(x == 256 for x in self.states) and self.at == len(self.rans), 3, "the end")
        require(self.escape_at == len(self.escapes) and self.value_at == len(self.values), 3, "sections are left over")


def check_level(member: Member, level: int) -> None:
    if member.codes is not None:
        require(0 <= level < member.codes, 3, "code")
    if member.sparse is not None:
        require(level in (0, 1), 3, "mask")
    if member.dtype in RANGES:
        low, high = RANGES[member.dtype]
        require(low <= level <= high, 3, "level")


def decode_group(stream: Stream, member: Member, batch: int, first_row: int, lanes: int) -> None:
    symbols = member.symbols
    for column in range(member.k):
        places = [(batch, first_row + lane, column) for lane in range(lanes)]
        numbers = [symbols.table(b * member.panels() + o // 64, (b, o, c)) for b, o, c in places]
        found = stream.step(numbers)
        coded = [0] * lanes
        if member.planes is not None and member.planes.cuts:
            coded = [stream.bit(lane, member.planes.cuts[number][i]) for lane, (number, (_, i)) in enumerate(zip(numbers, found, strict=True))]
            for lane in range(lanes):
                if stream.states[lane] < 256:
                    stream.feed(lane)
        classes = [stream.class_value(table, i, symbols.escape_base) for table, i in found]
        stored = member.stored_bits()
        raws = [part for at in range(0, lanes, 64) for part in stream.planes(min(64, lanes - at), stored)]
        raws = [t << stored | part for t, part in zip(coded, raws, strict=True)]
        if member.planes is not None:
            rows = [b * member.rows + o for b, o, _ in places]
            low = [number for at in range(0, lanes, 64) for number in stream.low(member.planes, rows[at : at + 64])]
            for place, c, b, number in zip(places, classes, raws, low, strict=True):
                top = (c % 2**16 << symbols.raw_bits) + b
                member.planes.words[place] = word(member, place, ((top << 8 * member.planes.count) + number) << member.planes.drop)
            continue
        for place, c, b in zip(places, classes, raws, strict=True):
            level = (c << symbols.raw_bits) - ((1 << symbols.raw_bits) >> 1) + b
            check_level(member, level)
            symbols.put(place, level)
            if member.sparse is not None and level == 1:
                size = VALUE_BYTES[member.sparse]
                require(stream.value_at < len(stream.values), 3, "values")
                member.values[place] = value_of(member.sparse, stream.values[stream.value_at : stream.value_at + size])
                stream.value_at += size


def word(member: Member, place: tuple[int, int, int], u: int) -> int:
    planes, n = member.planes, WIDTH[member.dtype]
    assert planes is not None
    u %= 2**n
    if planes.integers:
        before = planes.words[(*place[:2], place[2] - 1)] if planes.delta and place[2] else 0
        return (before + u + planes.base) % 2**n
    mantissa = n - 1 - EXPONENT[member.dtype] - bool(planes.cuts)
    return (u >> mantissa & 1) << (n - 1) | (u >> (mantissa + 1)) << mantissa | (u & ((1 << mantissa) - 1))


def planes_bytes(member: Member, first_row: int, groups: int, lanes: int) -> int:
    planes = member.planes
    if planes is None:
        return 0
    total = 0
    for start in (first_row + group * lanes for group in range(groups)):
        for at in range(0, lanes, 64):
            flags = planes.short_row[start + at : start + min(at + 64, lanes)]
            for h in map(planes.kept, range(planes.count)):
                total += len(flags) if h == 8 else len(flags) - sum(flags) + -(-h * sum(flags) // 8)
    return total * member.k


def read_chunks(r: Bytes, member: Member) -> list[tuple[int, int, int, int, list[int], bytes]]:
    """(batch, first row, lanes, groups, sizes of the five sections, checksum) of every chunk."""
    width, groups = r.u8(1, 4), r.varint(1)
    w = 64 * width
    full = member.rows // w
    require(full == 0 or full % groups == 0, 1, "groups_per_chunk")
    cuts = [(g * w, w, groups) for g in range(0, full, groups)] + ([(full * w, member.rows % w, 1)] if member.rows % w else [])
    chunks = []
    for batch in range(member.batch):
        for first_row, lanes, g in cuts:
            rans, escapes = r.varint(), r.varint()
            escapes *= member.escape_bytes()
            values = r.varint() * VALUE_BYTES[member.sparse] if member.sparse is not None else planes_bytes(member, batch * member.rows + first_row, g, lanes)
            panels = [min(64, lanes - at) for at in range(0, lanes, 64)]
            raw = g * member.k * sum(member.stored_bits() * -(-panel // 8) for panel in panels)
            chunks.append((batch, first_row, lanes, g, [rans, 2 * lanes, raw, escapes, values], r.take(4)))
    return chunks


def decode_chunks(r: Bytes, member: Member, tables: list[Table], rest: bytes) -> None:
    chunks = read_chunks(r, member)
    expected = sum(sum(sizes) for *_, sizes, _ in chunks)
    require(len(rest) >= expected, 2, "shorter")
    require(len(rest) <= expected, 1, "longer")
    require(r.at == len(r.data), 1, "header ends elsewhere")
    at = 0
    for batch, first_row, lanes, groups, sizes, crc in chunks:
        body = rest[at : at + sum(sizes)]
        at += len(body)
        require(zlib.crc32(body) == int.from_bytes(crc, "little"), 3, "chunk_crc")
        stream = Stream(tables, body, sizes, member.escape_bytes())
        for group in range(groups):
            decode_group(stream, member, batch, first_row + group * lanes, lanes)
        stream.end()


def decode_pool(r: Bytes, members: list[Member], tables: list[Table], rest: bytes) -> None:
    lanes, rans, escapes, crc = r.u8(1, 64), r.varint(), r.varint(), r.take(4)
    require(sum(math.prod(member.dims) for member in members) <= 65536, 1, "a pool of more than 65,536 symbols")
    count = sum(member.symbols.raw_bits * math.prod(member.dims) for member in members)
    sizes = [rans, 2 * lanes, -(-count // 8), escapes, 0]
    require(len(rest) >= sum(sizes), 2, "shorter")
    require(len(rest) <= sum(sizes), 1, "longer")
    require(r.at == len(r.data), 1, "header ends elsewhere")
    require(zlib.crc32(rest) == int.from_bytes(crc, "little"), 3, "stream_crc")
    stream = Stream(tables, rest, sizes)
    bits, bit_at = int.from_bytes(stream.raw, "little"), 0
    require(bits >> count == 0, 3, "unused bit")
    order = [(member, place) for member in members for place in member.places()]
    for at in range(0, len(order), lanes):
        for lane, (member, place) in enumerate(order[at : at + lanes]):
            s = member.symbols
            table, i = stream.one(lane, s.table(place[0] * member.rows + place[1], place))
            level = (stream.class_value(table, i, s.escape_base) << s.raw_bits) - ((1 << s.raw_bits) >> 1)
            level += bits >> bit_at & ((1 << s.raw_bits) - 1)
            bit_at += s.raw_bits
            require(-32768 <= level <= 32767, 3, "a pooled level")
            check_level(member, level)
            s.put(place, level)
            require(-32768 <= s.multiples[place] <= 32767, 3, "a pooled multiple")
            if stream.states[lane] < 256:
                stream.feed(lane)
    stream.end()


def tensor(member: Member) -> NDArray:
    """The decoded tensor in its dims; bfloat16 as bits."""
    viewed = np.zeros((member.batch, member.rows, member.k), FLOATS.get(member.dtype) or STORED.get(member.dtype))
    if member.planes is not None:
        bits = np.zeros(viewed.shape, f"<u{WIDTH[member.dtype] // 8}")
        for place in member.places():
            bits[place] = member.planes.words[place]
        viewed = bits.view(PLANES_STORED[member.dtype])
    for place in member.places() if member.planes is None else ():
        level = member.symbols.levels[place]
        if member.dtype in RANGES:
            viewed[place] = level
            continue
        value = member.values.get(place, 0.0) if member.sparse is not None else member.value(*place, level)  # type: ignore[misc]
        with np.errstate(over="ignore"):
            viewed[place] = roundbf(value) if member.dtype == 16 else value
    out = np.zeros(member.dims, viewed.dtype)
    permuted = np.transpose(out, member.permutation)  # a view: writing it writes `out`
    permuted[...] = viewed.reshape(permuted.shape)
    return out


def roundbf(value: float) -> int:
    bits = int.from_bytes(struct.pack("<f", value), "little")
    high, low = divmod(bits, 65536)
    return high + (low > 32768 or (low == 32768 and high % 2 == 1))


def decode(data: bytes) -> list[NDArray]:
    """The tensors of all members of a payload."""
    return [array for _, array in decode_with_dtypes(data)]


def decode_with_dtypes(data: bytes) -> list[tuple[int, NDArray]]:
    """(dtype number, tensor) of all members of a payload."""
    r = Bytes(data)
    require(r.take(2) == b"OC", 1, "magic")
    require(r.u8() == 4, 4, "draft")
    kind = r.u8(0, 1)
    header_bytes = int.from_bytes(r.take(4), "little")
    require(header_bytes <= len(data), 2, "header_bytes")
    require(header_bytes >= 12, 1, "header_bytes")
    require(zlib.crc32(data[: header_bytes - 4]) == int.from_bytes(data[header_bytes - 4 : header_bytes], "little"), 3, "header_crc")
    r.data = data[: header_bytes - 4]
    tables = [read_table(r) for _ in range(r.varint(0, 256))]
    members = [read_member(r, len(tables), kind == 1) for _ in range(r.varint(1, 4096) if kind else 1)]
    symbols = sum(math.prod(member.dims) for member in members)
    require(symbols <= 65536 * len(data), 1, "not believable")
    if kind:
        decode_pool(r, members, tables, data[header_bytes:])
    else:
        decode_chunks(r, members[0], tables, data[header_bytes:])
    return [(member.dtype, tensor(member)) for member in members]
