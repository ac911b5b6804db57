"""Covariances are those of the very vectors that rows are multiplied with: against the response of the model to random filters."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_compress.optimizer import factors, moments, shrinkage
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.evidence import informed
from onnx_compress.optimizer.factors import Factors
from onnx_compress.optimizer.moments import Moments
from onnx_compress.optimizer.plan import Layer
from onnx_compress.optimizer.weights import Weight
from onnx_compress.passes.feedback import Factor
from onnx_compress.passes.technique import Context

from models.network import Network, tensor
from tests.measuring import collected, correlated, finished, loaded, measured, normal
from tests.test_feedback import whole

Floats = NDArray[np.float64]
CUTS = 6


def cut(x: NDArray[np.float32]) -> list[Feed]:
    """Batches."""
    return [{"x": part} for part in np.array_split(x, CUTS)]


def unshrunk(found: Moments) -> Floats:
    """The covariance [m, k, k] of the samples themselves."""
    assert found.covariance is not None
    assert 0 < found.shrinkage < 0.9, "too few samples to tell"
    matrix = found.covariance.astype(np.float64)
    return np.where(np.eye(matrix.shape[1], dtype=bool), matrix, matrix / (1 - found.shrinkage))


def responses(model: onnx.ModelProto, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], Floats]:
    """(random filters in place of the weight, what the model answers)."""
    stored = next(one for one in model.graph.initializer if one.name == "w")
    filters = np.random.default_rng(9).standard_normal(tuple(stored.dims)).astype(np.float32)
    stored.CopyFrom(numpy_helper.from_array(filters, "w"))
    (answer,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    return filters, answer.astype(np.float64)


def expected_variances(weight: Weight, filters: NDArray[np.float32], covariance: Floats) -> Floats:
    """w C w^T of each row, [batch * rows], equal parts of the rows using one matrix each."""
    rows = weight.view.see(filters).astype(np.float64).reshape(len(covariance), -1, weight.view.k)
    return np.asarray(np.einsum("mri,mij,mrj->mr", rows, covariance, rows).reshape(-1))


def check(model: onnx.ModelProto, x: NDArray[np.float32], folder: Path, channels: int, matrices: int = 1) -> None:
    """The variance of each output (along axis `channels`) to random filters is what the covariance says."""
    weights, found = measured(model, cut(x), folder, matrices=True)
    covariance = unshrunk(found["w"])
    assert len(covariance) == matrices
    filters, answer = responses(model, x)
    outputs = np.moveaxis(answer, channels, 0).reshape(answer.shape[channels], -1)
    np.testing.assert_allclose(expected_variances(weights["w"], filters, covariance), outputs.var(axis=1), rtol=2e-3)


def test_a_matmul_sees_the_last_axis(tmp_path: Path) -> None:
    net = Network(0)
    net.weight("w", (16, 70))
    x = np.moveaxis(correlated(90, 16, 5), 1, 2).copy()
    check(finished(net, net.add("MatMul", ["x", "w"]), [tensor("x", ["n", 5, 16])], 3), x, tmp_path, 2)


def test_a_matmul_from_the_left_sees_the_columns(tmp_path: Path) -> None:
    net = Network(0)
    net.weight("w", (70, 16))
    check(finished(net, net.add("MatMul", ["w", "x"]), [tensor("x", ["n", 16, 5])], 3), correlated(90, 16, 5), tmp_path, 1)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_sees_its_rows(tmp_path: Path, transposed: int) -> None:
    net = Network(0)
    net.weight("w", (70, 16) if transposed else (16, 70))
    check(finished(net, net.add("Gemm", ["x", "w"], {"transB": transposed}), [tensor("x", ["n", 16])], 2), correlated(300, 16), tmp_path, 1)


def test_each_matrix_of_a_stack_sees_its_own_inputs(tmp_path: Path) -> None:
    net = Network(0)
    net.weight("w", (3, 16, 24))
    x = np.stack([normal(200, 1, 1) * part + np.moveaxis(correlated(200, 16, 5, seed=part), 1, 2) for part in (1, 2, 3)], axis=1)
    model = finished(net, net.add("MatMul", ["x", "w"]), [tensor("x", ["n", 3, 5, 16])], 4)
    weights, found = measured(model, cut(x), tmp_path, matrices=True)
    filters, answer = responses(model, x)
    outputs = np.moveaxis(answer, (1, 3), (0, 1)).reshape(3 * 24, -1)
    np.testing.assert_allclose(expected_variances(weights["w"], filters, unshrunk(found["w"])), outputs.var(axis=1), rtol=2e-3)


CONVOLUTIONS: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], int], ...] = (
    ((16, 6, 3, 3), (36, 6, 9, 8), {"pads": [1, 1, 1, 1]}, 1),
    ((16, 6, 3, 3), (36, 6, 9, 8), {"pads": [1, 0, 1, 2], "strides": [2, 1]}, 1),
    ((16, 6, 3, 3), (36, 6, 9, 8), {"dilations": [2, 1]}, 1),
    ((16, 6, 4, 4), (36, 6, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, 1),
    ((128, 3, 3, 3), (36, 6, 7, 7), {"group": 2, "pads": [1, 1, 1, 1]}, 2),
    ((24, 1, 3, 3), (48, 12, 7, 7), {"group": 12, "pads": [1, 1, 1, 1]}, 12),
    ((24, 1, 3, 3), (48, 24, 7, 7), {"group": 24}, 24),
    ((20, 3, 3, 3), (36, 6, 7, 7), {"group": 2}, 2),
    ((16, 4, 9), (60, 4, 40), {"pads": [4, 4], "strides": [2]}, 1),
    ((16, 2, 2, 3, 2), (36, 2, 4, 5, 6), {"pads": [1, 1, 1, 0, 0, 0]}, 1),
)


@pytest.mark.parametrize(("dims", "shape", "attributes", "matrices"), CONVOLUTIONS)
def test_a_convolution_sees_patches(tmp_path: Path, dims: tuple[int, ...], shape: tuple[int, ...], attributes: dict[str, Any], matrices: int) -> None:
    net = Network(0)
    net.weight("w", dims)
    model = finished(net, net.add("Conv", ["x", "w"], attributes), [tensor("x", ["n", *shape[1:]])], len(shape))
    check(model, correlated(*shape), tmp_path, 1, matrices)


def transposed_convolution() -> onnx.ModelProto:
    net = Network(0)
    net.weight("w", (12, 20, 2, 2))
    return finished(net, net.add("ConvTranspose", ["x", "w"], {"strides": [2, 2]}), [tensor("x", ["n", 12, 5, 6])], 4)


def test_each_kernel_position_of_a_transposed_convolution_has_the_inputs_for_itself(tmp_path: Path) -> None:
    model, x = transposed_convolution(), correlated(40, 12, 5, 6)
    weights, found = measured(model, cut(x), tmp_path, matrices=True)
    filters, answer = responses(model, x)
    by_position = answer.reshape(40, 20, 5, 2, 6, 2).transpose(1, 3, 5, 0, 2, 4).reshape(20, 4, -1)
    np.testing.assert_allclose(
        expected_variances(weights["w"], filters, unshrunk(found["w"])), by_position.var(axis=2).sum(axis=1), rtol=2e-3
    )


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_recurrent_layers_see_inputs_and_hidden_states(tmp_path: Path, operator: str) -> None:
    net, gates = Network(0), 4 if operator == "LSTM" else 3
    matrices = [net.weight("w", (2, gates * 8, 16)), net.weight("r", (2, gates * 8, 8))]
    result = net.add(operator, ["x", *matrices], {"hidden_size": 8, "direction": "bidirectional"})
    model = finished(net, result, [tensor("x", ["t", "n", 16])], 4)
    x = np.moveaxis(correlated(90, 16, 6), 2, 0)
    feeds = [{"x": part} for part in np.array_split(x, CUTS, axis=1)]
    _, found = measured(model, feeds, tmp_path, matrices=True)
    (states,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x.copy()})
    np.testing.assert_allclose(unshrunk(found["w"])[0], np.cov(x.reshape(-1, 16).T, bias=True), rtol=1e-3, atol=1e-3)
    for direction, matrix in enumerate(unshrunk(found["r"])):
        np.testing.assert_allclose(matrix, np.cov(states[:, direction].reshape(-1, 8).T, bias=True), rtol=1e-2, atol=1e-4)


def multiplied(k: int = 64) -> onnx.ModelProto:
    net = Network(0)
    return finished(net, net.add("MatMul", ["x", net.weight("w", (k, 70))]), [tensor("x", ["n", k])], 2)


def test_few_independent_samples_are_shrunk_to_their_diagonal(tmp_path: Path) -> None:
    found = measured(multiplied(), cut(normal(48, 64)), tmp_path, matrices=True)[1]["w"]
    assert found.shrinkage > 0.8
    assert found.covariance is not None
    np.testing.assert_allclose(np.diag(found.covariance[0]), found.square[0, 0] - found.mean[0, 0] ** 2, rtol=1e-4)


def test_many_correlated_samples_are_hardly_shrunk(tmp_path: Path) -> None:
    assert measured(multiplied(), cut(correlated(3000, 64)), tmp_path, matrices=True)[1]["w"].shrinkage < 0.05


def test_a_single_batch_is_cut_in_two(tmp_path: Path) -> None:
    x = correlated(3000, 64)
    found = measured(multiplied(), [{"x": x}], tmp_path, matrices=True)[1]["w"]
    assert found.shrinkage < 0.05
    np.testing.assert_allclose(unshrunk(found)[0], np.cov(x.T, bias=True), rtol=1e-2, atol=1e-2)


def test_errors_cost_more_on_new_inputs_where_samples_are_few(tmp_path: Path) -> None:
    few, many = (measured(multiplied(), cut(correlated(count, 64)), tmp_path, matrices=True)[1]["w"].optimism for count in (48, 6000))
    assert 1 <= many < 1.05
    assert few > 1.3


def test_a_batch_without_vectors_in_one_half_gives_no_covariance(tmp_path: Path) -> None:
    assert measured(multiplied(), [{"x": normal(1, 64)}], tmp_path, matrices=True)[1]["w"].covariance is None


def test_shrinkage_brings_the_covariance_of_few_samples_closer_to_the_true_one(tmp_path: Path) -> None:
    mixed = np.linalg.qr(np.random.default_rng(3).standard_normal((64, 64)))[0] * np.geomspace(3, 0.1, 64)
    few, many = (np.float32(np.random.default_rng(n).standard_normal((n, 64)) @ mixed.T) for n in (60, 20000))
    found = measured(multiplied(), cut(few), tmp_path, matrices=True)[1]["w"]
    true, plain = np.cov(many.T), unshrunk(found)[0]
    assert found.covariance is not None
    assert np.square(found.covariance[0] - true).sum() < 0.95 * np.square(plain - true).sum()


def chain(layers: int, k: int) -> onnx.ModelProto:
    net, x = Network(0), "x"
    for layer in range(layers):
        x = net.add("Tanh", [net.add("MatMul", [x, net.weight(f"w{layer}", (k, k))])])
    return finished(net, x, [tensor("x", ["n", k])], 2)


def test_layers_measured_in_groups_are_the_same_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feeds = chain(5, 40), cut(normal(120, 40))
    _, one = measured(model, feeds, tmp_path, matrices=True)
    monkeypatch.setattr(moments, "MATRIX_BYTES", 2 * 8 * 40 * 40)
    _, groups = measured(model, feeds, tmp_path, matrices=True)
    assert one.keys() == groups.keys() == {f"w{layer}" for layer in range(5)}
    for name, found in one.items():
        assert np.array_equal(found.covariance, groups[name].covariance)  # type: ignore[arg-type]
        assert found.shrinkage == groups[name].shrinkage


def test_memory_does_not_grow_with_the_number_of_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    k, layers = 512, 10
    matrix = 4 * k * k
    monkeypatch.setattr(moments, "MATRIX_BYTES", matrix)
    monkeypatch.setattr(factors, "HELD_BYTES", 0)
    monkeypatch.setattr(shrinkage, "CHOICES", (0.1, 0.3))  # one after the other: more take time, not memory
    model, weights = loaded(chain(layers, k), tmp_path)
    known, kept = {weight.name: Layer(weight, Context()) for weight in weights}, Factors(tmp_path / "scratch")

    def take(weight: Weight, found: Moments) -> None:
        known[weight.name] = informed(known[weight.name], found, frozenset(), kept.hold)

    tracemalloc.start()
    moments.measure(model, weights, cut(normal(60, k)), take, matrices=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(layer.context.factor is not None for layer in known.values())
    assert peak < (layers + 6) * matrix, peak / matrix  # the weights are in memory too


def test_measuring_without_matrices_gives_none(tmp_path: Path) -> None:
    assert measured(multiplied(), cut(normal(60, 64)), tmp_path)[1]["w"].covariance is None


@pytest.mark.parametrize("biased", [False, True])
def test_the_factor_is_of_the_covariance_where_a_bias_takes_up_the_mean_else_of_all_second_moments(tmp_path: Path, biased: bool) -> None:
    net = Network(0)
    inputs = ["x", net.weight("w", (16, 70)), net.bias("b", 70)][: 2 + biased]
    model, weights = loaded(finished(net, net.add("Gemm", inputs), [tensor("x", ["n", 16])], 2), tmp_path)
    x = correlated(600, 16)
    found = collected(model, weights, cut(x), matrices=True)["w"]
    layer = informed(Layer(weights[0], Context()), found, frozenset(), Factors(tmp_path).hold)
    assert (layer.bias is not None) == biased
    assert found.covariance is not None
    assert layer.context.factor is not None
    mean = x.astype(np.float64).mean(axis=0)
    expected = found.covariance[0] + (0 if biased else np.outer(mean, mean))
    np.testing.assert_allclose(whole(layer.context.factor())[0], expected * (1 + 1e-4 * np.eye(16)), rtol=1e-3, atol=1e-4)


def test_means_at_different_positions_of_a_transposed_convolution_do_not_meet(tmp_path: Path) -> None:
    model, weights = loaded(transposed_convolution(), tmp_path)
    layer = Layer(weights[0], Context())
    found = collected(model, weights, cut(correlated(40, 12, 5, 6)), matrices=True)["w"]
    factor = informed(layer, found, frozenset(), Factors(tmp_path).hold).context.factor
    assert factor is not None
    matrix = whole(factor())[0].reshape(12, 4, 12, 4)
    assert np.abs(matrix[:, 0, :, 1]).max() < 1e-5
    np.testing.assert_allclose(matrix[:, 0, :, 0], matrix[:, 3, :, 3], rtol=1e-3, atol=1e-4)


def test_factors_come_back_from_disk_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {f"w/{number}": Factor(normal(2, 9, 9, seed=number), normal(2, 9, seed=-number % 7)) for number in range(4)}
    monkeypatch.setattr(factors, "HELD_BYTES", 2 * (2 * 9 * 9 + 2 * 9) * 4)
    kept = Factors(tmp_path / "scratch")
    for name, factor in made.items():
        kept.hold(name, factor)
    assert len(list((tmp_path / "scratch").iterdir())) == 2
    for name, factor in made.items():
        assert name in kept
        assert np.array_equal(kept.get(name).gains, factor.gains)
        assert np.array_equal(kept.get(name).variances, factor.variances)
    assert "other" not in kept
    with pytest.raises(KeyError):
        kept.get("other")


def test_shrinkages_are_tried_until_two_in_a_row_are_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = dict(zip(shrinkage.CHOICES, (5.0, 3.0, 4.0, 2.0, 2.5, 2.1, 1.0, 1.0, 1.0), strict=True))
    tried: list[float] = []

    def made(seen: NDArray[np.float32], unseen: NDArray[np.float32], rows: NDArray[np.float32], share: float) -> tuple[float, float]:
        tried.append(share)
        return 1.0, errors[share]

    monkeypatch.setattr(shrinkage, "_errors", made)
    half = np.eye(4, dtype=np.float32)[None]
    share, optimism = shrinkage.cross_validated([half, half], normal(1, 3, 4))
    assert tried[::2] == list(shrinkage.CHOICES[:6])
    assert share == pytest.approx(0.15 / (2 - 0.15))
    assert optimism == pytest.approx(1.5)
