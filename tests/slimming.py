"""What tests of slimming share: small models, their slimmed copies, and what these compute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes.names import shorten
from onnx_compress.passes.simplify import simplify

Array = NDArray[np.generic]


RNG_SEED = 5


def run(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    outputs: list[Array] = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)
    return outputs


def loaded_copy(model: onnx.ModelProto) -> ir.Model:
    """onnx_ir works on the very tensors of a proto, and renames them there."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return ir.from_proto(copy)


def slimmed(model: onnx.ModelProto, untouchable: Sequence[str] = (), short: bool = False) -> onnx.ModelProto:
    """A simplified copy, checked."""
    loaded = loaded_copy(model)
    simplify(loaded, frozenset(untouchable))
    if short:
        shorten(loaded)
    proto = ir.to_proto(loaded)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def assert_same(before: Sequence[Array], after: Sequence[Array], tolerance: float = 1e-5) -> None:
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        if old.dtype.kind not in "fc":
            assert np.array_equal(old, new)
            continue
        limit = np.abs(old[np.isfinite(old)].astype(np.float64)).max(initial=0.0)
        np.testing.assert_allclose(new.astype(np.float64), old.astype(np.float64), rtol=0, atol=tolerance * limit, equal_nan=True)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: dict[str, Array],
    opset: int = 17,
) -> onnx.ModelProto:
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "test", inputs, results, [numpy_helper.from_array(a, n) for n, a in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def floats(*dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)


def normal(*dims: int, seed: int = RNG_SEED) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def names(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    constants = {t.name for t in model.graph.initializer}
    return [v.name for v in model.graph.input if v.name not in constants], [v.name for v in model.graph.output]
