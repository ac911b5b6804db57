"""Multiplications by exact weights: our operators on Planes against onnxruntime's own, and the files that --lossless writes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.summary import summary
from onnx_compress.passes.planes import write_planes
from onnx_compress.runtime import session
from onnx_compress.runtime.form import View
from operator_models import FLOATS, assert_close, linear, model, node, run, standard

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ELEMENT = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def normal(*shape: int, dtype: type = np.float32, seed: int = 0) -> NDArray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


CASES: dict[str, tuple[str, View, tuple[int, ...], dict[str, Any]]] = {
    "a matmul": ("MatMul", linear(70, 33), (5, 33), {}),
    "a matmul of one row": ("MatMul", linear(320, 300), (1, 300), {}),
    "a stack of matrices": ("MatMul", View((3, 8, 70), (0, 2, 1), 3, 70), (3, 4, 8), {}),
    "a gemm": ("Gemm", linear(65, 40), (40, 3), {"transA": 1, "alpha": 0.5}),
    "a conv": ("Conv", View((70, 6, 3, 3), (0, 1, 2, 3), 1, 70), (2, 6, 9, 9), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "a conv of groups": ("Conv", View((128, 4, 3), (0, 1, 2), 2, 64), (2, 8, 11), {"group": 2}),
    "a depthwise conv": ("Conv", View((24, 1, 3, 3), (0, 1, 2, 3), 1, 24), (1, 24, 7, 7), {"group": 24}),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("activations", [np.float32, np.float16])
@pytest.mark.parametrize("name", CASES)
def test_exact_weights_are_multiplied_with(name: str, activations: type, stored: str) -> None:
    op_type, view, shape, attributes = CASES[name]
    array = (normal(*view.dims) * 0.1).astype(STORED[stored])
    payload = np.frombuffer(b"".join(write_planes(array.view(f"u{array.itemsize}"), ELEMENT[stored], (view,))), np.uint8)
    x = normal(*shape, dtype=activations, seed=1)
    found = run(model([node(f"Compressed{op_type}", ["x", "w"], attributes)], {"x": x}, {"w": payload}, FLOATS[activations]), {"x": x})
    plain = {"x": x.astype(np.float32)}
    expected = run(model([standard(op_type, ["x", "w"], attributes)], plain, {"w": array.astype(np.float32)}, TensorProto.FLOAT), plain)
    assert_close(found, expected.astype(activations))


def layers(dtype: type, *, stored: str = "", tail: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    """A Conv, a Gemm and a MatMul, one behind the other; a weight `stored` in another type goes through a Cast."""
    shapes = {"filters": (1024, 128, 3, 3), "gemm": (1024, 1024), "matrix": (1024, 1024)}
    element = FLOATS[dtype]
    arrays = {name: (normal(*shape, seed=len(name)) * 0.05).astype(STORED[stored] if stored else dtype) for name, shape in shapes.items()}
    read = {name: f"{name}_wide" if stored else name for name in shapes}
    casts = [helper.make_node("Cast", [name], [read[name]], to=element) for name in shapes] if stored else []
    nodes = [
        *casts,
        helper.make_node("Conv", ["x", read["filters"]], ["c"], "conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", read["gemm"], "bias"], ["g"], "gemm", transB=1, alpha=0.5),
        helper.make_node("MatMul", ["g", read["matrix"]], ["y"], "matmul"),
        *tail,
    ]
    tensors = [
        helper.make_tensor(name, ELEMENT[stored] if stored else element, array.shape, array.tobytes(), raw=True) for name, array in arrays.items()
    ] + [numpy_helper.from_array(normal(1).astype(dtype), "bias")]
    inputs = [helper.make_tensor_value_info("x", element, [2, 128, 1, 1])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", element, [2, 1024])], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pressed(tmp_path: Path, proto: onnx.ModelProto) -> list[str]:
    """The operators of the lossless file, which gives the very original back."""
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(lossless=True))
    restore(tmp_path / "out.onnx", tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    return [one.op_type for one in onnx.load(tmp_path / "out.onnx").graph.node]


def both(tmp_path: Path, feeds: dict[str, NDArray]) -> list[tuple[NDArray, NDArray]]:
    """Each output of the lossless file beside the original's."""
    before = ort.InferenceSession(tmp_path / "in.onnx", providers=["CPUExecutionProvider"]).run(None, feeds)
    return list(zip(session(tmp_path / "out.onnx").run(None, feeds), before, strict=True))


FUSED = ["CompressedConv", "Flatten", "CompressedGemm", "CompressedMatMul"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_lossless_file_multiplies_without_making_the_weight(tmp_path: Path, dtype: type) -> None:
    assert pressed(tmp_path, layers(dtype)) == FUSED
    for found, expected in both(tmp_path, {"x": normal(2, 128, 1, 1, dtype=dtype)}):
        assert_close(found, expected)


@pytest.mark.parametrize("stored", STORED)
def test_a_cast_to_float_goes(tmp_path: Path, stored: str) -> None:
    assert pressed(tmp_path, layers(np.float32, stored=stored)) == FUSED
    for found, expected in both(tmp_path, {"x": normal(2, 128, 1, 1)}):
        assert_close(found, expected)


def test_a_weight_that_something_else_needs_is_made_whole_for_all(tmp_path: Path) -> None:
    proto = layers(np.float32, tail=(helper.make_node("ReduceSum", ["matrix"], ["sum"], keepdims=0),))
    proto.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))
    assert pressed(tmp_path, proto) == [*FUSED[:3], "Decompress", "MatMul", "ReduceSum"]
    for found, expected in both(tmp_path, {"x": normal(2, 128, 1, 1)}):
        assert_close(found, expected)


def test_the_report_says_which_weights_are_made_whole_and_that_payloads_stay_in_memory(tmp_path: Path) -> None:
    proto = layers(np.float32, tail=(helper.make_node("ReduceSum", ["matrix"], ["sum"], keepdims=0),))
    proto.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, []))
    onnx.save(proto, tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(lossless=True))
    assert {row.name: (row.placement, row.dtype) for row in report.weights} == {
        "filters": ("fused", "float"),
        "gemm": ("fused", "float"),
        "matrix": ("decompressed", "float"),
    }
    assert report.resident_bytes == sum(row.bytes_after for row in report.weights) > 0.5 * report.bytes_after
    text = dict(summary(report, names=False, dry_run=False))
    assert text["difference"].startswith("none: every weight keeps its very bits")
    assert text["placed"].startswith("2 fused, 1 decompressed")


@pytest.mark.parametrize("transposed", [True, False])
def test_a_tied_embedding_is_looked_up_and_multiplied_with_from_one_payload(tmp_path: Path, transposed: bool) -> None:
    """As a transposed copy for a MatMul, or as the very table for a Gemm."""
    table = (normal(1024, 64) * 0.1).astype(np.float32)
    last = helper.make_node("MatMul", ["e", "copy"], ["y"]) if transposed else helper.make_node("Gemm", ["e", "table"], ["y"], transB=1)
    tensors = [numpy_helper.from_array(table, "table")] + ([numpy_helper.from_array(np.ascontiguousarray(table.T), "copy")] if transposed else [])
    inputs, outputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [3])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 1024])]
    graph = helper.make_graph([helper.make_node("Gather", ["table", "ids"], ["e"]), last], "g", inputs, outputs, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert pressed(tmp_path, proto) == ["CompressedGather", "CompressedMatMul" if transposed else "CompressedGemm"]
    assert (tmp_path / "out.onnx").stat().st_size < 0.9 * table.nbytes
    for found, expected in both(tmp_path, {"ids": np.array([5, 0, 1023])}):
        assert_close(found, expected)
