"""Payloads of one chunk whose header is legal and random, and whose streams are random bytes: all that decoders have to agree on.

Nothing checks that random bytes end where an encoder would have begun until the last symbol is decoded, so every value is written before the
payload is refused. Some streams are too short, or name levels beyond their form: those are refused on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx_compress.runtime.form import Codebook, Form, Grid, Mapped, Member, Sparse, Symbols, Table

from tests.assembly import framed, member_bytes, table_bytes, varint
from tests.forms import dense, plain_view

FORMS = ("grid", "grid", "trellis", "codebook", "mapped", "sparse", "integers")
STREAMS = 50
"""Streams for each header."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """How a chunk is laid out."""

    width: int
    groups: int
    rows: int
    k: int

    @property
    def lanes(self) -> int:
        return min(self.rows, 64 * self.width)

    @property
    def plane_bytes(self) -> int:
        """Of one bit plane of the lanes of a step."""
        full, rest = divmod(self.lanes, 64)
        return 8 * full + -(-rest // 8)


def random_shape(random: np.random.Generator) -> Shape:
    width, groups, k = int(random.integers(1, 5)), int(random.integers(1, 4)), int(random.integers(1, 48))
    if random.random() < 0.3:
        return Shape(width, 1, int(random.integers(1, 64 * width + 1)), k)
    return Shape(width, groups, 64 * width * groups, k)


def random_table(random: np.random.Generator, first: int, classes: int, escape: bool) -> Table:
    """Frequencies that sum to 256, some of them zero, the last at least one."""
    shares = random.dirichlet(np.full(classes, 0.7))
    cuts = np.floor(np.cumsum(shares) * 255.999).astype(int)
    cuts[-1] = 255
    frequencies = np.diff(cuts, prepend=0)
    frequencies[-1] += 1
    return Table(first, tuple(map(int, frequencies)), escape)


def random_symbols(random: np.random.Generator, shape: Shape, tables: int, quantizers: int, raw_bits: int) -> Symbols:
    rows, columns = int(random.choice([1, 1, 3])), int(random.choice([1, 1, 4]))
    panels = -(-shape.rows // 64)
    return Symbols(
        np.zeros((0, 0, 0), np.int32),
        raw_bits,
        int(random.integers(-300, 50)),
        random.integers(0, tables, (rows, columns, quantizers)).astype(np.uint8),
        random.integers(0, rows, panels).astype(np.uint8) if rows > 1 else None,
        random.integers(0, columns, shape.k).astype(np.uint8) if columns > 1 else None,
        quantizers,
    )


def random_form(random: np.random.Generator, name: str, shape: Shape, leaf: Symbols) -> Form:
    scale = dense(random.uniform(0.1, 1, shape.rows))
    match name:
        case "grid" | "trellis":
            block = int(random.integers(0, shape.k + 1)) if random.random() < 0.2 else 0
            blocks = -(-shape.k // block) if block else 1
            column = dense(random.uniform(0.5, 2, shape.k)) if random.random() < 0.3 else None
            return Grid(dense(random.uniform(0.01, 1, shape.rows * blocks)), leaf, column, block)
        case "codebook":
            return Codebook(dense(random.normal(0, 1, 4200)), leaf, scale if random.random() < 0.5 else None)
        case "mapped":
            groups = random.integers(0, 5, shape.rows).astype(np.uint8)
            return Mapped(dense(random.normal(0, 1, 21000)), 5, groups, leaf, scale if random.random() < 0.5 else None)
        case "sparse":
            return Sparse(leaf, dense(np.zeros(0), str(random.choice(["float32", "float16", "bfloat16"]))))
        case _:
            return leaf


def header(random: np.random.Generator) -> tuple[bytes, list[int], NDArray]:
    """(header, the lengths of its chunk's sections, an array like the tensor)."""
    shape, name = random_shape(random), str(random.choice(FORMS))
    codes = name in {"codebook", "mapped"}
    raw_bits = 0 if name == "sparse" or random.random() < 0.6 else int(random.integers(1, 9))
    number = int(random.integers(1, 4))
    if name == "sparse":
        tables = tuple(random_table(random, 0, 2, False) for _ in range(number))
    else:
        first = int(random.integers(0, 3)) if codes else int(random.integers(-20, 3))
        tables = tuple(random_table(random, first, int(random.integers(1, 17)), not codes and random.random() < 0.5) for _ in range(number))
    leaf = random_symbols(random, shape, number, 2 if name == "trellis" else 1, min(raw_bits, 7))
    dtype = 5 if name == "integers" else int(random.choice([1, 1, 10, 16]))
    member = Member(dtype, plain_view(1, shape.rows, shape.k), random_form(random, name, shape, leaf))
    symbols = shape.rows * shape.k
    short = random.random() < 0.1
    rans = int(random.integers(0, symbols)) if short else symbols
    escapes, values = symbols, symbols if name == "sparse" else 0
    body = varint(number) + b"".join(map(table_bytes, tables)) + member_bytes(member, number)
    body += bytes([shape.width]) + varint(shape.groups if shape.rows >= 64 * shape.width else 1)
    body += varint(rans) + varint(escapes) + (varint(values) if values else b"") + bytes(4)
    raw = shape.groups * shape.k * leaf.raw_bits * shape.plane_bytes if shape.rows >= 64 * shape.width else shape.k * leaf.raw_bits * shape.plane_bytes
    value_bytes = values * (4 if isinstance(member.form, Sparse) and member.form.values.kind == "float32" else 2)
    out = np.zeros((1, shape.rows, shape.k), {1: np.float32, 5: np.int16, 10: np.float16}.get(dtype, np.uint16))
    return framed(0, body), [rans, shape.lanes, raw, escapes + value_bytes], out


def streams(headers: int, seed: int = 0) -> list[tuple[bytes, NDArray]]:
    """`headers` * STREAMS payloads, each with an array like its tensor."""
    random, found = np.random.default_rng(seed), []
    for _ in range(headers):
        front, (rans, lanes, raw, rest), out = header(random)
        for _ in range(STREAMS):
            heads = random.integers(256, 65536, lanes).astype("<u2").tobytes()
            found.append((front + random.bytes(rans) + heads + random.bytes(raw + rest), out))
    return found
