"""The protobuf wire format of an ONNX file, read without a protobuf library: where each field is, byte by byte.

Nothing is decoded that need not be, so that whatever surrounds an edit stays as it is: unknown fields, unusual orders, lengths written longer than need be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple

from .errors import CompressError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5

Data = bytes | mmap


class MalformedError(CompressError):
    """Bytes that are no ONNX model; `what` is wrong with them, said of a file whose name is not known here."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the file {what}")
        self.what = what


@contextmanager
def mapped(path: Path) -> Iterator[Data]:
    """The bytes of a file, where they are. Raises CompressError, which names the file where its bytes are no model."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CompressError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from None
    with file:
        try:
            if not file.seek(0, 2):
                yield b""
                return
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                yield data
        except MalformedError as error:
            raise CompressError(f"{path} {error.what}") from None


class Field(NamedTuple):
    """One field of a message: bytes `start` to `end` of the file, its value from `body` on; `length` is where a message's length stands."""

    number: int
    kind: int
    start: int
    length: int
    body: int
    end: int
    value: int = 0


def read_varint(data: Data, at: int, end: int) -> tuple[int, int]:
    """(value, position behind it). Raises MalformedError."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise MalformedError("is no ONNX model, or only a part of one (a number does not end): export or copy it again")


def fields(data: Data, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in bytes `start` to `end`. Raises MalformedError."""
    at = start
    while at < end:
        first, tag = at, data[at]
        at += 1
        if tag > 127:
            tag, at = read_varint(data, first, end)
        length = body = at
        kind, value = tag & 7, 0
        if kind == VARINT:
            value, at = read_varint(data, at, end)
        elif kind == LENGTH:
            if at < end and (size := data[at]) < 128:  # most are, and one call less tells
                body = at + 1
            else:
                size, body = read_varint(data, at, end)
            at = body + size
        elif kind in (FIXED64, FIXED32):
            at += 8 if kind == FIXED64 else 4
        else:
            raise MalformedError(f"is no ONNX model (wire type {kind} at byte {first}): export or copy it again")
        if at > end:
            raise MalformedError(f"is no ONNX model, or only a part of one (it ends inside a field at byte {first}): export or copy it again")
        yield Field(tag >> 3, kind, first, length, body, at, value)


def varint(value: int) -> bytes:
    """A number as a varint; negative ones as 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return varint(field << 3 | VARINT) + varint(value)


def block(field: int, body: bytes | str) -> bytes:
    """A field that is a message, bytes or text."""
    raw = body.encode() if isinstance(body, str) else body
    return varint(field << 3 | LENGTH) + varint(len(raw)) + raw


def text(data: Data, field: Field) -> str:
    """A field of text."""
    return bytes(data[field.body : field.end]).decode("utf-8", "surrogateescape")


def packed(data: Data, field: Field) -> list[int]:
    """A repeated number, packed or one of its values; signed 64 bits."""
    if field.kind == VARINT:
        return [_signed(field.value)]
    found, at = [], field.body
    while at < field.end:
        value, at = read_varint(data, at, field.end)
        found.append(_signed(value))
    return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
