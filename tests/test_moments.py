"""Moments are those of the very values that each weight is multiplied with, against sums written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_compress.optimizer import shrinkage
from onnx_compress.optimizer.calibrate import load_calibration
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.moments import Moments
from onnx_compress.optimizer.synthetic import synthesize
from onnx_compress.optimizer.vectors import spread
from onnx_compress.optimizer.weights import Rules, Weight, find_weights
from onnx_compress.passes.simplify import simplify

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.measuring import collected, finished, measured, normal

SHARED = Path(__file__).parents[2] / "shared" / "models"


def predicted_error(weight: Weight, moments: Moments, change: NDArray[np.float32]) -> float:
    """sum of E[x^2] * change^2 for a change that touches a single value: then it is exact."""
    return float((np.broadcast_to(moments.square, weight.view.shape) * weight.view.see(change).astype(np.float64) ** 2).sum())


@pytest.mark.parametrize(("form", "rank"), [("flat", 2), ("stacked", 4)])
def test_matmul_moments_are_those_of_the_last_axis(tmp_path: Path, form: str, rank: int) -> None:
    net = Network(0)
    net.weight("w", (16, 24) if form == "flat" else (3, 16, 24))
    model = finished(net, net.add("MatMul", ["x", "w"]), [tensor("x", ["n", 16] if form == "flat" else ["n", 3, 5, 16])], rank)
    shape = (6, 16) if form == "flat" else (6, 3, 5, 16)
    x = normal(*shape)
    weights, moments = measured(model, [{"x": x[:4]}, {"x": x[4:]}], tmp_path)
    parts = x.reshape(1, -1, 16) if form == "flat" else np.moveaxis(x, 1, 0).reshape(3, -1, 16)
    np.testing.assert_allclose(moments["w"].mean, parts.mean(axis=1)[:, None], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(moments["w"].square, (parts**2).mean(axis=1)[:, None], rtol=1e-5)
    np.broadcast_shapes(moments["w"].square.shape, weights["w"].view.shape)
    assert moments["w"].samples == parts.shape[1]


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_moments_follow_the_transposed_input(tmp_path: Path, transposed: int) -> None:
    net = Network(0)
    result = net.add("Gemm", ["x", net.weight("w", (16, 24))], {"transA": transposed})
    x = normal(5, 16)
    _, moments = measured(finished(net, result, [tensor("x", ["a", "b"])], 2), [{"x": x.T.copy() if transposed else x}], tmp_path)
    np.testing.assert_allclose(moments["w"].square[0, 0], (x**2).mean(axis=0), rtol=1e-5)


CONVOLUTIONS = [
    ((16, 3, 3, 3), (2, 3, 9, 8), {}),
    ((16, 3, 3, 3), (2, 3, 9, 8), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((16, 3, 3, 3), (2, 3, 9, 8), {"pads": [2, 0, 1, 3], "dilations": [2, 1]}),
    ((16, 3, 3, 3), (2, 3, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((16, 3, 4, 4), (2, 3, 9, 8), {"auto_pad": "SAME_LOWER"}),
    ((16, 3, 4, 4), (2, 3, 9, 8), {"auto_pad": "VALID"}),
    ((24, 1, 3, 3), (2, 24, 7, 7), {"group": 24, "pads": [1, 1, 1, 1]}),
    ((20, 3, 3, 3), (2, 6, 7, 7), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((128, 3, 1, 1), (2, 6, 7, 7), {"group": 2}),
    ((16, 4, 9), (2, 4, 30), {"pads": [4, 4], "strides": [2]}),
    ((16, 2, 2, 3, 2), (2, 2, 4, 5, 6), {"pads": [1, 1, 1, 0, 0, 0]}),
]


@pytest.mark.parametrize(("dims", "shape", "attributes"), CONVOLUTIONS)
def test_convolution_moments_predict_the_error_of_any_one_value(
    tmp_path: Path, dims: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, object]
) -> None:
    net = Network(0)
    net.weight("w", dims)
    model = finished(net, net.add("Conv", ["x", "w"], attributes), [tensor("x", ["n", *shape[1:]])], len(shape))
    x = normal(*shape)
    weights, moments = measured(model, [{"x": x[:1]}, {"x": x[1:]}], tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(5):
        place = tuple(int(rng.integers(size)) for size in dims)
        change = np.zeros(dims, np.float32)
        change[place] = 1
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(change, "w"))
        (response,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
        met = response[:, place[0]].astype(np.float64)
        assert predicted_error(weights["w"], moments["w"], change) == pytest.approx((met**2).mean(), rel=1e-4)
        mean = np.broadcast_to(moments["w"].mean, weights["w"].view.shape)[weights["w"].view.see(change) == 1]
        assert mean[0] == pytest.approx(met.mean(), rel=1e-3, abs=1e-5)


def test_gather_moments_are_how_often_a_row_is_asked_for(tmp_path: Path) -> None:
    net = Network(0)
    model = finished(net, net.add("Gather", [net.weight("table", (8, 32)), "ids"]), [tensor("ids", ["n", "t"], TensorProto.INT64)], 3)
    ids = np.array([[0, 0, 1, -1], [0, 0, 1, 7]])
    _, moments = measured(model, [{"ids": ids}], tmp_path)
    square = moments["table"].square
    assert square.shape == (1, 8, 1)
    assert square.mean() == pytest.approx(1)
    assert not moments["table"].mean.any()
    np.testing.assert_allclose(square[0, :, 0], 0.5 + 0.5 * np.array([4, 2, 0, 0, 0, 0, 0, 2]))


def test_masked_positions_are_left_out(tmp_path: Path) -> None:
    net = Network(0)
    x = net.add("MatMul", [net.add("Gather", [net.weight("table", (40, 16)), "ids"]), net.weight("w", (16, 24))])
    kept = net.add("Unsqueeze", [net.add("Cast", ["attention_mask"], {"to": TensorProto.FLOAT}), net.constant("axis", [2], "int64")])
    inputs = [tensor("ids", ["n", "t"], TensorProto.INT64), tensor("attention_mask", ["n", "t"], TensorProto.INT64)]
    model = finished(net, net.add("Mul", [x, kept]), inputs, 3)
    ids = np.random.default_rng(0).integers(1, 40, (2, 6))
    mask = (np.arange(6) < np.array([[4], [6]])).astype(np.int64)
    _, padded = measured(model, [{"ids": ids * mask, "attention_mask": mask}], tmp_path)
    whole = [{"ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]} for row, length in ((0, 4), (1, 6))]
    _, exact = measured(model, whole, tmp_path)
    for name in ("table", "w"):
        np.testing.assert_allclose(padded[name].square, exact[name].square, rtol=1e-6)
        assert padded[name].samples == exact[name].samples == 10


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_recurrent_moments_come_from_the_inputs_and_the_outputs(tmp_path: Path, operator: str) -> None:
    net, gates = Network(0), 4 if operator == "LSTM" else 3
    matrices = [net.weight("w", (2, gates * 8, 16)), net.weight("r", (2, gates * 8, 8))]
    result = net.add(operator, ["x", *matrices], {"hidden_size": 8, "direction": "bidirectional"})
    model = finished(net, result, [tensor("x", ["t", "n", 16])], 4)
    x = normal(5, 3, 16)
    _, moments = measured(model, [{"x": x}], tmp_path)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(moments["w"].square[0, 0], (x**2).mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(moments["r"].square[:, 0], (y**2).mean(axis=(0, 2)), rtol=1e-4)
    assert moments["r"].mean.shape == (2, 1, 8)


def test_a_weight_on_the_left_meets_the_columns_of_the_right_matrix(tmp_path: Path) -> None:
    net = Network(0)
    model = finished(net, net.add("MatMul", [net.weight("w", (24, 16)), "x"]), [tensor("x", ["n", 16, 5])], 3)
    x = normal(4, 16, 5)
    _, moments = measured(model, [{"x": x}], tmp_path)
    np.testing.assert_allclose(moments["w"].square[0, 0], (x**2).mean(axis=(0, 2)), rtol=1e-5)


def test_a_weight_inside_a_body_and_an_unknown_consumer_have_no_moments(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for name in ("scan_body", "einsum"):
        path.write_bytes(STRUCTURES[name](0).SerializeToString())
        model = load(path)
        simplify(model)
        weights = find_weights(model, Rules()).weights
        assert weights
        assert collected(model, weights, synthesize(model, 0)) == {}


@pytest.mark.parametrize("name", STRUCTURES)
def test_moments_of_every_structure_broadcast_and_are_possible(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(STRUCTURES[name](0).SerializeToString())
    model = load(path)
    simplify(model)
    weights = find_weights(model, Rules()).weights
    moments = collected(model, weights, synthesize(model, 0))
    for weight in weights:
        if weight.name in moments:
            one = moments[weight.name]
            assert np.broadcast_shapes(one.mean.shape, weight.view.shape) == weight.view.shape
            assert np.broadcast_shapes(one.square.shape, weight.view.shape) == weight.view.shape
            assert (one.square >= one.mean**2 * (1 - 1e-4) - 1e-12).all()


def test_infinite_activations_give_no_moments(tmp_path: Path) -> None:
    net = Network(0)
    model = finished(net, net.add("MatMul", [net.add("Exp", ["x"]), net.weight("w", (16, 24))]), [tensor("x", ["n", 16])], 2)
    assert measured(model, [{"x": np.full((2, 16), 1e4, np.float32)}], tmp_path)[1] == {}


def test_many_layers_are_measured_in_groups_with_the_same_result(tmp_path: Path) -> None:
    net = Network(0)
    x = "x"
    for layer in range(40):
        x = net.add("Tanh", [net.add("MatMul", [x, net.weight(f"w{layer}", (16, 16))])])
    _, moments = measured(finished(net, x, [tensor("x", ["n", 16])], 2), [{"x": normal(4, 16)}], tmp_path)
    assert len(moments) == 40


def weights_have_matrices(weight: Weight, moments: Moments) -> bool:
    """Every weight that is multiplied has a covariance of its columns."""
    looked_up = all(use.node.op_type == "Gather" for use in weight.uses)
    return looked_up or (moments.covariance is not None and moments.covariance.shape[1:] == (weight.view.k, weight.view.k))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no models in {SHARED}")
@pytest.mark.parametrize("name", ["minilm_l6_v2", "cifar10_resnet20", "charrnn_shakespeare_wbf16", "mlperf_kws_dscnn"])
def test_every_weight_of_real_models_has_moments(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for choices in ("CHOICES", "FEW_CHOICES"):  # of all of them MiniLM's matrices take a minute
        monkeypatch.setattr(shrinkage, choices, (0.1,))
    model = load(SHARED / f"{name}.onnx")
    simplify(model)
    weights = find_weights(model, Rules()).weights
    feeds = synthesize(model, 0)
    np.savez(tmp_path / "data.npz", **{key: np.concatenate([feed[key] for feed in feeds])[:8] for key in feeds[0]})  # type: ignore[arg-type]
    moments = collected(model, weights, load_calibration([tmp_path / "data.npz"], model.graph.inputs), matrices=True)
    assert all(weights_have_matrices(weight, moments[weight.name]) for weight in weights)
    assert set(moments) == {weight.name for weight in weights}


@pytest.mark.parametrize(("count", "most"), [(32 * 32 * 32, 1024), (160 * 160 * 4, 4096), (1000, 999), (100, 100), (7, 3), (5, 50), (1, 1)])
def test_spread_takes_different_numbers_from_equal_parts(count: int, most: int) -> None:
    found = spread(count, most)
    assert len(found) == min(count, most)
    assert (np.diff(found) > 0).all()
    parts = np.arange(len(found) + 1) * count // len(found)
    assert ((parts[:-1] <= found) & (found < parts[1:])).all()


@pytest.mark.parametrize("width", [8, 14, 32, 80, 160])
def test_positions_of_images_are_met_in_all_columns(width: int) -> None:
    """Equal distances that are a multiple of the width would see the first column only, whose neighbour on the left is padding."""
    for samples in (1, 32, 64):
        columns = np.bincount(spread(samples * width * width, 1024) % width, minlength=width)
        assert columns.max() <= 3 * max(1024 / width, 4)
        assert width > 80 or samples * width < 256 or columns.min() > 0
