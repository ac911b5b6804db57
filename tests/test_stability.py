"""Stability: a payload that ends anywhere before its end is refused as such, by both decoders, at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx_compress.runtime.errors import FormatError, TruncatedError
from onnx_compress.runtime.reader import read, read_header

from tests.mutation import SMALL, Parts

LIMIT_SECONDS = 5.0


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_a_truncated_error(name: str) -> None:
    data = np.frombuffer(SMALL[name](), np.uint8)
    begin = time.perf_counter()
    for length in range(len(data)):
        with pytest.raises(TruncatedError):
            read(data[:length])
    assert time.perf_counter() - begin < LIMIT_SECONDS


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_of_a_header_with_its_length_and_checksum_repaired_is_a_format_error(name: str) -> None:
    original = Parts.of(SMALL[name]())
    for length in range(len(original.body)):
        parts = Parts(original.front, original.body[:length], original.streams)
        with pytest.raises(FormatError):
            read(np.frombuffer(parts.repaired(original), np.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_every_longer_payload_is_a_format_error(name: str) -> None:
    for more in (1, 2, 1000):
        with pytest.raises(FormatError, match="unexpected bytes"):
            read_header(np.frombuffer(SMALL[name]() + bytes(more), np.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_refused_by_the_library_with_the_same_number(name: str) -> None:
    library = pytest.importorskip("onnx_compress.runtime.library")
    try:
        library.library_path()
    except FileNotFoundError as error:
        pytest.skip(f"the operator library is not built: {error}")
    data, out = SMALL[name](), np.empty(4, np.uint8)
    for length in range(len(data)):
        with pytest.raises(TruncatedError):
            library.decode(data[:length], out)
