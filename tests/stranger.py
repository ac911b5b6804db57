"""A second decoder, written from the text of runtime/FORMAT.md alone: pure Python, one symbol at a time, nothing imported from the package.

Where it and `runtime/reader.py` agree, the page says what the code does. `decode` gives the tensors of all members, or raises `stranger_bytes.Rejected`, whose `number` is the R number.
"""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from tests.stranger_bytes import Bytes, require
from tests.stranger_header import (
    EXPONENT,
    FLOATS,
    PLANES_STORED,
    RANGES,
    STORED,
    VALUE_BYTES,
    WIDTH,
    Member,
    Planes,
    Table,
    read_member,
    read_table,
    value_of,
)


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
