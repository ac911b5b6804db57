"""Bytes of a payload, one after the other (see `stranger.py`)."""

from __future__ import annotations


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
