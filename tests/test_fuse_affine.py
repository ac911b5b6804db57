"""Affine operators and padding move into the layer before or behind them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.slimming import Array, assert_same, floats, model_of, normal, operators, run, slimmed, stored

# --- fusions


def layers() -> list[tuple[str, onnx.NodeProto, tuple[int, ...], dict[str, Array], int]]:
    """Name, layer, dims of x, constants, output channels."""
    return [
        ("conv", helper.make_node("Conv", ["x", "w"], ["h"]), (2, 4, 7, 7), {"w": normal(8, 4, 3, 3)}, 8),
        ("conv with bias", helper.make_node("Conv", ["x", "w", "b"], ["h"], group=2), (2, 4, 7, 7), {"w": normal(8, 2, 3, 3), "b": normal(8)}, 8),
        (
            "transposed",
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["h"], group=2),
            (2, 4, 5, 5),
            {"w": normal(4, 3, 3, 3), "b": normal(6)},
            6,
        ),
        ("gemm", helper.make_node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5), (3, 16), {"w": normal(16, 8), "b": normal(1, 8)}, 8),
        ("gemm, transposed", helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), (3, 16), {"w": normal(8, 16)}, 8),
    ]


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: layer[0])
@pytest.mark.parametrize("operator", ["BatchNormalization", "Mul", "Add", "Sub", "Div", "Sub from", "Div of"])
def test_an_affine_operator_moves_into_the_layer_before_it(
    layer: tuple[str, onnx.NodeProto, tuple[int, ...], dict[str, Array], int], operator: str
) -> None:
    _, node, dims, constants, channels = layer
    constants = dict(constants)
    if operator == "BatchNormalization":
        constants |= {"scale": normal(channels), "shift": normal(channels, seed=7), "mean": normal(channels), "variance": normal(channels) ** 2 + 0.1}
        affine = helper.make_node(operator, ["h", "scale", "shift", "mean", "variance"], ["y"])
    else:
        constants["c"] = 1.5 + normal(channels).reshape(1, channels, *(1 for _ in dims[2:])) ** 2
        inputs = ["c", "h"] if " " in operator else ["h", "c"]
        affine = helper.make_node(operator.split(maxsplit=1)[0], inputs, ["y"])
    model = model_of([node, affine], [floats(*dims)], ["y"], constants)
    slim = slimmed(model)
    assert len(slim.graph.node) == (2 if operator == "Div of" else 1)
    assert "w" in stored(slim)
    assert_same(run(model, {"x": normal(*dims)}), run(slim, {"x": normal(*dims)}), tolerance=2e-6 if "Div of" not in operator else 1e-5)
    for name in ("w", "shift" if operator == "BatchNormalization" else "c"):
        untouched = slimmed(model, [name])
        assert untouched.graph.node[-1].op_type == operator.split(maxsplit=1)[0] or (name == "c" and operator == "Div of")
        assert np.array_equal(stored(untouched)[name], constants[name])


def test_a_weight_with_two_readers_is_not_scaled() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["h", "c"], ["m"]),
        helper.make_node("Conv", ["m", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    model = model_of(nodes, [floats(1, 4, 5, 5)], ["y"], {"w": normal(4, 4, 3, 3), "c": normal(4, 1, 1)})
    assert operators(slimmed(model)) == ["Conv", "Mul", "Conv"]


def test_a_scale_beyond_float16_is_not_fused() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 4, 5, 5])
    constants: dict[str, Array] = {"w": np.full((4, 4, 3, 3), 1000, np.float16), "c": np.full((4, 1, 1), 1000, np.float16)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "c"], ["y"])]
    assert operators(slimmed(model_of(nodes, [x], ["y"], constants))) == ["Conv", "Mul"]


@pytest.mark.parametrize("opset", [9, 17])
def test_zero_padding_moves_into_the_convolution(opset: int) -> None:
    pads = [0, 0, 1, 0, 0, 0, 2, 1]
    constants: dict[str, Array] = {"w": normal(4, 4, 3, 3)}
    if opset < 11:
        pad = helper.make_node("Pad", ["x"], ["p"], pads=pads)
    else:
        pad, constants["pads"] = helper.make_node("Pad", ["x", "pads"], ["p"]), np.array(pads)
    model = model_of([pad, helper.make_node("Conv", ["p", "w"], ["y"], pads=[1, 1, 1, 1])], [floats(1, 4, 6, 6)], ["y"], constants, opset)
    slim = slimmed(model)
    assert operators(slim) == ["Conv"]
    assert_same(run(model, {"x": normal(1, 4, 6, 6)}), run(slim, {"x": normal(1, 4, 6, 6)}))
