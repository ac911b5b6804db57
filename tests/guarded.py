"""Decodes payloads that end directly before a page that may not be read, into tensors that end directly before one: `python -m tests.guarded`.

Every truncation and many mutants of small payloads, and random streams, with every decoder of this machine. A read or write beyond the end
ends this process by a signal; else it says how much it decoded. Checksums are not looked at.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from onnx_compress.runtime import library
from onnx_compress.runtime.errors import FormatError
from onnx_compress.runtime.reader import read_header

from tests import instruction_sets
from tests.mutation import SMALL, mutants, symbols
from tests.random_streams import streams

MUTANTS, HEADERS = 150, 40
ROOM_BYTES = 1 << 20
MOST_SYMBOLS = ROOM_BYTES // 8
NO_ACCESS = 0


class Guarded:
    """Memory that ends directly before a page without access."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, ROOM_BYTES + mmap.PAGESIZE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        c = ctypes.CDLL(None, use_errno=True)
        end = ctypes.c_void_p(self._bytes.ctypes.data + ROOM_BYTES)
        if c.mprotect(end, ctypes.c_size_t(mmap.PAGESIZE), NO_ACCESS):
            raise OSError(ctypes.get_errno(), "mprotect")

    def last(self, count: int) -> NDArray[np.uint8]:
        """The bytes directly before the page."""
        return self._bytes[ROOM_BYTES - count : ROOM_BYTES]


def decoded(data: bytes, out_bytes: int, memory: tuple[Guarded, Guarded]) -> int:
    """How many decoders of this machine took the payload to its end; the others refused it, or this process is no more."""
    payload, out = memory[0].last(len(data)), memory[1].last(out_bytes)
    payload[:] = np.frombuffer(data, np.uint8)
    count = 0
    for name in instruction_sets.here():
        try:
            library.decode(payload, out, 0, verify_checksums=False, instruction_set=name)
        except (FormatError, ValueError):
            continue
        count += 1
    return count


def tensor_bytes(data: bytes) -> int:
    """Of the first member of a payload whose header is good."""
    member = read_header(np.frombuffer(data, np.uint8)).payload.members[0]
    return member.view.size * {1: 4, 2: 1, 3: 1, 21: 1, 22: 1}.get(member.dtype, 2)


def attempts() -> Iterator[tuple[bytes, int]]:
    """Payloads, and the bytes of their tensors."""
    for name, make in SMALL.items():
        whole = make()
        for length in range(len(whole) + 1):
            yield whole[:length], tensor_bytes(whole)
        for data in mutants(name, MUTANTS, repair=True):
            if 0 < symbols(data) <= MOST_SYMBOLS:
                yield data, tensor_bytes(data)
    for data, like in streams(HEADERS):
        yield data, like.nbytes


def main() -> None:
    memory, tried, whole = (Guarded(), Guarded()), 0, 0
    for data, out_bytes in attempts():
        tried += len(instruction_sets.here())
        whole += decoded(data, out_bytes, memory)
    print(f"{tried} tried, {whole} decoded")


if __name__ == "__main__":
    main()
