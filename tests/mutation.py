"""Seeded mutations of payloads: as they are, or with every checksum made right again so that the checks behind them are reached."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx_compress.passes import writer
from onnx_compress.runtime.errors import FormatError
from onnx_compress.runtime.reader import read_header

from tests.assembled import ASSEMBLED
from tests.assembly import framed
from tests.forms import codebook, constant, grid, integers, mapped, plain_view, sparse, trellis
from tests.payloads import PLANES

MOST_SYMBOLS = 65536
"""Mutated dims may announce more than is quick to decode; such payloads are tested as headers only."""

SMALL: dict[str, Callable[[], bytes]] = {
    "grid": lambda: writer.write(grid(plain_view(2, 66, 3), 2.0, block=2, column=True)),
    "grid with raw bits": lambda: writer.write(grid(plain_view(1, 65, 5), 30.0, 10, kind="float32")),
    "four chunks, the last of one row": lambda: ASSEMBLED["four chunks, the last of one row"]().bytes(),
    "as both matrices of an LSTM": lambda: writer.write(grid(plain_view(1, 64, 16))),
    "as both matrices of a bidirectional GRU": lambda: writer.write(grid(plain_view(2, 24, 8))),
    "planes": lambda: PLANES["small planes"](),
    "planes with cuts": lambda: PLANES["small planes with cuts"](),
    "planes, short rows, turned": lambda: PLANES["small planes, short rows, turned"](),
    "codebook": lambda: writer.write(codebook(plain_view(1, 9, 30), 20, 16, row_scale=True)),
    "trellis": lambda: writer.write(trellis(plain_view(2, 66, 4), 2.0, column=True)),
    "trellis with classes and raw bits": lambda: ASSEMBLED["trellis, width 4, few rows"]().bytes(),
    "mapped": lambda: writer.write(mapped(plain_view(2, 9, 15), 5, 6, 10, row_scale=True)),
    "sparse": lambda: writer.write(sparse(plain_view(1, 20, 12), 0.3, "float16")),
    "integers": lambda: writer.write(integers(plain_view(1, 10, 20), 22)),
    "constant": lambda: writer.write(constant(plain_view(1, 4, 4), 1)),
    "escapes and column classes": lambda: ASSEMBLED["column classes"]().bytes(),
    "pool": lambda: writer.write_pool(
        [grid(plain_view(1, 5, 9)), integers(plain_view(1, 5, 9), 3), codebook(plain_view(2, 3, 5), 5), constant(plain_view(1, 2, 2), 3)]
    ),
    "pool of a trellis and others": lambda: writer.write_pool(
        [grid(plain_view(1, 5, 9)), trellis(plain_view(2, 7, 9), 3.0), mapped(plain_view(1, 9, 5), 3, 4), trellis(plain_view(1, 8, 5), 20.0)]
    ),
    "pool of a trellis by hand": lambda: ASSEMBLED["trellis pool of 9, five lanes"]().bytes(),
    "pool by hand": lambda: ASSEMBLED["pool of 9, five lanes"]().bytes(),
}
"""Short payloads of every form."""


@dataclass
class Parts:
    """A payload in pieces: the four bytes in front, the header's body, and the bytes of each stream."""

    front: bytes
    body: bytes
    streams: list[bytes]

    @classmethod
    def of(cls, data: bytes) -> Parts:
        header = read_header(np.frombuffer(data, np.uint8))
        cuts = [chunk.offset for chunk in header.chunks] or [header.header_bytes]
        ends = [*cuts[1:], len(data)]
        return cls(data[:4], data[8 : header.header_bytes - 4], [data[low:high] for low, high in zip(cuts, ends, strict=True)])

    def repaired(self, original: Parts) -> bytes:
        """The bytes with the checksums of streams that changed replaced wherever they stand, and the header's made right."""
        body = self.body
        for stream, before in zip(self.streams, original.streams, strict=True):
            body = body.replace(zlib.crc32(before).to_bytes(4, "little"), zlib.crc32(stream).to_bytes(4, "little"))
        whole = framed(self.front[3], body, self.front[2])
        if self.front[:2] == b"OC":
            return whole + b"".join(self.streams)
        header = self.front + whole[4:-4]
        return header + zlib.crc32(header).to_bytes(4, "little") + b"".join(self.streams)


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """One flipped bit, changed byte, inserted, deleted or repeated stretch."""
    if not data:
        return bytes([int(random.integers(256))])
    at, out = int(random.integers(len(data))), bytearray(data)
    match int(random.integers(6)):
        case 0:
            out[at] ^= 1 << int(random.integers(8))
        case 1:
            out[at] = int(random.choice([0, 1, 127, 128, 255, int(random.integers(256))]))
        case 2:
            out[at] = (out[at] + int(random.choice([-1, 1]))) % 256
        case 3:
            out[at:at] = random.bytes(int(random.integers(1, 4)))
        case 4:
            del out[at : at + int(random.integers(1, 4))]
        case 5:
            other = int(random.integers(len(data)))
            out[at : at + 4] = data[other : other + 4]
    return bytes(out)


def mutants(name: str, count: int, repair: bool) -> list[bytes]:
    """`count` mutated payloads, from a seed."""
    data = SMALL[name]()
    random = np.random.default_rng(zlib.crc32(name.encode()) + repair)
    if not repair:
        return [mutate(data, random) for _ in range(count)]
    original, found = Parts.of(data), []
    for _ in range(count):
        parts = Parts(original.front, original.body, list(original.streams))
        for _ in range(int(random.integers(1, 3))):
            match int(random.integers(12)):
                case 0:
                    parts.front = mutate(parts.front, random)[:4].ljust(4, b"\0")
                case 1 | 2 | 3 | 4 | 5 | 6:
                    parts.body = mutate(parts.body, random)
                case _:
                    number = int(random.integers(len(parts.streams)))
                    parts.streams[number] = mutate(parts.streams[number], random)
        found.append(parts.repaired(original))
    return found


def symbols(data: bytes) -> int:
    """How many symbols a payload announces; 0 where its header is refused."""
    try:
        return sum(member.view.size for member in read_header(np.frombuffer(data, np.uint8)).payload.members)
    except FormatError:
        return 0
