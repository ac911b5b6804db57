"""What follows a product: bias, residual and activation, in that order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_compress.runtime.form import View
from operator_models import (
    BOTH,
    FLOATS,
    assert_close,
    conv_view,
    linear,
    model,
    node,
    normal,
    run,
    standard,
    weight,
)

from tests import instruction_sets


@BOTH
@pytest.mark.parametrize("has_bias", [False, True])
def test_bias_residual_and_relu_are_added_in_that_order(dtype: type, has_bias: bool) -> None:
    made = weight(linear(70, 12), dtype=FLOATS[dtype])
    x, bias, residual = normal(3, 12, dtype=dtype), normal(70, dtype=dtype), normal(3, 70, dtype=dtype)
    feeds = {"x": x, "residual": residual} | ({"bias": bias} if has_bias else {})
    nodes = [node("CompressedMatMul", ["x", "w", "bias" if has_bias else "", "residual"], {"activation": "Relu"})]
    found = run(model(nodes, feeds, {"w": made.payload}, FLOATS[dtype]), feeds)
    wide = [array.astype(np.float32) for array in (x, made.tensor, residual, bias)]
    expected = np.maximum(wide[0] @ wide[1] + wide[2] + (wide[3] if has_bias else 0), 0)
    assert_close(found, expected.astype(dtype))


def sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def hard_sigmoid(x: NDArray, alpha: float, beta: float) -> NDArray:
    return np.clip(alpha * x + beta, 0, 1)


ACTIVATIONS: list[tuple[str, list[float], Callable[[NDArray], NDArray]]] = [
    ("Relu", [], lambda x: np.maximum(x, 0)),
    ("Clip", [-0.5, 2.0], lambda x: np.clip(x, -0.5, 2)),
    ("Clip", [-np.inf, 0.5], lambda x: np.minimum(x, 0.5)),
    ("LeakyRelu", [0.1], lambda x: np.where(x < 0, 0.1 * x, x)),
    ("HardSigmoid", [0.2, 0.4], lambda x: hard_sigmoid(x, 0.2, 0.4)),
    ("Sigmoid", [], sigmoid),
    ("Tanh", [], np.tanh),
    ("MulHardSigmoid", [0.25, 0.4], lambda x: x * hard_sigmoid(x, 0.25, 0.4)),
    ("HardSwish", [], lambda x: x * hard_sigmoid(x, 1 / 6, 0.5)),
    ("MulSigmoid", [], lambda x: x * sigmoid(x)),
]


@BOTH
@pytest.mark.parametrize(("name", "parameters", "function"), ACTIVATIONS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm", "Conv"])
@pytest.mark.parametrize("optional", [(), ("bias",), ("residual",), ("bias", "residual")])
def test_activations_follow_bias_and_residual(
    dtype: type, name: str, parameters: list[float], function: Callable[[NDArray], NDArray], op_type: str, optional: Sequence[str]
) -> None:
    dims = {"bias": (70,), "residual": (2, 70, 5) if op_type == "Conv" else (5, 70)}
    made = weight(conv_view((70, 12, 3), 1) if op_type == "Conv" else linear(70, 12), dtype=FLOATS[dtype])
    feeds = {"x": normal(2, 12, 7, dtype=dtype) if op_type == "Conv" else normal(5, 12, dtype=dtype)}
    feeds |= {what: normal(*dims[what], dtype=dtype) for what in optional}
    inputs = ["x", "w", *(what if what in optional else "" for what in dims)]
    attributes = {"activation": name} | ({"activation_parameters": parameters} if parameters else {})
    found = run(model([node(f"Compressed{op_type}", inputs, attributes)], feeds, {"w": made.payload}, FLOATS[dtype]), feeds)
    wide = {what: array.astype(np.float32) for what, array in {**feeds, "w": made.tensor}.items()}
    plain = run(model([standard(op_type, ["x", "w"])], {"x": wide["x"]}, {"w": wide["w"]}, TensorProto.FLOAT), {"x": wide["x"]})
    bias = wide.get("bias", np.zeros(70, np.float32)).reshape((70, 1) if op_type == "Conv" else (70,))
    assert_close(found, function(plain + bias + wide.get("residual", 0)).astype(dtype))


@pytest.mark.parametrize("instruction_set", instruction_sets.NAMES)
@pytest.mark.parametrize(("name", "parameters", "function"), ACTIVATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_activations_are_right_with_every_instruction_set(
    instruction_set: str, name: str, parameters: list[float], function: Callable[[NDArray], NDArray]
) -> None:
    """From far below zero to far above, in rows that are no whole vectors."""
    instruction_sets.skip_without(instruction_set)
    made = weight(View((37, 1), (0, 1), 1, 37))
    feeds = {"x": np.concatenate([np.linspace(-200, 200, 403), np.linspace(-1, 1, 403), [-1e30, 0, 1e-30, 1e30]]).astype(np.float32)[:, None]}
    attributes = {"activation": name} | ({"activation_parameters": parameters} if parameters else {})
    proto = model([node("CompressedMatMul", ["x", "w"], attributes)], feeds, {"w": made.payload}, TensorProto.FLOAT)
    found = run(proto, feeds, config={"onnx_compress.instruction_set": instruction_set})
    cancels = 1e-6 if "Hard" in name else 1e-35  # alpha x + beta near zero
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, function(feeds["x"] @ made.tensor.T).astype(np.float32), rtol=4e-7, atol=cancels)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"activation": "Gelu"}, "activation 'Gelu' is unknown, legal are Relu, Clip"),
        ({"activation": "Clip"}, "activation 'Clip' has 0 activation_parameters, needs 2"),
        ({"activation": "Relu", "activation_parameters": [1.0]}, "activation 'Relu' has 1 activation_parameters, needs 0"),
    ],
)
def test_an_unknown_activation_is_refused(attributes: dict[str, Any], sentence: str) -> None:
    made, feeds = weight(linear(70, 12)), {"x": normal(3, 12)}
    with pytest.raises(Exception, match=sentence):
        run(model([node("CompressedMatMul", ["x", "w"], attributes)], feeds, {"w": made.payload}, TensorProto.FLOAT), feeds)
