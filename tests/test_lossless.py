"""Lossless: the same bits in, the same bytes back, whatever the file looks like; and it runs as it did."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.optimizer.lossless_restore import read_recipe
from onnx_compress.optimizer.protos import read_metadata, read_model
from onnx_compress.optimizer.report import Report
from onnx_compress.runtime import session

from tests.lossless_models import (
    COLUMNS,
    EIGHT_BITS_OF,
    ROWS,
    constant_model,
    function_model,
    gather_model,
    if_model,
    matmul_model,
    overridable_model,
    plain_options,
    pressed,
    returns,
    shared_model,
    weight,
)


def with_unknown_fields(model: onnx.ModelProto) -> bytes:
    """The graph first, its length written longer than need be, an unknown field between and another behind."""
    graph = model.graph.SerializeToString()
    size, length = len(graph), []
    for _ in range(5):
        length.append(size & 127 | 128)
        size >>= 7
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    unknown = b"\xfa\x3f\x03abc"
    return unknown + b"\x3a" + bytes(length[:-1]) + bytes([length[-1] & 127]) + graph + unknown + rest.SerializeToString()

AWKWARD: dict[str, Callable[[], bytes]] = {
    "raw data": lambda: matmul_model(weight()).SerializeToString(),
    "typed fields": lambda: matmul_model(weight(), raw=False).SerializeToString(),
    "weights in the bodies of an If": lambda: if_model().SerializeToString(),
    "a function with a constant": lambda: function_model().SerializeToString(),
    "inputs that are weights": lambda: overridable_model().SerializeToString(),
    "unknown fields and long lengths": lambda: with_unknown_fields(matmul_model(weight())),
    "a table that is looked up": lambda: gather_model().SerializeToString(),
    "a weight with other readers": lambda: shared_model().SerializeToString(),
    "nothing to compress": lambda: matmul_model(weight(0, (ROWS, 2))).SerializeToString(),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_restore_gives_the_same_file(tmp_path: Path, name: str) -> None:
    returns(tmp_path, AWKWARD[name]())


@pytest.mark.parametrize("name", [name for name in AWKWARD if name != "nothing to compress"])
def test_the_file_is_smaller_and_valid(tmp_path: Path, name: str) -> None:
    _, target, report = pressed(tmp_path, AWKWARD[name]())
    assert report.bytes_after < 0.95 * report.bytes_before
    onnx.checker.check_model(str(target))


@pytest.mark.parametrize("name", AWKWARD)
def test_outputs_are_equal_to_the_bit(tmp_path: Path, name: str) -> None:
    source, target, _ = pressed(tmp_path, AWKWARD[name]())
    before = ort.InferenceSession(source, plain_options(), providers=["CPUExecutionProvider"])
    after = session(target, plain_options(), verify_checksums=True)
    values = {"x": weight(9, tuple(before.get_inputs()[[i.name for i in before.get_inputs()].index("x")].shape)), "ids": np.array([5, 0, 127])}
    for flag in (True, False):
        feeds = {one.name: np.array(flag) if one.name == "flag" else values[one.name] for one in after.get_inputs()}
        for one, other in zip(before.run(None, feeds), after.run(None, feeds), strict=True):
            assert one.tobytes() == other.tobytes()

DTYPES: dict[int, NDArray] = {
    TensorProto.FLOAT: weight(),
    TensorProto.DOUBLE: np.random.default_rng(0).standard_normal((64, 40)),
    TensorProto.FLOAT16: weight().astype(np.float16),
    TensorProto.BFLOAT16: weight().astype(ml_dtypes.bfloat16),
    TensorProto.FLOAT8E4M3FN: (weight() * 100).astype(ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E4M3FNUZ: (weight() * 100).astype(ml_dtypes.float8_e4m3fnuz),
    TensorProto.FLOAT8E5M2: (weight() * 100).astype(ml_dtypes.float8_e5m2),
    TensorProto.FLOAT8E5M2FNUZ: (weight() * 100).astype(ml_dtypes.float8_e5m2fnuz),
    TensorProto.INT8: np.random.default_rng(1).normal(0, 9, (96, 64)).astype(np.int8),
    TensorProto.UINT8: np.random.default_rng(1).normal(100, 9, (96, 64)).astype(np.uint8),
    TensorProto.INT16: np.random.default_rng(1).normal(0, 900, (96, 64)).astype(np.int16),
    TensorProto.INT32: np.random.default_rng(1).normal(0, 9000, (96, 64)).astype(np.int32),
    TensorProto.INT64: np.arange(4096).reshape(64, 64),
    TensorProto.UINT32: np.random.default_rng(1).normal(9000, 100, (96, 64)).astype(np.uint32),
    TensorProto.UINT64: np.random.default_rng(1).normal(9000, 100, (96, 64)).astype(np.uint64),
    TensorProto.UINT4: np.random.default_rng(1).binomial(15, 0.5, (96, 32)).astype(np.uint8),
    TensorProto.INT4: np.random.default_rng(1).binomial(15, 0.5, (96, 32)).astype(np.int8) - np.int8(8),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_back_and_is_given_out_exactly(tmp_path: Path, dtype: int) -> None:
    array = DTYPES[dtype]
    packed = (array.reshape(-1)[::2] & 15 | array.reshape(-1)[1::2] << 4).tobytes() if dtype in EIGHT_BITS_OF else array.tobytes()
    model = constant_model(array.shape, packed, dtype)
    report = returns(tmp_path, model.SerializeToString())
    assert [row.name for row in report.weights] == ["w"]
    (output,) = session(tmp_path / "out.onnx", plain_options()).run_with_ort_values(None, {})
    assert output.shape() == list(array.shape)
    assert ctypes.string_at(output.data_ptr(), array.nbytes) == array.tobytes()  # of bfloat16 and float8 onnxruntime makes no numpy array


def test_awkward_floats_keep_their_bits(tmp_path: Path) -> None:
    array = weight(7, (64, 128))
    array.view(np.uint32)[0, :6] = [0x7FC12345, 0x7F800001, 0xFFC00000, 0x80000000, 1, 0xFF800000]
    returns(tmp_path, constant_model(array.shape, array.tobytes(), TensorProto.FLOAT).SerializeToString())
    (output,) = session(tmp_path / "out.onnx", plain_options()).run(None, {})
    assert output.tobytes() == array.tobytes()


def form_of(report: Report, name: str = "w0") -> str:
    return next(row.form for row in report.weights if row.name == name)


def test_a_widened_16_bit_model_takes_what_its_16_bits_take(tmp_path: Path) -> None:
    report = returns(tmp_path, matmul_model(weight(0, (ROWS, 4096)).astype(np.float16).astype(np.float32)).SerializeToString())
    assert report.bytes_after < 0.44 * report.bytes_before


@pytest.mark.parametrize("block", [0, 32])
def test_a_dequantized_model_is_found_to_be_integers_times_scales(tmp_path: Path, block: int) -> None:
    rng = np.random.default_rng(0)
    levels = np.clip(np.rint(rng.normal(0, 25, (256, 512))), -127, 127).astype(np.int32).astype(np.float32)
    scales = rng.uniform(0.001, 0.003, (256, 512 // block if block else 1)).astype(np.float32)
    array = levels * np.repeat(scales, block or 512, axis=1)
    report = returns(tmp_path, constant_model(array.shape, array.tobytes(), TensorProto.FLOAT).SerializeToString())
    assert form_of(report, "w") == "grid"
    assert report.bytes_after < 0.28 * report.bytes_before


def test_few_values_and_many_zeros_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    few = weight(1, (1, 12)).reshape(-1)[rng.integers(0, 12, (ROWS, COLUMNS))]
    zeros = np.where(rng.random((ROWS, COLUMNS)) < 0.3, weight(2), np.float32(0))
    report = returns(tmp_path, matmul_model(few, zeros.astype(np.float32), np.full((ROWS, COLUMNS), 0.25, np.float32)).SerializeToString())
    assert [form_of(report, f"w{i}") for i in range(3)] == ["codebook", "sparse", "codebook"]


def test_a_transposed_duplicate_is_free(tmp_path: Path) -> None:
    array = weight(3, (ROWS, ROWS))
    report = returns(tmp_path, matmul_model(array, np.ascontiguousarray(array.T)).SerializeToString())
    assert {row.name: row.form for row in report.weights} == {"w0": "planes", "w1": "duplicate"}


def test_widened_duplicates_are_free_and_a_transpose_of_one_is_coded(tmp_path: Path) -> None:
    square = weight(3, (ROWS, ROWS)).astype(np.float16).astype(np.float32)
    model = matmul_model(square, square, np.ascontiguousarray(square.T))
    half = numpy_helper.from_array(square.astype(np.float16), "half")
    model.graph.initializer.insert(0, half)
    model.graph.node.append(helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT))
    model.graph.output.append(helper.make_tensor_value_info("wide", 1, None))
    report = returns(tmp_path, model.SerializeToString())
    assert {row.name: row.form for row in report.weights} == {"half": "planes", "w0": "duplicate", "w1": "duplicate", "w2": "planes"}
    found = session(tmp_path / "out.onnx", plain_options()).run(None, {"x": weight(4, (1, ROWS))})
    expected = ort.InferenceSession(tmp_path / "in.onnx", plain_options(), providers=["CPUExecutionProvider"]).run(None, {"x": weight(4, (1, ROWS))})
    assert all(one.tobytes() == other.tobytes() for one, other in zip(found, expected, strict=True))


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    data = matmul_model(weight(1), weight(2), weight(3)).SerializeToString()
    _, target, _ = pressed(tmp_path, data, threads=1)
    first = target.read_bytes()
    pressed(tmp_path, data, threads=3, force=True)
    assert target.read_bytes() == first


def test_excluded_weights_stay(tmp_path: Path) -> None:
    report = returns(tmp_path, matmul_model(weight(1), weight(2)).SerializeToString(), exclude=("w1",))
    assert [row.name for row in report.weights] == ["w0"]


def test_a_lossless_file_is_not_compressed_again(tmp_path: Path) -> None:
    _, target, _ = pressed(tmp_path, matmul_model(weight()).SerializeToString())
    with pytest.raises(UsageError, match="compressed already"):
        compress(target, tmp_path / "twice.onnx", Request(lossless=True))


def test_lossless_takes_no_target() -> None:
    with pytest.raises(UsageError, match="--lossless changes nothing"):
        Request(lossless=True, target_ratio=2.0)


def test_lossless_weights_keep_their_bits_in_a_lossy_file(tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(matmul_model(weight(1), weight(2)), source)
    compress(source, target, Request(target_ratio=2.0, lossless_weights=("w1",)))
    restore(target, tmp_path / "plain.onnx")
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "plain.onnx").graph.initializer]
    assert any(array.tobytes() == weight(2).tobytes() for array in arrays)
    assert not any(array.tobytes() == weight(1).tobytes() for array in arrays)


@pytest.mark.parametrize("damage", [b"onnx_compress.0riginal", b"onnx_compress.\xfforiginal"[:22]])
def test_a_file_without_its_record_is_refused_and_not_restored_as_a_lossy_one(tmp_path: Path, damage: bytes) -> None:
    _, target, _ = pressed(tmp_path, matmul_model(weight()).SerializeToString())
    good = target.read_bytes()
    assert good.count(b"onnx_compress.original") == 1
    target.write_bytes(good.replace(b"onnx_compress.original", damage))
    with pytest.raises(CompressError):
        restore(target, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_metadata_is_read_without_the_graph(tmp_path: Path) -> None:
    _, target, _ = pressed(tmp_path, matmul_model(weight()).SerializeToString())
    data = target.read_bytes()
    model = read_model(data)
    start = model.graphs[0].start
    broken = data[:start] + b"\x07" + data[start + 1 :]
    assert read_metadata(broken) == read_metadata(data) == model.metadata
    with pytest.raises(CompressError):
        read_model(broken)


def test_the_recipe_survives_its_text(tmp_path: Path) -> None:
    from onnx_compress.optimizer.recipe import pack, unpack

    _, target, _ = pressed(tmp_path, gather_model().SerializeToString())
    recipe = read_recipe(target)
    assert unpack(pack(recipe, b"w0w1"), b"w0w1") == recipe
