"""Decodes tensors of a lossless file, large ones in parts that threads can make side by side (for `lossless_pieces`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..runtime import library
from ..runtime.errors import FormatError
from ..runtime.form import Member
from ..runtime.header import LENGTH_END, LENGTH_START, Chunk, read_header
from ..runtime.members import WIDTHS
from . import exact
from .files import data_name
from .lossless_source import Source, widened
from .recipe import TRANSPOSED, WIDENED, Place, Segment

PART_BYTES = 4 << 20
"""A tensor of more is decoded in parts of about so many bytes, where these stand one behind the other."""


def data_of(held: Source, external: bool) -> str:
    """The file that holds something: the data file beside the model, or the model."""
    return data_name(held.path) if external else ""


def decoded(held: Source, place: Place) -> tuple[Member, NDArray[np.uint8]]:
    """What a payload holds, and the bytes that it decodes to. Raises FormatError, CompressError."""
    payload = held.read(data_of(held, place.external), place.at, place.size)
    member = read_header(payload).payload.members[0]
    out = np.empty(exact.stored_bytes(member.dtype, member.view.size), np.uint8)
    return member, library.decode(payload, out, verify_checksums=False)


def tensor_bytes(held: Source, place: Place, segment: Segment) -> memoryview:
    """The bytes of a tensor that a payload gives in the manner of `segment`. Raises FormatError, CompressError."""
    member, out = decoded(held, place)
    if len(out) != segment.size // (2 if segment.manner == WIDENED else 1):
        raise FormatError(f"a tensor has {len(out)} bytes, its place {segment.size}")
    if segment.manner == TRANSPOSED:
        out = np.ascontiguousarray(out.view(f"u{WIDTHS[member.dtype] // 8}").reshape(member.view.dims).T).view(np.uint8).reshape(-1)
    return (widened(out, member.dtype) if segment.manner == WIDENED else out).data


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A tensor whose chunks stand one behind the other: each part is read and decoded by itself, into its own stretch of `payload` and `out`."""

    held: Source
    place: Place
    payload: NDArray[np.uint8]
    out: NDArray[np.uint8]
    chunks: tuple[Chunk, ...]
    line_bytes: int
    """Of a row."""

    @classmethod
    def of(cls, held: Source, place: Place, size: int) -> Parts | None:
        """Those of a payload that decodes to `size` bytes; None where it has to be decoded whole. Raises FormatError, CompressError."""
        file = data_of(held, place.external)
        held.check(file, place.at, place.size)
        payload = np.empty(place.size, np.uint8)
        held.fill(file, place.at, payload[:LENGTH_END])
        held.fill(file, place.at, payload[: int.from_bytes(payload[LENGTH_START:LENGTH_END].tobytes(), "little")])
        header = read_header(payload)
        member = header.payload.members[0]
        if not header.chunks or member.dtype not in WIDTHS or member.view.permutation != tuple(range(len(member.view.dims))):
            return None
        if exact.stored_bytes(member.dtype, member.view.size) != size:
            raise FormatError(f"a tensor of dims {member.view.dims}, its place has {size} bytes")
        return cls(held, place, payload, np.empty(size, np.uint8), header.chunks, size // (member.view.batch * member.view.rows))

    def __iter__(self) -> Iterator[tuple[int, partial[memoryview]]]:
        """(bytes, what makes them) of each part."""
        many = max(1, min(len(self.chunks), len(self.out) // PART_BYTES))
        for number in range(many):
            first, last = (at * len(self.chunks) // many for at in (number, number + 1))
            rows = sum(chunk.groups * chunk.lanes for chunk in self.chunks[first:last])
            start = sum(chunk.groups * chunk.lanes for chunk in self.chunks[:first]) * self.line_bytes
            yield rows * self.line_bytes, partial(self._make, (number, many), slice(first, last), slice(start, start + rows * self.line_bytes))

    def _make(self, part: tuple[int, int], chunks: slice, stretch: slice) -> memoryview:
        first, last = self.chunks[chunks.start], self.chunks[chunks.stop - 1]
        self.held.fill(data_of(self.held, self.place.external), self.place.at + first.offset, self.payload[first.offset : last.offset + last.size])
        library.decode(self.payload, self.out, verify_checksums=False, part=part)
        return self.out[stretch].data
