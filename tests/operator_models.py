"""Weights and one-node models for tests of the operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes import writer
from onnx_compress.runtime import evaluate, library_path, reader
from onnx_compress.runtime.form import Codebook, Dense, Form, Grid, Mapped, Member, Sparse, Symbols, View

DOMAIN = "onnx_compress"
FLOATS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}
RNG = np.random.default_rng(7)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float16])
FORMS = ("grid", "block", "column", "trellis", "codebook", "mapped", "sparse")


def dense(values: NDArray) -> Dense:
    return Dense("float32", np.ascontiguousarray(values, np.float32).view(np.uint32))


def form_of(name: str, shape: tuple[int, int, int], rng: np.random.Generator) -> Form:
    """A random form of the given kind for a view [batch, rows, k]."""
    batch, rows, k = shape
    levels = np.rint(rng.standard_normal(shape) * 3).astype(np.int32)
    if name == "codebook":
        return Codebook(dense(rng.standard_normal(16) / 4), Symbols(rng.integers(0, 16, shape).astype(np.int32)), dense(rng.random(batch * rows)))
    if name == "mapped":
        groups = rng.integers(0, 3, batch * rows).astype(np.uint8)
        return Mapped(dense(rng.standard_normal(48) / 4), 3, groups, Symbols(rng.integers(0, 16, shape).astype(np.int32)), dense(rng.random(batch * rows)))
    if name == "sparse":
        mask = (np.abs(levels) > 2).astype(np.int32)
        return Sparse(Symbols(mask), dense(rng.standard_normal(int(mask.sum())) / 4))
    block = min(5, k) if name == "block" else 0
    scales = batch * rows * (-(-k // block) if block else 1)
    column = dense(rng.random(k) + 0.5) if name == "column" else None
    return Grid(dense(rng.random(scales) * 0.1 + 0.01), Symbols(levels, quantizers=2 if name == "trellis" else 1), column, block)


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A payload, and the tensor that it stands for (bfloat16 as its bits)."""

    payload: NDArray[np.uint8]
    tensor: NDArray


def weight(view: View, form: str = "grid", dtype: int = TensorProto.FLOAT, seed: int = 0) -> Weight:
    """A random weight, chunked."""
    return coded(Member(dtype, view, form_of(form, view.shape, np.random.default_rng(seed))))


def coded(member: Member) -> Weight:
    payload = np.frombuffer(writer.write(member), np.uint8)
    return Weight(payload, evaluate.member_array(reader.read(payload).members[0]))


def linear(rows: int, k: int) -> View:
    """The view of a MatMul's weight, stored [k, rows]."""
    return View((k, rows), (1, 0), 1, rows)


def node(op_type: str, inputs: Sequence[str], attributes: Mapping[str, object] | None = None, output: str = "y") -> onnx.NodeProto:
    """One of our operators."""
    return helper.make_node(op_type, inputs, [output], op_type.lower(), domain=DOMAIN, **(attributes or {}))


def standard(op_type: str, inputs: Sequence[str], attributes: Mapping[str, object] | None = None) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, ["y"], **(attributes or {}))


def model(nodes: Sequence[onnx.NodeProto], feeds: Mapping[str, NDArray], constants: Mapping[str, NDArray], output: int) -> onnx.ModelProto:
    """A model whose inputs are `feeds` (shapes unknown), whose initializers are `constants`, with the output y."""
    element = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(name, element(array.dtype), [None] * array.ndim) for name, array in feeds.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, [helper.make_tensor_value_info("y", output, None)], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(proto: onnx.ModelProto, feeds: Mapping[str, NDArray], threads: int = 1, config: Mapping[str, str] | None = None) -> NDArray:
    """The output y."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(library_path())
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: NDArray = session.run(None, dict(feeds))[0]
    return found


def assert_close(found: NDArray, expected: NDArray) -> None:
    """Equal in shape and type, and in value up to the order of sums."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    wide = expected.astype(np.float64)
    tolerance = (1e-5 if expected.dtype == np.float32 else 4e-3) * max(1.0, float(np.abs(wide).max(initial=0)))
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=0, atol=tolerance)


def compare(op_type: str, made: Weight, inputs: dict[str, NDArray | None], attributes: dict[str, Any] | None = None, threads: int = 1) -> NDArray:
    """Runs `op_type` on the tensor and Compressed<op_type> on the payload; the second input is the weight."""
    attributes = attributes or {}
    feeds = {name: array for name, array in inputs.items() if array is not None}
    output = FLOATS[next(iter(feeds.values())).dtype.type]
    names = [name if array is not None else "" for name, array in inputs.items()]
    names.insert(1, "w")
    ours = model([node(f"Compressed{op_type}", names, attributes)], feeds, {"w": made.payload}, output)
    plain = model([standard(op_type, names, attributes)], feeds, {"w": made.tensor}, output)
    found = run(ours, feeds, threads)
    assert_close(found, run(plain, feeds))
    return found


def normal(*shape: int, dtype: type = np.float32) -> NDArray:
    return RNG.standard_normal(shape).astype(dtype)


def conv_view(dims: tuple[int, ...], group: int) -> View:
    batch = group if dims[0] // group >= 64 else 1
    return View(dims, tuple(range(len(dims))), batch, dims[0] // batch)
