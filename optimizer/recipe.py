"""The recipe that a lossless file carries: how the original files are put together from what it holds (kept in metadata_props).

Each file is a list of segments: bytes that the compressed model or its data file still has, literal bytes, and tensors that are decoded. So a restored file
is the original by construction, whatever its serialization; its sha256 is recorded, too.
"""

from __future__ import annotations

import base64
import lzma
import struct
import zlib
from dataclasses import dataclass, replace

from ..passes.members import zigzag
from .errors import CompressError
from .wire import read_varint, varint

RECIPE_KEY = "onnx_compress.original"
VERSION = 1
COPY_MODEL, COPY_DATA, LITERAL, TENSOR = range(4)
PLAIN, TRANSPOSED, WIDENED, PART = range(4)
SORTS = 5
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


def pack(recipe: Recipe) -> str:
    """A recipe as text."""
    out = [varint(VERSION), varint(len(recipe.payloads))]
    ends = [0, 0]
    for place in recipe.payloads:
        out += [varint(place.external), zigzag(place.at - ends[place.external]), varint(place.size)]
        ends[place.external] = place.at + place.size
    out.append(varint(len(recipe.files)))
    for file in recipe.files:
        name = file.name.encode("utf-8", "surrogateescape")
        out += [varint(len(name)), name, varint(file.size), file.sha256, varint(len(file.segments))]
        ends, part = [0] * SORTS, 0
        for one in file.segments:
            out += [varint(one.kind | one.manner << 2), zigzag(one.at - ends[one.sort]), varint(one.size)]
            ends[one.sort] = one.end
            if one.manner == PART:
                out.append(zigzag(one.start - part))
                part = one.start + one.size
    body = b"".join([*out, recipe.literals])
    choices = [b"\0" + zlib.compress(body, 9), b"\1" + lzma.compress(body, lzma.FORMAT_RAW, filters=_filters(len(body)))]
    packed = struct.pack("<I", zlib.crc32(body)) + min(choices, key=len)
    return base64.b85encode(packed).decode()


def unpack(text: str) -> Recipe:
    """The inverse of `pack`. Raises CompressError."""
    try:
        packed = base64.b85decode(text)
        body = _unzip(packed[4], packed[5:], struct.unpack("<I", packed[:4])[0])
        return _Reader(body).recipe()
    except (ValueError, IndexError, struct.error, zlib.error, lzma.LZMAError, CompressError) as error:
        raise CompressError(f"the record of the original is damaged ({error}): copy the file again or compress the original again") from None


def _unzip(kind: int, data: bytes, crc: int) -> bytes:
    if kind == 0:
        one = zlib.decompressobj()
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
        segments, ends, part = [], [0] * SORTS, 0
        for _ in range(self._number()):
            code = self._number()
            one = Segment(code & 3, 0, 0, code >> 2)
            one = replace(one, at=ends[one.sort] + self._signed(), size=self._number())
            ends[one.sort] = one.end
            if one.manner == PART:
                one = replace(one, start=part + self._signed())
                part = one.start + one.size
            segments.append(one)
        return Original(name, size, sha256, tuple(segments))
