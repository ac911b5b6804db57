"""Both biases of a recurrent layer in one: same outputs, and only where nothing else is done with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes.constants import mark_untouchable
from onnx_compress.passes.recurrent_bias import MergeRecurrentBiases

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = 5


def layer(op_type: str, directions: int = 1, **attributes: Any) -> onnx.ModelProto:
    random, gates = np.random.default_rng(0), GATES[op_type]
    dims = {"w": (directions, gates * HIDDEN, 3), "r": (directions, gates * HIDDEN, HIDDEN), "b": (directions, 2 * gates * HIDDEN)}
    direction = "bidirectional" if directions > 1 else "forward"
    node = helper.make_node(op_type, ["x", "w", "r", "b"], ["y"], hidden_size=HIDDEN, direction=direction, **attributes)
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 2, 3])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(random.standard_normal(size).astype(np.float32), name) for name, size in dims.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def merged(proto: onnx.ModelProto, untouchable: frozenset[str] = frozenset()) -> tuple[onnx.ModelProto, bool]:
    loaded = ir.serde.deserialize_model(proto)
    mark_untouchable(loaded, untouchable)
    result = MergeRecurrentBiases()(loaded)
    return ir.serde.serialize_model(loaded), result.modified


def run(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((4, 2, 3)).astype(np.float32)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def second_bias(proto: onnx.ModelProto) -> np.ndarray:
    whole = numpy_helper.to_array(next(one for one in proto.graph.initializer if one.name == "b"))
    return whole[:, whole.shape[1] // 2 :]


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op_type", GATES)
def test_the_second_bias_becomes_zero_and_outputs_stay(op_type: str, directions: int) -> None:
    before = layer(op_type, directions)
    after, changed = merged(before)
    assert changed
    assert not second_bias(after).any()
    np.testing.assert_allclose(run(after), run(before), atol=1e-6)
    assert not merged(after)[1]


def test_a_gru_that_multiplies_the_second_bias_is_left_alone() -> None:
    before = layer("GRU", linear_before_reset=1)
    after, changed = merged(before)
    assert not changed
    assert np.array_equal(second_bias(after), second_bias(before))


def test_a_bias_that_is_read_elsewhere_or_excluded_stays() -> None:
    shared = layer("LSTM")
    shared.graph.node.append(helper.make_node("Identity", ["b"], ["z"]))
    shared.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert not merged(shared)[1]
    assert not merged(layer("LSTM"), frozenset({"b"}))[1]
