"""Bundles: small weights in one payload, the operator that takes it apart, and what becomes of Casts."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.lossless_bundles import FEW_LANES, MANY_FROM, MANY_LANES, MOST_PARTS, dropped_bits, grouped, write_bundle
from onnx_compress.optimizer.lossless_restore import read_recipe
from onnx_compress.optimizer.recipe import PART
from onnx_compress.optimizer.report import Report
from onnx_compress.passes.planes import write_planes
from onnx_compress.runtime import library, session
from onnx_compress.runtime.form import View
from operator_models import DOMAIN

STORED = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}


def normal(seed: int, *shape: int, dtype: type = np.float32) -> NDArray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(dtype)


def parts_model(stored: int, given: int, parts: Sequence[int], outputs: int) -> tuple[onnx.ModelProto, NDArray]:
    """One Decompress of 600 values, and these."""
    array = normal(0, 600, dtype=STORED[stored])
    payload = np.frombuffer(b"".join(write_bundle([array.view(f"u{array.itemsize}")], stored)), np.uint8)
    like = [] if given == TensorProto.FLOAT else ["like"]
    nodes = [helper.make_node("Decompress", ["payload", *like], [f"y{i}" for i in range(outputs)], domain=DOMAIN, parts=list(parts))]
    shown = [helper.make_tensor_value_info(f"y{i}", given, None) for i in range(outputs)]
    tensors = [numpy_helper.from_array(payload, "payload"), helper.make_tensor("like", given, [1], bytes(np.dtype(STORED[given]).itemsize), raw=True)]
    graph = helper.make_graph(nodes, "g", [], shown, tensors[: 1 + len(like)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)], ir_version=8), array


def outputs_of(proto: onnx.ModelProto, path: Path) -> list[tuple[list[int], bytes]]:
    """Shape and bytes of each output."""
    path.write_bytes(proto.SerializeToString())
    found = session(path).run_with_ort_values(None, {})
    return [(one.shape(), ctypes.string_at(one.data_ptr(), one.tensor_size_in_bytes())) for one in found]


@pytest.mark.parametrize(("stored", "given"), [(1, 1), (10, 10), (16, 16), (10, 1), (16, 1)])
def test_decompress_gives_parts_of_a_weight(tmp_path: Path, stored: int, given: int) -> None:
    proto, array = parts_model(stored, given, [1, 300, 0, 3, 4, 5, 6], 3)
    array = array.astype(STORED[given])
    assert outputs_of(proto, tmp_path / "m.onnx") == [
        ([300], array[:300].tobytes()), ([], array[300:301].tobytes()), ([4, 5, 6], array[301:421].tobytes()),
    ]  # fmt: skip


def test_an_output_that_nobody_wants_is_left_out(tmp_path: Path) -> None:
    proto, array = parts_model(1, 1, [1, 10, 1, 20, 1, 30], 3)
    proto.graph.node[0].output[1] = ""
    del proto.graph.output[1]
    assert outputs_of(proto, tmp_path / "m.onnx") == [([10], array[:10].tobytes()), ([30], array[30:60].tobytes())]


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [([1, 601], "where 600 values are left"), ([1, 300, 2, 2**40, 2**40], "where 300 values are left"), ([1, 0], "a part of dims"), ([1, -5], "a part of dims"),
     ([3, 5], "a rank of 3"), ([-1], "a rank of -1"), ([1, 600, 0], "where none is left")],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, parts: list[int], complaint: str) -> None:
    proto, _ = parts_model(1, 1, parts, 1)
    with pytest.raises(Exception, match=complaint):
        outputs_of(proto, tmp_path / "m.onnx")


def test_parts_of_floats_become_no_halves(tmp_path: Path) -> None:
    proto, _ = parts_model(1, TensorProto.FLOAT16, [1, 600], 1)
    with pytest.raises(Exception, match="only 16-bit floats become floats"):
        outputs_of(proto, tmp_path / "m.onnx")


def sums(arrays: Sequence[NDArray], cast: bool = False) -> onnx.ModelProto:
    """y = x plus the sum of each array, which goes through a Cast to float if asked to."""
    nodes, last = [], "x"
    for i in range(len(arrays)):
        if cast:
            nodes.append(helper.make_node("Cast", [f"w{i}"], [f"f{i}"], to=TensorProto.FLOAT))
        nodes += [helper.make_node("ReduceSum", [f"f{i}" if cast else f"w{i}"], [f"s{i}"], keepdims=0), helper.make_node("Add", [last, f"s{i}"], [f"y{i}"])]
        last = f"y{i}"
    tensors = [helper.make_tensor(f"w{i}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape, a.tobytes(), raw=True) for i, a in enumerate(arrays)]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1])], [value(last, 1, [1])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pressed(tmp_path: Path, proto: onnx.ModelProto, **asked: object) -> tuple[Report, onnx.ModelProto]:
    """The report and the lossless file, which gives the very original back and runs as it did."""
    source, target, again = (tmp_path / name for name in ("in.onnx", "out.onnx", "again.onnx"))
    source.write_bytes(proto.SerializeToString())
    report = compress(source, target, Request(lossless=True, **asked))  # type: ignore[arg-type]
    restore(target, again)
    assert again.read_bytes() == source.read_bytes()
    feeds = {"x": np.ones(1, np.float32)}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    before = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert before[0].tobytes() == session(target, plain).run(None, feeds)[0].tobytes()
    return report, onnx.load(target)


def decompressed(proto: onnx.ModelProto) -> list[list[str]]:
    """What each Decompress makes."""
    return [list(one.output) for one in proto.graph.node if one.op_type == "Decompress"]


def test_small_weights_share_a_payload_and_a_node(tmp_path: Path) -> None:
    report, proto = pressed(tmp_path, sums([normal(i, *shape) for i, shape in enumerate([(64,), (32, 32), (16, 3, 3, 3), (7, 100)])]))
    assert decompressed(proto) == [["w0", "w1", "w2", "w3"]]
    assert report.bytes_after < 0.93 * report.bytes_before
    assert sum(row.bytes_after for row in report.weights) <= len(proto.graph.initializer[0].raw_data)


def test_large_small_and_tiny_weights_go_their_own_ways(tmp_path: Path) -> None:
    report, proto = pressed(tmp_path, sums([normal(0, 128, 128), normal(1, 40, 40), normal(2, 64), normal(3, 8)]))
    assert sorted(decompressed(proto)) == [["w0"], ["w1", "w2"]]
    assert [(name, reason) for name, reason, _ in report.left_alone] == []
    assert {row.name for row in report.weights} == {"w0", "w1", "w2"}


def test_a_node_has_as_many_parts_as_it_may(tmp_path: Path) -> None:
    _, proto = pressed(tmp_path, sums([normal(i, 256) for i in range(MOST_PARTS + 6)]))
    assert [len(names) for names in decompressed(proto)] == [35, 35]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_the_one_cast_of_a_weight_goes(tmp_path: Path, dtype: type) -> None:
    report, proto = pressed(tmp_path, sums([normal(0, 128, 128, dtype=dtype), normal(1, 40, 40, dtype=dtype), normal(2, 64, dtype=dtype)], cast=True))
    assert sorted(decompressed(proto)) == [["f0"], ["f1", "f2"]]
    assert "Cast" not in {one.op_type for one in proto.graph.node}
    assert {row.name for row in report.weights} == {"w0", "w1", "w2"}


def test_a_cast_stays_where_something_else_reads_the_weight(tmp_path: Path) -> None:
    proto = sums([normal(i, 40, 40, dtype=np.float16) for i in range(2)], cast=True)
    proto.graph.node.insert(1, helper.make_node("Cast", ["w0"], ["other"], to=TensorProto.DOUBLE))
    _, found = pressed(tmp_path, proto)
    assert sorted(decompressed(found)) == [["f1"], ["w0"]]
    assert [one.output[0] for one in found.graph.node if one.op_type == "Cast"] == ["f0", "other"]


def test_weights_that_end_with_zeros_have_a_bundle_of_their_own(tmp_path: Path) -> None:
    halves = [normal(i, 1024).astype(np.float16).astype(np.float32) for i in range(3)]
    report, proto = pressed(tmp_path, sums([halves[0], normal(3, 1024), halves[1], normal(4, 1024), halves[2]]))
    assert sorted(decompressed(proto)) == [["w0", "w2", "w4"], ["w1", "w3"]]
    assert all(row.bytes_after < 0.5 * row.bytes_before for row in report.weights if row.name in ("w0", "w2", "w4"))


def test_small_weights_with_a_form_of_their_own_keep_it(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(-100, 100, (64, 64)).astype(np.float32)
    report, _ = pressed(tmp_path, sums([levels * np.float32(0.013), normal(1, 40, 40), normal(2, 40, 40)]))
    assert {row.name: row.form for row in report.weights} == {"w0": "grid", "w1": "planes", "w2": "planes"}


def test_small_duplicates_are_free(tmp_path: Path) -> None:
    report, _ = pressed(tmp_path, sums([normal(0, 40, 40), normal(0, 40, 40), normal(1, 40, 40)]))
    assert sorted(row.form for row in report.weights) == ["duplicate", "planes", "planes"]


def test_awkward_values_in_bundles_keep_their_bits(tmp_path: Path) -> None:
    array = normal(0, 50, 50)
    array.view(np.uint32)[0, :6] = [0x7FC12345, 0x7F800001, 0xFFC00000, 0x80000000, 1, 0xFF800000]
    source = tmp_path / "in.onnx"
    source.write_bytes(sums([array, normal(1, 50, 50)]).SerializeToString())
    compress(source, tmp_path / "out.onnx", Request(lossless=True))
    restore(tmp_path / "out.onnx", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == source.read_bytes()


def test_bundles_go_into_a_data_file_and_come_from_one(tmp_path: Path) -> None:
    arrays = [normal(i, 50, 50) for i in range(4)]
    onnx.save(sums(arrays), tmp_path / "in.onnx", save_as_external_data=True, location="in.bin", size_threshold=0)
    compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(lossless=True, external_data=True))
    back = tmp_path / "back"
    back.mkdir()
    restore(tmp_path / "out.onnx", back / "in.onnx")
    assert [(back / name).read_bytes() for name in ("in.onnx", "in.bin")] == [(tmp_path / name).read_bytes() for name in ("in.onnx", "in.bin")]
    parts = [one for file in read_recipe(tmp_path / "out.onnx").files for one in file.segments if one.manner == PART]
    assert [one.start for one in parts] == [0, 10_000, 20_000, 30_000]
    assert (tmp_path / "out.onnx.data").stat().st_size > 30_000


def test_the_bytes_of_bundles_do_not_depend_on_threads(tmp_path: Path) -> None:
    proto = sums([normal(i, 20 + i, 30) for i in range(40)])
    files = []
    for threads in (1, 3):
        pressed(tmp_path, proto, threads=threads, force=True)
        files.append((tmp_path / "out.onnx").read_bytes())
        (tmp_path / "again.onnx").unlink()
    assert files[0] == files[1]


def test_small_groups_join_and_large_ones_do_not() -> None:
    found = [((1, False, 13), 1000, "a"), ((1, False, 0), 5000, "b"), ((1, False, 16), 4000, "c"), ((1, True, 0), 10, "d")]
    assert list(grouped(found)) == [((1, False, 0), ["a", "b"]), ((1, False, 16), ["c"]), ((1, True, 0), ["d"])]


def test_dropped_bits_are_those_that_all_values_end_with() -> None:
    assert dropped_bits(np.array([0x3F800000, 0x40002000], np.uint32), 1) == 13
    assert dropped_bits(np.array([0x3F800000, 0x40000001], np.uint32), 1) == 0
    assert dropped_bits(np.zeros(4, np.uint32), 1) == 23


@pytest.mark.parametrize("count", [1, 63, 64, 1000, 4099])
def test_a_bundle_begins_with_its_values(count: int) -> None:
    bits = normal(count, count).view(np.uint32)
    payload = b"".join(write_bundle([bits[: count // 2], bits[count // 2 :]], 1))
    filled = -(-count // 64) * 64
    for lanes in (8, 16, 32, 64):
        out = np.empty(-(-count // lanes) * lanes, np.uint32)
        if out.size <= filled:
            try:
                library.decode(payload, out)
            except ValueError:
                continue
            assert (out[:count] == bits).all()
            return
    raise AssertionError("no length fits")


@pytest.mark.parametrize("values", [1000, 5960, 20_001])
def test_a_bundle_has_the_lanes_that_take_least_and_is_filled_for_these_only(values: int) -> None:
    bits = np.random.default_rng(values).normal(0, 0.05, values).astype(np.float32).view(np.uint32)
    alone = []
    for lanes in MANY_LANES if values >= MANY_FROM else FEW_LANES:
        filled = np.pad(bits, (0, -values % lanes), mode="edge")
        alone.append(sum(map(len, write_planes(filled, TensorProto.FLOAT, (View((len(filled) // lanes, lanes), (1, 0), 1, lanes),)))))
    assert alone[0] != alone[1]
    assert sum(map(len, write_bundle([bits[:300], bits[300:]], TensorProto.FLOAT))) == min(alone)
