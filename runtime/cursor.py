"""A bounded reader of bytes: every read is checked, every error says where (FORMAT.md, section 1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, TruncatedError


class Cursor:
    """Reads little-endian fields of `data`, uint8 [n], from `position` on; never beyond `end`."""

    def __init__(self, data: NDArray[np.uint8], end: int) -> None:
        self.data = data
        self.position = 0
        self.end = end

    def take(self, count: int, what: str) -> NDArray[np.uint8]:
        """The next `count` bytes."""
        if count > self.end - self.position:
            raise TruncatedError(f"payload ends inside {what}: {count} bytes wanted at {self.position}, {self.end - self.position} left")
        self.position += count
        return self.data[self.position - count : self.position]

    def u8(self, what: str) -> int:
        """An unsigned byte."""
        return int(self.take(1, what)[0])

    def u32(self, what: str) -> int:
        """Four bytes, unsigned."""
        return int.from_bytes(self.take(4, what).tobytes(), "little")

    def varint(self, what: str, low: int = 0, high: int = 2**35 - 1) -> int:
        """Unsigned LEB128 of at most five bytes, within low..high."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.u8(what)
            value |= (byte & 127) << shift
            if byte < 128:
                return self._within(value, low, high, what)
        raise FormatError(f"{what}: a varint longer than five bytes at {self.position}")

    def zigzag(self, what: str) -> int:
        """A signed number in -32768..32767."""
        value = self.varint(what)
        return self._within((value >> 1) ^ -(value & 1), -32768, 32767, what)

    def byte_in(self, what: str, low: int, high: int) -> int:
        """An unsigned byte within low..high."""
        return self._within(self.u8(what), low, high, what)

    def _within(self, value: int, low: int, high: int, what: str) -> int:
        if not low <= value <= high:
            raise FormatError(f"{what} is {value}, legal is {low}..{high}")
        return value
