"""Weights that are decoded directly, whatever their tables, raw bits and escapes: multiplied with one row of x as they are decoded, and gathered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_compress.runtime import reader
from onnx_compress.runtime.form import Codebook, Form, Grid, Member, Symbols, View
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from operator_models import Weight, assert_close, coded, dense, linear, model, node, run

from tests import instruction_sets
from tests.assembly import crc, varint

SCALES = (0.3, 1.0, 3.0, 12.0, 60.0)
"""Of levels with heavy tails: from one class that has most of the probability to levels of more than eight bits, with raw bits and escapes."""


@pytest.fixture(params=instruction_sets.NAMES)
def instruction_set(request: pytest.FixtureRequest) -> str:
    instruction_sets.skip_without(request.param)
    return str(request.param)


def levels(shape: tuple[int, ...], scale: float) -> NDArray[np.int32]:
    return np.clip(np.rint(np.random.default_rng(3).standard_t(3, shape) * scale), -2000, 2000).astype(np.int32)


def grid(view: View, scale: float, quantizers: int) -> Weight:
    steps = dense(np.random.default_rng(4).random(view.batch * view.rows) * 0.1 + 0.01)
    return coded(Member(TensorProto.FLOAT, view, Grid(steps, Symbols(levels(view.shape, scale), quantizers=quantizers))))


def codebook(view: View) -> Weight:
    random = np.random.default_rng(5)
    form: Form = Codebook(dense(random.standard_normal(12)), Symbols(random.integers(0, 12, view.shape).astype(np.int32)), None)
    return coded(Member(TensorProto.FLOAT, view, form))


def product(made: Weight, x: NDArray, instruction_set: str) -> NDArray:
    proto = model([node("CompressedMatMul", ["x", "w"])], {"x": x}, {"w": made.payload}, TensorProto.FLOAT)
    return run(proto, {"x": x}, config={"onnx_compress.instruction_set": instruction_set})


@pytest.mark.parametrize("rows", [1, 16, 50, 64, 127, 192, 256, 600])
@pytest.mark.parametrize("quantizers", [1, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_one_row_times_a_grid_is_the_product_with_its_tensor(instruction_set: str, rows: int, quantizers: int, scale: float) -> None:
    made, x = grid(linear(rows, 130), scale, quantizers), np.random.default_rng(6).standard_normal((1, 130)).astype(np.float32)
    assert_close(product(made, x, instruction_set), x @ made.tensor)


@pytest.mark.parametrize("rows", [50, 200])
def test_one_row_times_a_codebook_is_the_product_with_its_tensor(instruction_set: str, rows: int) -> None:
    made, x = codebook(linear(rows, 130)), np.random.default_rng(6).standard_normal((1, 130)).astype(np.float32)
    assert_close(product(made, x, instruction_set), x @ made.tensor)


@pytest.mark.parametrize("quantizers", [1, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_gathered_rows_have_the_bits_of_the_tensor(instruction_set: str, quantizers: int, scale: float) -> None:
    view = View((800, 96), (0, 1), 1, 800)
    made = grid(view, scale, quantizers)
    indices = np.random.default_rng(8).integers(0, 800, 40)
    proto = model([node("CompressedGather", ["w", "i"])], {"i": indices}, {"w": made.payload}, TensorProto.FLOAT)
    found = run(proto, {"i": indices}, config={"onnx_compress.instruction_set": instruction_set})
    assert np.array_equal(found, made.tensor[indices])


def without_last_escape(payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The payload with one escaped value less in its last chunk, whose escapes are its last bytes; the header ends with their number and two checksums."""
    data, header = payload.tobytes(), reader.read_header(payload)
    end, escapes = int.from_bytes(data[4:8], "little"), header.chunks[-1].escapes
    body = data[8 : end - 8 - len(varint(escapes))] + varint(escapes - 1) + data[end - 8 : end - 4]
    left = data[:4] + (len(body) + 12).to_bytes(4, "little") + body
    return np.frombuffer(left + crc(left) + data[end:-1], np.uint8)


@pytest.mark.parametrize("quantizers", [1, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_a_missing_escape_is_refused(instruction_set: str, quantizers: int, scale: float) -> None:
    made = grid(linear(256, 130), scale, quantizers)
    with pytest.raises(Fail, match="fewer escaped values than places"):
        product(replace(made, payload=without_last_escape(made.payload)), np.ones((1, 130), np.float32), instruction_set)


@pytest.mark.parametrize("quantizers", [1, 2])
def test_the_scales_make_raw_bits_and_escapes(quantizers: int) -> None:
    headers = [reader.read_header(grid(linear(256, 130), scale, quantizers).payload) for scale in SCALES]
    raw_bits = [header.payload.members[0].symbols.raw_bits for header in headers]
    assert {0, 1}.issubset(raw_bits) and max(raw_bits) > 3
    assert all(any(chunk.escapes for chunk in header.chunks) for header in headers)
