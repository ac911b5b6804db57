"""Agreement: the C++ decoder and the Python reader give the same tensors, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.runtime.evaluate import member_array
from onnx_compress.runtime.reader import read

from tests import vectors
from tests.payloads import every_payload

Decode = Callable[[bytes, NDArray, int], NDArray]


@cache
def payloads() -> dict[str, bytes]:
    return every_payload() | {f"vector: {name}": vectors.payload(name) for name in vectors.names()}


def names() -> list[str]:
    return list(payloads())


@pytest.fixture(scope="module")
def decode() -> Decode:
    """`library.decode`; skips where the operator library was not built."""
    library = pytest.importorskip("onnx_compress.runtime.library")
    try:
        library.library_path()
    except FileNotFoundError as error:
        pytest.skip(f"the operator library is not built: {error}")
    found: Decode = library.decode
    return found


def equal_bits(found: NDArray, expected: NDArray) -> bool:
    """Same bits, any NaN for a NaN: FORMAT.md leaves a NaN's bits open."""
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    unsigned = f"u{expected.itemsize}"
    both = np.isnan(found) & np.isnan(expected)
    return bool((both | (found.view(unsigned) == expected.view(unsigned))).all())


@pytest.mark.parametrize("name", names())
def test_the_library_decodes_to_the_same_bits_as_the_reader(decode: Decode, name: str) -> None:
    data = payloads()[name]
    for number, member in enumerate(read(np.frombuffer(data, np.uint8)).members):
        expected = member_array(member)
        found = decode(data, np.full_like(expected, 77), number)
        assert equal_bits(found, expected), f"member {number} differs"
