"""Each rule of FORMAT.md has a payload that breaks it, and an error that names it."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_compress.runtime import library
from onnx_compress.runtime.errors import CorruptionError, FormatError, TruncatedError
from onnx_compress.runtime.form import Codebook, Form, Grid, Mapped, Member, Payload, Sparse, Symbols, Table
from onnx_compress.runtime.reader import read, read_header

from tests import isolation
from tests.assembled import ASSEMBLED, THREE
from tests.assembly import assemble, assemble_pool, dense_bytes, framed, symbols_bytes, table_bytes, varint, zigzag
from tests.changed import HEADER_BYTES, LIMIT_SECONDS, outcome, templates
from tests.forms import dense, plain_view
from tests.mutation import Parts


def grid_payload(dims: tuple[int, int, int] = (1, 1, 1), **changes: bytes) -> bytes:
    """A payload of one constant Grid, with some of its parts replaced."""
    view = plain_view(*dims)
    leaf = symbols_bytes(ASSEMBLED["pool of 1, one lane"]().payload.members[0].symbols, 1)
    parts = {
        "tables": varint(1) + table_bytes(THREE[2]),
        "member": bytes([1, 3]) + b"".join(map(varint, dims)) + varint(dims[0]) + varint(dims[1]),
        "scale": bytes([2, 0, 0]) + dense_bytes(dense(np.array([1.0]))),
        "leaf": leaf,
        "layout": bytes([1, 1]),
        "directory": b"\0\0" + b"\0\0\0\0",
        "stream": b"\0\1" * min(view.rows, 64),
    } | changes
    stream = parts.pop("stream")
    return framed(0, b"".join(parts.values())) + stream

REFUSED: dict[str, tuple[type[FormatError], bytes]] = {
    "dims that no byte has earned": (FormatError, grid_payload((1, 2**20, 2**10))),
    "dims of 2^40 values": (FormatError, grid_payload((2**20, 2**10, 2**10))),
    "rows that need a huge directory": (TruncatedError, grid_payload((1, 2**20, 1))),
    "batches that need a huge directory": (TruncatedError, grid_payload((2**20, 1, 1))),
    "a dimension of zero": (FormatError, grid_payload(member=bytes([1, 3, 1, 0, 1, 1, 1]))),
    "rank 9": (FormatError, grid_payload(member=bytes([1, 9]) + bytes([1] * 11))),
    "no permutation": (FormatError, grid_payload(member=bytes([1, 131, 1, 1, 1, 0, 0, 1, 1, 1]))),
    "rows that do not divide": (FormatError, grid_payload(member=bytes([1, 1, 4, 1, 3]))),
    "dtype double": (FormatError, grid_payload(member=bytes([11, 1, 1, 1, 1]))),
    "a float form in an integer dtype": (FormatError, grid_payload(member=bytes([3, 1, 1, 1, 1]))),
    "Planes of integers in a float dtype": (FormatError, grid_payload(scale=bytes([5, 1, *[0] * 8, 0, 3]))),
    "Planes with delta of floats": (FormatError, grid_payload(scale=bytes([5, 4, 0, 3]))),
    "Planes with an unknown flag": (FormatError, grid_payload(scale=bytes([5, 16, 0, 3]))),
    "Planes with cuts of integers": (FormatError, grid_payload(member=bytes([3, 1, 1, 1, 1]), scale=bytes([5, 9, *[0] * 8, 0, 0, 0]))),
    "cuts of classes that no table has": (FormatError, grid_payload(scale=bytes([5, 8, 0, 2, 47, 1, 1]))),
    "a cut of zero": (FormatError, grid_payload(scale=bytes([5, 8, 0, 2, 16, 0]))),
    "cuts that the header does not hold": (TruncatedError, grid_payload(scale=bytes([5, 8, 0, 2, 240]))),
    "cuts of raw parts without bits": (FormatError, grid_payload(scale=bytes([5, 8, 0, 2, 0]))),
    "Planes that leave no bits": (FormatError, grid_payload(scale=bytes([5, 0, 0, 4]))),
    "Planes that drop more bits than there are": (FormatError, grid_payload(scale=bytes([5, 0, 33, 0]))),
    "Planes with short rows and no planes": (FormatError, grid_payload(scale=bytes([5, 2, 0, 0, 1, 0]))),
    "an unused bit of the short rows": (FormatError, grid_payload(scale=bytes([5, 2, 0, 3, 1, 2]))),
    "short bits beyond the planes": (FormatError, grid_payload(scale=bytes([5, 2, 0, 3, 25, 0]))),
    "no groups": (FormatError, grid_payload(scale=bytes([6, 0, 0]))),
    "257 groups": (FormatError, grid_payload(scale=bytes([6, 0]) + varint(257) + dense_bytes(dense(np.ones(257))))),
    "three centroids in two groups": (FormatError, grid_payload(scale=bytes([6, 0, 2]) + dense_bytes(dense(np.ones(3))))),
    "a group beyond their number": (FormatError, grid_payload(scale=bytes([6, 0, 3]) + dense_bytes(dense(np.ones(3))) + bytes([3]))),
    "an unused bit of a row's group": (FormatError, grid_payload(scale=bytes([6, 0, 2]) + dense_bytes(dense(np.ones(2))) + bytes([2]))),
    "trellis-coded codes of a Mapped form": (FormatError, grid_payload(scale=bytes([6, 0, 1]) + dense_bytes(dense(np.ones(1))), leaf=bytes([4, 0, 0, 1, 1, 2]))),
    "a Mapped form with an unknown flag": (FormatError, grid_payload(scale=bytes([6, 2, 1]) + dense_bytes(dense(np.ones(1))))),
    "form 7": (FormatError, grid_payload(scale=bytes([7]))),
    "form Dense": (FormatError, grid_payload(scale=bytes([0]))),
    "an infinite scale": (FormatError, grid_payload(scale=bytes([2, 0, 0, 0, 0, 1]) + np.float32(np.inf).tobytes())),
    "two scales for one row": (FormatError, grid_payload(scale=bytes([2, 0, 0]) + dense_bytes(dense(np.array([1.0, 2.0]))))),
    "a block beyond k": (FormatError, grid_payload(scale=bytes([2, 0, 2]) + dense_bytes(dense(np.array([1.0]))))),
    "log8 of exponent 85": (FormatError, grid_payload(scale=bytes([2, 0, 0, 0, 3, 1, 85, 0]))),
    "log8 of exponent -101": (FormatError, grid_payload(scale=bytes([2, 0, 0, 0, 3, 1, 256 - 101, 0]))),
    "nine raw bits": (FormatError, grid_payload(leaf=bytes([4, 9, 0, 1, 1, 1]))),
    "three quantizers": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 1, 1, 3]))),
    "no quantizer": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 1, 1, 0]))),
    "two quantizers of a codebook": (FormatError, grid_payload(scale=bytes([3, 0]) + dense_bytes(dense(np.ones(1))), leaf=bytes([4, 0, 0, 1, 1, 2]))),
    "two quantizers of integers": (FormatError, grid_payload(member=bytes([3, 3, 1, 1, 1, 1, 1]), scale=b"", leaf=bytes([4, 0, 0, 1, 1, 2]))),
    "an escape base beyond 16 bits": (FormatError, grid_payload(leaf=bytes([4, 0]) + zigzag(32768) + bytes([1, 1, 1]))),
    "no row class": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 0, 1, 1]))),
    "seventeen column classes": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 1, 17, 1]))),
    "a column class beyond its number": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 1, 3, 1, 3]))),
    "a row class beyond its number": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 3, 1, 1, 3]))),
    "an unused bit of a column class": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 1, 2, 1, 2]))),
    "an unused bit of a row class": (FormatError, grid_payload(leaf=bytes([4, 0, 0, 2, 1, 1, 128]))),
    "no tables": (FormatError, grid_payload(tables=b"\0")),
    "257 tables": (FormatError, grid_payload(tables=varint(257) + table_bytes(THREE[2]) * 257)),
    "a table of no class": (FormatError, grid_payload(tables=bytes([1, 0, 0]))),
    "a table of 17 classes": (FormatError, grid_payload(tables=bytes([1, 17, 0, *[1] * 16]))),
    "frequencies that leave nothing to the last class": (FormatError, grid_payload(tables=bytes([1, 3, 0, 128, 128]))),
    "width 5": (FormatError, grid_payload(layout=bytes([5, 1]))),
    "no groups in a chunk": (FormatError, grid_payload(layout=bytes([1, 0]))),
    "a varint of six bytes": (FormatError, grid_payload(layout=bytes([1, 129, 128, 128, 128, 128, 0]))),
    "a start state below 256": (CorruptionError, grid_payload(stream=b"\xff\0", directory=b"\0\0" + (0).to_bytes(4, "little"))),
}


def leaf(levels: list[int]) -> Symbols:
    """Levels that the tables of `with_levels` can code: -200..55, all escapes."""
    return Symbols(np.array(levels, np.int32).reshape(1, 1, -1), 0, -150)


def mapped_of(levels: list[int]) -> Mapped:
    """Two groups of two centroids; the one row belongs to the second."""
    return Mapped(dense(np.arange(4.0)), 2, np.array([1], np.uint8), leaf(levels))


def with_levels(dtype: int, form: Form, pooled: bool = False) -> bytes:
    payload = Payload((Table(0, (1, 255), True),), (Member(dtype, plain_view(1, 1, 3), form),), pooled)
    return assemble_pool(payload, 1) if pooled else assemble(payload)

WIDE = Symbols(np.array([[[-40000, -39900, -39800]]], np.int32), 1, -20000)

HIGH = Symbols(np.array([[[16384, 16384, 16384]]], np.int32), 0, 16300, np.zeros((1, 1, 2), np.uint8), quantizers=2)

THREE_CENTROIDS = dense(np.array([0.0, 1.0, 2.0]))

UNUSED_BIT = Payload(
    (Table(0, (256,)),), (Member(1, plain_view(1, 1, 3), Grid(dense(np.array([1.0])), Symbols(np.zeros((1, 1, 3), np.int32), 1))),), True
)


def with_unused_bit() -> bytes:
    """A pool of three raw bits whose fourth is set, checksums right."""
    data = assemble_pool(UNUSED_BIT, 1)
    original = Parts.of(data)
    stream = bytearray(original.streams[0])
    stream[-1] |= 8
    return Parts(original.front, original.body, [bytes(stream)]).repaired(original)


REFUSED |= {
    "a code beyond the centroids": (CorruptionError, with_levels(1, Codebook(THREE_CENTROIDS, leaf([0, 3, 1])))),
    "a code below the centroids": (CorruptionError, with_levels(1, Codebook(THREE_CENTROIDS, leaf([0, -1, 1])))),
    "a pooled code beyond the centroids": (CorruptionError, with_levels(1, Codebook(THREE_CENTROIDS, leaf([0, 3, 1])), True)),
    "a mask of 2": (CorruptionError, with_levels(1, Sparse(leaf([0, 2, 0]), dense(np.zeros(0))))),
    "a mask of -1": (CorruptionError, with_levels(1, Sparse(leaf([0, -1, 0]), dense(np.zeros(0))))),
    "uint4 of 16": (CorruptionError, with_levels(21, leaf([0, 16, 15]))),
    "uint8 of -1": (CorruptionError, with_levels(2, leaf([0, -1, 15]))),
    "int4 of -9": (CorruptionError, with_levels(22, leaf([0, -9, 7]))),
    "int8 of -129": (CorruptionError, with_levels(3, leaf([0, -129, 7]))),
    "a code beyond the centroids of its group": (CorruptionError, with_levels(1, mapped_of([0, 2, 1]))),
    "a code below the centroids of its group": (CorruptionError, with_levels(1, mapped_of([0, -1, 1]))),
    "a pooled code beyond the centroids of its group": (CorruptionError, with_levels(1, mapped_of([0, 2, 1]), True)),
    "a pooled multiple of 32768": (CorruptionError, with_levels(1, Grid(dense(np.array([1.0])), HIGH), True)),
    "a pooled level of -40000": (CorruptionError, with_levels(1, Grid(dense(np.array([1.0])), WIDE), True)),
    "a pooled int4 of 8": (CorruptionError, with_levels(22, leaf([0, 8, 7]), True)),
    "Sparse in a pool": (FormatError, with_levels(1, Sparse(leaf([0, 0, 0]), dense(np.zeros(0))), True)),
    "an unused bit in a pool": (CorruptionError, with_unused_bit()),
}


def test_levels_at_the_ends_of_their_ranges_are_decoded() -> None:
    for data in (
        with_levels(1, Codebook(THREE_CENTROIDS, leaf([0, 2, 1]))),
        with_levels(1, mapped_of([0, 1, 1])),
        with_levels(1, Grid(dense(np.array([1.0])), replace(HIGH, levels=HIGH.levels - 1)), True),
        with_levels(21, leaf([0, 15, 15])),
        with_levels(22, leaf([-8, 7, 0])),
        with_levels(3, leaf([-128, 0, 0])),
        with_levels(1, Grid(dense(np.array([1.0])), leaf([-128, 0, 0])), True),
        assemble_pool(UNUSED_BIT, 1),
    ):
        assert outcome(data)[0] == 0


def test_a_directory_that_the_header_cannot_hold_allocates_nothing() -> None:
    data = np.frombuffer(grid_payload((1, 2**27, 1), stream=bytes(4096)), np.uint8)
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError, match="directory"):
            read_header(data)
        assert tracemalloc.get_traced_memory()[1] < HEADER_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", REFUSED)
def test_each_rule_of_the_page_is_refused_with_its_error(name: str) -> None:
    error, data = REFUSED[name]
    begin = time.perf_counter()
    with pytest.raises(error) as caught:
        read(np.frombuffer(data, np.uint8))
    assert type(caught.value) is error
    assert time.perf_counter() - begin < 1


def test_the_library_refuses_each_rule_with_the_same_number(tmp_path: Path) -> None:
    try:
        library.library_path()
    except FileNotFoundError as error:
        pytest.skip(f"the operator library is not built: {error}")
    requests: list[isolation.Request] = [(data, 0, (out := templates(data)[0]).shape, out.dtype.str) for _, data in REFUSED.values()]
    found = [number for number, _ in isolation.ask(requests, tmp_path, LIMIT_SECONDS)]
    assert dict(zip(REFUSED, found, strict=True)) == {name: error.number for name, (error, _) in REFUSED.items()}
