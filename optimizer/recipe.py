"""The recipe that a lossless file carries: how the original files are put together from what it holds (kept in metadata_props).

Each file is a list of segments: bytes that the compressed model or its data file still has, literal bytes, and tensors that are decoded. So a restored file
is the original by construction, whatever its serialization; its sha256 is recorded, too.
"""

from __future__ import annotations

import base64
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..passes.members import zigzag
from .errors import CompressError
from .wire import read_varint, varint

RECIPE_KEY = "onnx_compress.original"
VERSION = 1
COPY_MODEL, COPY_DATA, LITERAL, TENSOR = range(4)
PLAIN, TRANSPOSED, WIDENED, PART = range(4)
SORTS = 5
FRAGMENTS = b'*\x90\x03\x08\x01\x08\x03\x08\x03\x10\x0aB\x10\x01B\x10\x10B.weight.biasJ\x80\x02"\x04Cast*\t\n\x02to\x18\x01\xa0\x01\x02\n'
"""Of what literals often are: the ends and beginnings of tensors, and Casts to float."""

BEFORE_BYTES = (1 << 15) - len(FRAGMENTS)
"""Of the file before its record: with the fragments, as many as deflate looks back."""

WINDOW_BYTES, LEAST_WINDOW_BYTES = 1 << 24, 1 << 12
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Segment:
    """`size` bytes: of the compressed model or its data file from `at` on, literal bytes from `at` of the pool, or those of payload `at` in `manner`.

    A part of a payload begins at byte `start` of what that decodes to.
    """

    kind: int
    at: int
    size: int
    manner: int = PLAIN
    start: int = 0

    @property
    def sort(self) -> int:
        """What it is likely to follow: another of its kind, parts of payloads by themselves."""
        return self.kind + (self.manner == PART)

    @property
    def end(self) -> int:
        """Where the next of its sort is likely to begin: parts are of the same payload."""
        return self.at + (self.size if self.kind != TENSOR else self.manner != PART)


@dataclass(frozen=True, slots=True)
class Original:
    """A file of the original: its name beside the model (empty for the model), size, sha256 and segments."""

    name: str
    size: int
    sha256: bytes
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a payload is: in the data file or in the model."""

    external: bool
    at: int
    size: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """All original files, the model first; all payloads; the pool of literal bytes."""

    files: tuple[Original, ...]
    payloads: tuple[Place, ...]
    literals: bytes


def pack(recipe: Recipe, before: bytes) -> str:
    """A recipe as text; `before` are the file's last bytes before it, in which most names of its literals stand."""
    out = [varint(VERSION), varint(len(recipe.payloads))]
    ends = [0, 0]
    for place in recipe.payloads:
        out += [varint(place.external), zigzag(place.at - ends[place.external]), varint(place.size)]
        ends[place.external] = place.at + place.size
    out.append(varint(len(recipe.files)))
    for file in recipe.files:
        name = file.name.encode("utf-8", "surrogateescape")
        out += [varint(len(name)), name, varint(file.size), file.sha256, varint(len(file.segments)), *_columns(file.segments)]
    body = b"".join([*out, recipe.literals])
    deflated = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, memLevel=9, zdict=FRAGMENTS + before)
    choices = [b"\0" + deflated.compress(body) + deflated.flush(), b"\1" + lzma.compress(body, lzma.FORMAT_RAW, filters=_filters(len(body)))]
    packed = struct.pack("<I", zlib.crc32(body)) + min(choices, key=len)
    return base64.b85encode(packed).decode()


def _columns(segments: tuple[Segment, ...]) -> Iterator[bytes]:
    """The kinds of all segments, then their sizes, places and starts: like stands beside like."""
    yield from (varint(one.kind | one.manner << 2) for one in segments)
    yield from (varint(one.size) for one in segments)
    ends, part = [0] * SORTS, 0
    for one in segments:
        yield zigzag(one.at - ends[one.sort])
        ends[one.sort] = one.end
    for one in (one for one in segments if one.manner == PART):
        yield zigzag(one.start - part)
        part = one.start + one.size


def unpack(text: str, before: bytes) -> Recipe:
    """The inverse of `pack`. Raises CompressError."""
    try:
        packed = base64.b85decode(text)
        body = _unzip(packed[4], packed[5:], before, struct.unpack("<I", packed[:4])[0])
        return _Reader(body).recipe()
    except (ValueError, IndexError, struct.error, zlib.error, lzma.LZMAError, CompressError) as error:
        raise CompressError(f"the record of the original is damaged ({error}): copy the file again or compress the original again") from None


def _unzip(kind: int, data: bytes, before: bytes, crc: int) -> bytes:
    if kind == 0:
        one = zlib.decompressobj(-zlib.MAX_WBITS, zdict=FRAGMENTS + before)
        body = one.decompress(data, MOST_BYTES)
    else:
        many = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(WINDOW_BYTES))
        body = many.decompress(data, MOST_BYTES)
    if len(body) >= MOST_BYTES:
        raise CompressError("it is too long")
    if zlib.crc32(body) != crc:
        raise CompressError("its checksum does not match")
    return body


def _filters(size: int) -> list[dict[str, int]]:
    """For `size` bytes: a larger window costs 20 ms to set up and gives the same."""
    window = min(WINDOW_BYTES, max(LEAST_WINDOW_BYTES, size))
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "pb": 0, "dict_size": window}]


class _Reader:
    """Reads what `pack` wrote."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def _number(self) -> int:
        value, self._at = read_varint(self._body, self._at, len(self._body))
        return value

    def _signed(self) -> int:
        code = self._number()
        return (code >> 1) ^ -(code & 1)

    def _take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._body):
            raise CompressError("it ends too early")
        return self._body[self._at - size : self._at]

    def recipe(self) -> Recipe:
        """The whole of it."""
        if (version := self._number()) != VERSION:
            raise CompressError(f"version {version} is not known to this onnx-compress")
        places, ends = [], [0, 0]
        for _ in range(self._number()):
            external = self._number() & 1
            at = ends[external] + self._signed()
            places.append(Place(bool(external), at, self._number()))
            ends[external] = at + places[-1].size
        files = tuple(self._file() for _ in range(self._number()))
        return Recipe(files, tuple(places), self._body[self._at :])

    def _file(self) -> Original:
        name = self._take(self._number()).decode("utf-8", "surrogateescape")
        size, sha256 = self._number(), self._take(32)
        codes = [self._number() for _ in range(self._number())]
        segments = [Segment(code & 3, 0, self._number(), code >> 2) for code in codes]
        ends, part = [0] * SORTS, 0
        for i, one in enumerate(segments):
            segments[i] = replace(one, at=ends[one.sort] + self._signed())
            ends[one.sort] = segments[i].end
        for i, one in enumerate(segments):
            if one.manner == PART:
                segments[i] = replace(one, start=part + self._signed())
                part = segments[i].start + one.size
        return Original(name, size, sha256, tuple(segments))
