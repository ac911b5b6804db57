"""Corruption: changed bytes are refused, or decoded to something; no decoder crashes, hangs or allocates what the bytes have not earned."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from onnx_compress.runtime import library
from onnx_compress.runtime.errors import FormatError
from onnx_compress.runtime.reader import read, read_header

from tests import isolation, stranger
from tests.changed import HEADER_BYTES, LIMIT_SECONDS, Outcome, outcome, templates
from tests.mutation import MOST_SYMBOLS, SMALL, mutants, symbols
from tests.stranger_bytes import Rejected
from tests.test_agreement import equal_bits

PLAIN, REPAIRED, STRANGE = 250, 500, 120


def strangers_outcome(data: bytes) -> Outcome:
    """The same, of the decoder that was written from FORMAT.md."""
    try:
        return 0, stranger.decode(data)
    except Rejected as rejected:
        return rejected.number, []


def quick(name: str, repair: bool) -> list[bytes]:
    """The mutants that are small enough to be decoded."""
    return [data for data in mutants(name, REPAIRED if repair else PLAIN, repair) if symbols(data) <= MOST_SYMBOLS]


@pytest.mark.parametrize("name", SMALL)
def test_a_changed_payload_is_refused(name: str) -> None:
    original = SMALL[name]()
    for data in mutants(name, PLAIN, repair=False):
        if data != original:
            with pytest.raises(FormatError):
                read(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_a_changed_payload_with_repaired_checksums_is_refused_or_decoded(name: str) -> None:
    numbers = [outcome(data)[0] for data in quick(name, repair=True)]
    assert len(numbers) > REPAIRED * 0.8
    assert {0, 1, 3} <= set(numbers) <= {0, 1, 2, 3, 4}, "the mutations reach no deep check"


@pytest.mark.parametrize("name", SMALL)
def test_a_changed_header_allocates_little(name: str) -> None:
    payloads = [np.frombuffer(data, np.uint8) for data in mutants(name, REPAIRED, repair=True)]
    tracemalloc.start()
    try:
        for data in payloads:
            try:
                read_header(data)
            except FormatError:
                continue
        assert tracemalloc.get_traced_memory()[1] < HEADER_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", SMALL)
def test_a_stranger_refuses_and_decodes_the_same_changed_payloads(name: str) -> None:
    for data in quick(name, repair=True)[:STRANGE]:
        number, arrays = outcome(data)
        strange_number, strange = strangers_outcome(data)
        assert strange_number == number, data.hex()
        assert all(equal_bits(*pair) for pair in zip(strange, arrays, strict=True))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, Outcome, isolation.Answer]]:
    """What reader and library say to all mutants, one entry for each member that the reader decodes."""
    try:
        library.library_path()
    except FileNotFoundError as error:
        pytest.skip(f"the operator library is not built: {error}")
    requests, expected = [], []
    for name in SMALL:
        for data in quick(name, repair=False) + quick(name, repair=True):
            number, arrays = outcome(data)
            for member, array in enumerate(arrays or templates(data)):
                requests.append((data, member, array.shape, array.dtype.str))
                expected.append((number, [array]))
    return list(
        zip(
            [request[0] for request in requests],
            expected,
            isolation.ask(requests, tmp_path_factory.mktemp("isolation"), LIMIT_SECONDS),
            strict=True,
        )
    )


def test_the_library_survives_changed_payloads(answers: list[tuple[bytes, Outcome, isolation.Answer]]) -> None:
    assert len(answers) > len(SMALL) * (PLAIN + REPAIRED) * 0.8


def test_the_library_refuses_what_the_reader_refuses_with_the_same_number(answers: list[tuple[bytes, Outcome, isolation.Answer]]) -> None:
    differing = [
        (number, found, data.hex()) for data, (number, _), (found, _) in answers if number != found
    ]
    assert not differing, f"{len(differing)} of {len(answers)}: {differing[:5]}"


def test_the_library_decodes_changed_payloads_to_the_same_bits(answers: list[tuple[bytes, Outcome, isolation.Answer]]) -> None:
    both = [(expected[0], found) for _, (number, expected), (_, found) in answers if number == 0 and found is not None]
    assert len(both) > 100
    assert all(equal_bits(found, expected) for expected, found in both)
