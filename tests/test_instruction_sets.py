"""Every decoder of this machine gives the same bits, and a session uses the one that it is told to."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_compress.runtime import library, session
from onnx_compress.runtime.errors import FormatError
from operator_models import assert_close, linear, model, node, weight

from tests import instruction_sets, vectors
from tests.random_streams import STREAMS, streams
from tests.test_agreement import equal_bits

EACH = pytest.mark.parametrize("instruction_set", instruction_sets.NAMES)
HEADERS = 200
"""Times STREAMS: 10,000 random streams."""

ENDS_ELSEWHERE = "does not end where its encoder began"


@pytest.fixture(autouse=True)
def _available(request: pytest.FixtureRequest) -> None:
    instruction_sets.skip_without(request.node.callspec.params["instruction_set"] if hasattr(request.node, "callspec") else "baseline")


@EACH
@pytest.mark.parametrize("name", vectors.names())
def test_a_vector_decodes_to_its_values(instruction_set: str, name: str) -> None:
    for number, values in enumerate(vectors.values(name)):
        found = library.decode(vectors.payload(name), np.full_like(values, 77), number, instruction_set=instruction_set)
        assert found.tobytes() == values.tobytes()


def outcome(data: bytes, like: NDArray, instruction_set: str) -> tuple[int, NDArray | None]:
    """(error number, the values) of a random stream; no values where it was refused before its end."""
    out = np.zeros_like(like)
    try:
        return 0, library.decode(data, out, verify_checksums=False, instruction_set=instruction_set)
    except FormatError as error:
        return error.number, out if ENDS_ELSEWHERE in str(error) else None


@pytest.fixture(scope="module")
def random_payloads() -> list[tuple[bytes, NDArray]]:
    return streams(HEADERS)


@pytest.fixture(scope="module")
def baseline(random_payloads: list[tuple[bytes, NDArray]]) -> list[tuple[int, NDArray | None]]:
    return [outcome(*payload, "baseline") for payload in random_payloads]


def test_most_random_streams_are_decoded_to_their_end(baseline: list[tuple[int, NDArray | None]]) -> None:
    assert len(baseline) == HEADERS * STREAMS == 10_000
    assert sum(values is not None for _, values in baseline) > 8_000
    assert {number for number, _ in baseline} <= {0, 3}


@pytest.mark.parametrize("instruction_set", instruction_sets.NAMES[:-1])
def test_random_streams_decode_to_the_bits_of_the_baseline(
    instruction_set: str, random_payloads: list[tuple[bytes, NDArray]], baseline: list[tuple[int, NDArray | None]]
) -> None:
    for at, (payload, (number, expected)) in enumerate(zip(random_payloads, baseline, strict=True)):
        found_number, found = outcome(*payload, instruction_set)
        assert (found_number, found is None) == (number, expected is None), f"stream {at}"
        assert expected is None or found is None or equal_bits(found, expected), f"stream {at}"


def test_an_unknown_instruction_set_is_refused_with_those_that_the_machine_has() -> None:
    with pytest.raises(ValueError, match=r"no instruction set 'mmx' here: choose from what this machine has, .*baseline$"):
        library.decode(b"", np.empty(1, np.uint8), instruction_set="mmx")


def test_the_machine_lists_known_sets_the_fastest_first() -> None:
    found = instruction_sets.here()
    assert found == [name for name in instruction_sets.NAMES if name in found]
    assert found[-1] == "baseline"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = weight(linear(200, 40))
    proto = model([node("CompressedMatMul", ["x", "w"])], {"x": np.zeros((1, 40), np.float32)}, {"w": made.payload}, TensorProto.FLOAT)
    onnx.save(proto, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@EACH
def test_a_session_uses_the_set_that_it_is_told_to(instruction_set: str, path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    found = session(path, instruction_set=instruction_set).run(None, {"x": x})[0]
    assert_close(found, x @ weight(linear(200, 40)).tensor)


def test_sessions_with_different_sets_differ_by_rounding_alone(path: Path) -> None:
    # The baseline has no fused multiply-add, so its sums are rounded more often: equal bits would mean that the entry does nothing.
    if "avx2" not in instruction_sets.here():
        pytest.skip("this machine has no avx2, whose multiply-add rounds once")
    x = np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32)
    plain, fused = (session(path, instruction_set=name).run(None, {"x": x})[0] for name in ("baseline", "avx2"))
    assert_close(plain, fused)
    assert not np.array_equal(plain, fused)


def test_a_session_with_an_unknown_set_is_refused_with_a_sentence(path: Path) -> None:
    listed = re.escape(", ".join(instruction_sets.here()))
    with pytest.raises(Exception, match=f"no instruction set 'sse9' here: choose from what this machine has, {listed}"):
        session(path, instruction_set="sse9")


def test_an_entry_that_comes_after_registration_is_refused(path: Path) -> None:
    options = onnxruntime.SessionOptions()
    session(path, options, instruction_set="baseline")
    session(path, options, instruction_set="baseline")
    session(path, options)
    with pytest.raises(ValueError, match=r"verify_checksums = 1 comes too late: the library is registered in these options, with None"):
        session(path, options, verify_checksums=True)


def test_an_entry_of_checksums_that_is_neither_0_nor_1_is_refused(path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("onnx_compress.verify_checksums", "a long word of no meaning")
    with pytest.raises(Exception, match="verify_checksums is 'a long word of no meaning', legal is 0 and 1"):
        session(path, options)
