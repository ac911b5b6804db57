"""Importance of rows: against noise in one output channel of a layer, measured where the model ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx_compress.optimizer.importance import RANGE, row_importance

from models.network import Network, tensor
from tests.measuring import finished, loaded

CHANNELS = 16
Built = tuple[onnx.ModelProto, tuple[int, ...]]
"""(a model with inputs x and noise, the noise being added to the output of the layer called `first`; the dims of x)."""


def net_with_scales() -> tuple[Network, NDArray[np.float32]]:
    """A network, and what its channels are multiplied with in the layers that read them."""
    net = Network(0)
    return net, np.exp(net.rng.normal(0, 0.6, CHANNELS)).astype(np.float32)


def filters(net: Network, name: str, outputs: int, inputs: NDArray[np.float32] | int, size: int = 3) -> str:
    """Filters with inputs of different weight."""
    scale = np.ones(inputs, np.float32) if isinstance(inputs, int) else inputs
    values = net.rng.standard_normal((outputs, len(scale), size, size)) * scale[:, None, None]
    return net.constant(name, (values / np.sqrt(len(scale) * size**2)).astype(np.float32))


def first(net: Network) -> str:
    """A convolution, and noise."""
    return net.add("Add", [net.add("Conv", ["x", filters(net, "first", CHANNELS, 8, 1)]), "noise"])


def ended(net: Network, result: str, rank: int = 4, samples: int = 40) -> Built:
    inputs = [tensor("x", ["n", 8, 12, 12]), tensor("noise", ["n", CHANNELS, 12, 12])]
    return finished(net, result, inputs, rank), (samples, 8, 12, 12)


def conv_relu_conv() -> Built:
    net, scale = net_with_scales()
    hidden = net.add("Relu", [first(net)])
    return ended(net, net.add("Conv", [hidden, filters(net, "second", 24, scale)]))


def depthwise_between() -> Built:
    net, scale = net_with_scales()
    own = (net.rng.standard_normal((CHANNELS, 1, 3, 3)) * scale[:, None, None, None]).astype(np.float32)
    hidden = net.add("Conv", [first(net), net.constant("own", own)], {"group": CHANNELS})
    return ended(net, net.add("Conv", [hidden, filters(net, "second", 24, CHANNELS, 1)]))


def residual() -> Built:
    net, scale = net_with_scales()
    hidden = first(net)
    around = net.add("Conv", [hidden, filters(net, "around", CHANNELS, scale)], {"pads": [1, 1, 1, 1]})
    return ended(net, net.add("Conv", [net.add("Add", [hidden, around]), filters(net, "second", 64, scale[::-1].copy())]))


def batch_normalization() -> Built:
    net, scale = net_with_scales()
    hidden = first(net)
    rest = [net.bias("shift", CHANNELS), net.bias("mean", CHANNELS), net.constant("variance", np.geomspace(0.5, 2, CHANNELS, dtype=np.float32))]
    hidden = net.add("BatchNormalization", [hidden, net.constant("scale", scale), *rest])
    return ended(net, net.add("Conv", [hidden, filters(net, "second", 24, CHANNELS)]))


def multiplied_by_a_constant() -> Built:
    net, scale = net_with_scales()
    hidden = net.add("Mul", [first(net), net.constant("factor", scale.reshape(-1, 1, 1))])
    hidden = net.add("Div", [hidden, net.constant("divisor", np.geomspace(0.7, 1.4, CHANNELS, dtype=np.float32).reshape(-1, 1, 1))])
    return ended(net, net.add("Conv", [hidden, filters(net, "second", 24, CHANNELS)]))


def flatten_after_pooling() -> Built:
    net, scale = net_with_scales()
    hidden = net.add("Flatten", [net.add("GlobalAveragePool", [first(net)])])
    matrix = (net.rng.standard_normal((CHANNELS, 30)) * scale[:, None]).astype(np.float32)
    return ended(net, net.add("Gemm", [hidden, net.constant("second", matrix)]), 2, 600)


def matmul_gelu_matmul() -> Built:
    net, scale = net_with_scales()
    hidden = net.add("Add", [net.add("MatMul", ["x", net.weight("first", (8, CHANNELS))]), "noise"])
    erf = net.add("Erf", [net.add("Div", [hidden, net.constant("root", 2.0**0.5)])])
    hidden = net.add("Mul", [net.add("Mul", [hidden, net.add("Add", [erf, net.constant("one", 1.0)])]), net.constant("half", 0.5)])
    matrix = (net.rng.standard_normal((CHANNELS, 30)) * scale[:, None]).astype(np.float32)
    result = net.add("MatMul", [hidden, net.constant("second", matrix)])
    return finished(net, result, [tensor("x", ["n", 144, 8]), tensor("noise", ["n", 144, CHANNELS])], 3), (40, 144, 8)


def responses(model: onnx.ModelProto, dims: tuple[int, ...]) -> NDArray[np.float64]:
    """The mean squared change of the output for equal noise in each channel of the first layer."""
    session, rng = onnxruntime.InferenceSession(model.SerializeToString()), np.random.default_rng(5)
    axis = 1 if len(dims) == 4 else len(dims) - 1
    x, shape = rng.standard_normal(dims).astype(np.float32), list(dims)
    shape[axis] = CHANNELS
    quiet = np.zeros(shape, np.float32)
    (before,) = session.run(None, {"x": x, "noise": quiet})
    found = []
    for channel in range(CHANNELS):
        noise = np.moveaxis(quiet.copy(), axis, 0)
        noise[channel] = 0.05 * rng.standard_normal(noise[channel].shape)
        (after,) = session.run(None, {"x": x, "noise": np.ascontiguousarray(np.moveaxis(noise, 0, axis))})
        found.append(np.square(after - before, dtype=np.float64).mean())
    return np.array(found) / np.mean(found)


CASES: tuple[tuple[Callable[[], Built], float], ...] = (
    (conv_relu_conv, 0.35),  # channels are alive to different degrees
    (depthwise_between, 0.15),
    (residual, 0.5),  # the two ways meet again
    (batch_normalization, 0.15),
    (multiplied_by_a_constant, 0.15),
    (flatten_after_pooling, 0.25),
    (matmul_gelu_matmul, 0.35),
)


@pytest.mark.parametrize(("build", "tolerance"), CASES, ids=[build.__name__ for build, _ in CASES])
def test_a_row_matters_as_much_as_noise_in_its_output_moves_the_result(tmp_path: Path, build: Callable[[], Built], tolerance: float) -> None:
    model, dims = build()
    importance = row_importance(*loaded(model, tmp_path))["first"]
    assert importance.shape == (CHANNELS,)
    assert importance.mean() == pytest.approx(1, rel=1e-5)
    measured = responses(model, dims)
    assert measured.max() / measured.min() > 4, "nothing to tell apart"
    np.testing.assert_allclose(np.log(importance), np.log(measured), atol=tolerance)


def test_all_rows_of_the_last_layer_count_alike(tmp_path: Path) -> None:
    assert "second" not in row_importance(*loaded(conv_relu_conv()[0], tmp_path))


@pytest.mark.parametrize("operator", ["Transpose", "Einsum", "Concat"])
def test_what_mixes_channels_in_an_unknown_way_gives_no_importance(tmp_path: Path, operator: str) -> None:
    net, _ = net_with_scales()
    hidden = first(net)
    inputs = [hidden, hidden] if operator == "Concat" else [hidden]
    attributes = {"Transpose": {"perm": [0, 2, 1, 3]}, "Einsum": {"equation": "nchw->nhcw"}, "Concat": {"axis": 2}}[operator]
    mixed = net.add(operator, inputs, attributes)
    size = CHANNELS if operator == "Concat" else 12
    model = ended(net, net.add("Conv", [mixed, filters(net, "second", 24, size)]))[0]
    assert "first" not in row_importance(*loaded(model, tmp_path))


def test_a_consumer_that_is_unknown_hides_the_others(tmp_path: Path) -> None:
    net, scale = net_with_scales()
    hidden = first(net)
    other = net.add("GlobalMaxPool", [net.add("Transpose", [hidden], {"perm": [0, 1, 3, 2]})])
    model = ended(net, net.add("Add", [net.add("Conv", [hidden, filters(net, "second", CHANNELS, scale)]), other]))[0]
    assert "first" not in row_importance(*loaded(model, tmp_path))


def test_importances_stay_within_their_range(tmp_path: Path) -> None:
    net = Network(0)
    scale = np.geomspace(1e-6, 1, CHANNELS).astype(np.float32)
    model = ended(net, net.add("Conv", [first(net), filters(net, "second", 24, scale)]))[0]
    found = row_importance(*loaded(model, tmp_path))["first"]
    assert found.min() > 0
    assert found.max() / found.min() <= RANGE**2 * (1 + 1e-5)


def test_importance_goes_back_through_layers_behind_the_next(tmp_path: Path) -> None:
    """The importance of a layer's outputs weighs its rows, which weigh its inputs."""
    net = Network(0)
    a, b, c = (net.rng.standard_normal(dims).astype(np.float32) for dims in ((16, 20), (20, 16), (16, 10)))
    hidden = net.add("Gemm", ["x", net.constant("a", a)])
    hidden = net.add("Gemm", [hidden, net.constant("b", b.T.copy())], {"transB": 1})
    model = finished(net, net.add("MatMul", [hidden, net.constant("c", c)]), [tensor("x", ["n", 16])], 2)
    found = row_importance(*loaded(model, tmp_path))
    expected = (b.astype(np.float64) ** 2) @ (c.astype(np.float64) ** 2).sum(1)
    np.testing.assert_allclose(found["a"], expected / expected.mean(), rtol=1e-5)
