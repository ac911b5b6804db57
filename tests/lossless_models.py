"""Small models for `--lossless`, and what comes of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.report import Report

ROWS, COLUMNS = 96, 128

EIGHT_BITS_OF = {TensorProto.UINT4: TensorProto.UINT8, TensorProto.INT4: TensorProto.INT8}


def weight(seed: int = 0, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.05).astype(np.float32)


def matmul_model(*arrays: NDArray, raw: bool = True) -> onnx.ModelProto:
    """x [1, ROWS] times each matrix, one output each."""
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"y{i}"]) for i in range(len(arrays))]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["n", f"m{i}"]) for i in range(len(arrays))]
    tensors = [
        numpy_helper.from_array(array, f"w{i}") if raw else helper.make_tensor(f"w{i}", TensorProto.FLOAT, array.shape, array.reshape(-1).tolist())
        for i, array in enumerate(arrays)
    ]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, ROWS])], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def constant_model(shape: tuple[int, ...], raw: bytes, dtype: int) -> onnx.ModelProto:
    """A weight of any dtype, which is an output; as 8-bit integers where it has 4 bits, of which onnxruntime makes no outputs."""
    tensor, shown = helper.make_tensor("w", dtype, shape, raw, raw=True), EIGHT_BITS_OF.get(dtype, dtype)
    node = helper.make_node("Identity", ["w"], ["y"]) if shown == dtype else helper.make_node("Cast", ["w"], ["y"], to=shown)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", shown, shape)], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def if_model() -> onnx.ModelProto:
    """Weights in both bodies of an If: a Constant node's and an initializer."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight(1), "anything"))
    one = helper.make_graph([constant, helper.make_node("MatMul", ["x", "c"], ["a"])], "one", [], [helper.make_tensor_value_info("a", 1, ["n", "m"])])
    inner = numpy_helper.from_array(weight(2), "inner")
    two = helper.make_graph([helper.make_node("MatMul", ["x", "inner"], ["b"])], "two", [], [helper.make_tensor_value_info("b", 1, ["n", "m"])], [inner])
    nodes = [helper.make_node("If", ["flag"], ["y"], then_branch=one, else_branch=two)]
    inputs = [helper.make_tensor_value_info("flag", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1, ROWS])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, ["n", "m"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def function_model() -> onnx.ModelProto:
    """A function whose body holds a Constant, beside a weight of the graph."""
    body = [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight(3), "c")), helper.make_node("MatMul", ["v", "c"], ["r"])]
    function = helper.make_function("own", "times", ["v"], ["r"], body, [helper.make_opsetid("", 17)])
    model = matmul_model(weight(4))
    model.graph.node.append(helper.make_node("times", ["x"], ["z"], domain="own"))
    model.graph.output.append(helper.make_tensor_value_info("z", 1, ["n", "m"]))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


def shared_model() -> onnx.ModelProto:
    """A weight that is multiplied with and is an output, too."""
    model = matmul_model(weight(8))
    model.graph.node.append(helper.make_node("Identity", ["w0"], ["w"]))
    model.graph.output.append(helper.make_tensor_value_info("w", 1, [ROWS, COLUMNS]))
    return model


def overridable_model() -> onnx.ModelProto:
    """Initializers that are inputs too, in a model before IR version 4."""
    model = matmul_model(weight(5))
    model.graph.input.append(helper.make_tensor_value_info("w0", 1, [ROWS, COLUMNS]))
    model.ir_version = 3
    return model


def gather_model() -> onnx.ModelProto:
    """An embedding that is looked up, and multiplied with by its transpose, which is exported as a copy."""
    table = weight(6, (COLUMNS, ROWS))
    model = matmul_model(np.ascontiguousarray(table.T))
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.node.append(helper.make_node("Gather", ["table", "ids"], ["e"]))
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [3]))
    model.graph.output.append(helper.make_tensor_value_info("e", 1, ["n", "m"]))
    return model


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pressed(tmp_path: Path, data: bytes, **asked: object) -> tuple[Path, Path, Report]:
    """The files of a model and of its lossless form, and the report."""
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(data)
    return source, target, compress(source, target, Request(lossless=True, **asked))  # type: ignore[arg-type]


def returns(tmp_path: Path, data: bytes, **asked: object) -> Report:
    source, target, report = pressed(tmp_path, data, **asked)
    restore(target, tmp_path / "again.onnx")
    assert sha(tmp_path / "again.onnx") == sha(source)
    return report


def plain_options() -> ort.SessionOptions:
    """No fusions and no prepacked weights: whoever multiplies, does it in one way."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options
