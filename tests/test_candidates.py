"""Candidates: what they predict of bytes and errors is what comes out; samples of large weights stand for the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx_compress.optimizer import Request, compress, trial
from onnx_compress.optimizer.allocate import allocate
from onnx_compress.optimizer.candidates import FAMILIES, TRELLIS_OF, Wanted, offers, refined
from onnx_compress.optimizer.fit import Market
from onnx_compress.optimizer.plan import Layer
from onnx_compress.optimizer.probe import Prober
from onnx_compress.optimizer.sensitivity import Sensitivities, reference
from onnx_compress.optimizer.trial import Candidate, Sample
from onnx_compress.passes import writer
from onnx_compress.passes.codebook import Chain, Cluster
from onnx_compress.passes.feedback import factorize
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Context, Technique
from onnx_compress.runtime.evaluate import viewed_values

from models.network import Network, tensor
from tests.measuring import finished, loaded, normal
from tests.test_feedback import made_factor, quadratic, whole

FEEDBACK = Quantize(0.4, feedback=True)
TRIED: tuple[Technique, ...] = (
    Quantize(0.6),
    Quantize(0.1, 0.0),
    Quantize(0.5, columns=0.5),
    Quantize(0.5, 0.0, rows=1.0),
    Quantize(0.4, trellis=True),
    FEEDBACK,
    Quantize(0.3, 0.0, feedback=True, trellis=True),
    Cluster(12),
    Cluster(5, row_scale=False),
    Chain(Prune(0.6), Cluster(8)),
)


def layer(folder: Path, rows: int, k: int, seed: int = 0) -> Layer:
    """A matrix of normal values, with all that calibration may tell."""
    net = Network(seed)
    matrix = net.rng.standard_normal((k, rows)).astype(np.float32)
    _, weights = loaded(finished(net, net.add("MatMul", ["x", net.constant("w", matrix)]), [tensor("x", ["n", k])], 2), folder)
    factor = made_factor(1, k)
    square = np.einsum("mkk->mk", whole(factor)).astype(np.float32)[None]
    importance = np.exp(0.3 * normal(rows))
    return Layer(weights[0], Context(square, (importance / importance.mean()).astype(np.float32), lambda: factor))


def tried(made: Layer, technique: Technique) -> Candidate:
    found = trial.tried("any", technique, Sample.of(made))
    assert isinstance(found, Candidate), found
    return found


def written(made: Layer, technique: Technique) -> int:
    """Bytes of the payload."""
    member = made.member(technique)
    return len(writer.write_pool([member]) if made.is_pooled else writer.write(member))


@pytest.mark.parametrize(("rows", "k"), [(256, 300), (130, 400), (64, 900), (1000, 128)])
@pytest.mark.parametrize("technique", TRIED, ids=repr)
@pytest.mark.parametrize("pool_values", [0, 65536])
def test_predicted_bytes_are_those_of_the_payload(tmp_path: Path, technique: Technique, rows: int, k: int, pool_values: int) -> None:
    made = replace(layer(tmp_path, rows, k), pool_values=pool_values)
    assert tried(made, technique).bytes == pytest.approx(written(made, technique), rel=0.01, abs=150)


@pytest.mark.parametrize("technique", TRIED, ids=repr)
def test_a_large_weight_is_predicted_from_a_sample_within_a_percent(tmp_path: Path, technique: Technique, monkeypatch: pytest.MonkeyPatch) -> None:
    made = layer(tmp_path, 1400, 200)
    whole_error = tried(made, technique).error
    monkeypatch.setattr(trial, "SAMPLE_VALUES", 80_000)
    assert Sample.of(made).share > 3
    found = tried(made, technique)
    assert found.bytes == pytest.approx(written(made, technique), rel=0.015)
    assert found.error == pytest.approx(whole_error, rel=0.06)


def test_a_sample_is_some_panels_with_their_rows_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = layer(tmp_path, 64 * 10 + 5, 30)
    monkeypatch.setattr(trial, "SAMPLE_VALUES", 4 * 64 * 30)
    sample, values = Sample.of(made), made.weight.viewed()
    assert sample.values.shape == (1, 4 * 64, 30)
    assert sample.share == pytest.approx(values.size / sample.values.size)
    assert sample.context.rows is not None
    assert made.context.rows is not None
    for panel in range(4):
        first = (panel * 10 // 4) * 64
        assert np.array_equal(sample.values[0, panel * 64 : panel * 64 + 64], values[0, first : first + 64])
        assert np.array_equal(sample.context.rows[panel * 64 : panel * 64 + 64], made.context.rows[first : first + 64])


def test_weights_with_moments_of_their_own_for_some_rows_are_tried_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SAMPLE_VALUES", 64 * 30)
    made = layer(tmp_path, 640, 30)
    assert Sample.of(made).share > 1
    square = np.ones((1, 640, 1), np.float32)
    assert Sample.of(replace(made, context=replace(made.context, square=square))).share == 1


def test_the_error_of_a_feedback_candidate_is_the_quadratic_form(tmp_path: Path) -> None:
    made = layer(tmp_path, 70, 60)
    values, factor = made.weight.viewed()[0], made.context.factor
    assert factor is not None
    assert made.context.rows is not None
    for technique in (one for one in TRIED if isinstance(one, Quantize) and one.feedback):
        rows = quadratic(values, viewed_values(made.member(technique))[0], whole(factor()))
        assert tried(made, technique).error == pytest.approx(rows @ made.context.rows / made.context.unit, rel=1e-3)


def test_errors_of_all_families_are_in_the_same_unit(tmp_path: Path) -> None:
    """Where inputs are not correlated the quadratic form is the weighted sum of squares that the others count."""
    made = layer(tmp_path, 70, 60)
    square = np.exp(normal(60)).astype(np.float32)
    factor = factorize(np.diag(square)[None])
    assert factor is not None
    alike = replace(made, context=replace(made.context, square=square[None, None], factor=lambda: factor))
    assert tried(alike, FEEDBACK).error == pytest.approx(tried(alike, replace(FEEDBACK, feedback=False)).error, rel=1e-3)


def test_only_the_best_grid_gets_a_trellis(tmp_path: Path) -> None:
    made = layer(tmp_path, 200, 100)
    (offer,) = offers([made], Wanted(tuple(FAMILIES), 3.0), 1)
    assert len(set(TRELLIS_OF.values()) & set(offer.families)) == 1
    for family, many in offer.families.items():
        if family in TRELLIS_OF:
            ordered = sorted(many, key=lambda one: one.bytes)
            assert [one.error for one in ordered] == sorted((one.error for one in many), reverse=True), family


@pytest.mark.parametrize("family", ["grid", "codebook", "deep-compression", "mapped", "pruned grid"])
@pytest.mark.parametrize("bits", [0.3, 3.0, 32.0])
def test_every_family_has_candidates_at_every_rate(tmp_path: Path, family: str, bits: float) -> None:
    (offer,) = offers([layer(tmp_path, 70, 40)], Wanted((family,), bits), 1)
    assert len(offer.families[family]) > 1


def test_refined_candidates_lie_around_the_chosen_one(tmp_path: Path) -> None:
    made = layer(tmp_path, 200, 100)
    chosen = tried(made, FEEDBACK)
    closer = refined(made, chosen, (0.9, 1.1))
    assert min(one.bytes for one in closer) < chosen.bytes < max(one.bytes for one in closer)
    assert all(one.technique.feedback for one in closer if isinstance(one.technique, Quantize))
    assert refined(made, tried(made, Cluster(12)), (0.9, 1.1)) == []


def two_layers(folder: Path, weak: float) -> Path:
    """A model whose output hangs on `sensitive`, and by a share of `weak` on `other`."""
    net = Network(0)
    parts = [net.add("MatMul", ["x", net.constant(name, normal(160, 128, seed=len(name)))]) for name in ("sensitive", "other")]
    scaled = net.add("Mul", [net.add("Relu", [parts[1]]), net.constant("weak", weak)])
    path = folder / "in.onnx"
    model = finished(net, net.add("Add", [net.add("Relu", [parts[0]]), scaled]), [tensor("x", ["n", 160])], 2)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_sensitive_layer_gets_more_bits(tmp_path: Path, calibrated: bool) -> None:
    data: NDArray[np.float32] = normal(64, 160)
    np.savez(tmp_path / "data.npz", x=data)
    paths = (tmp_path / "data.npz",) if calibrated else ()
    report = compress(two_layers(tmp_path, 0.05), tmp_path / "out.onnx", Request(target_ratio=10, threads=2, calibration=paths))
    size = {weight.name: weight.bytes_after for weight in report.weights}
    # Rate-distortion theory: log2(20) = 4.3 bits a weight, of the 6 that both have together.
    assert size["sensitive"] > 2.5 * size["other"]


def test_a_probe_predicts_what_another_step_costs(tmp_path: Path) -> None:
    model, weights = loaded(onnx.load(two_layers(tmp_path, 0.05)), tmp_path)
    feeds = [{"x": normal(64, 160, seed=seed)} for seed in range(2)]
    prober = Prober(model, weights, feeds, 1)
    layers = [Layer(weight, Context()) for weight in weights]
    found = offers(layers, Wanted(("grid",), 4.0), 1)
    sensitivities = Sensitivities(prober, 1)
    sensitivities.probe([(offer.layer, reference(offer)) for offer in found], lambda _: None)
    for offer in found:
        for candidate in offer.families["grid"][::4]:
            if candidate.error < 0.1 * np.square(offer.layer.weight.viewed()).sum():
                real = prober.divergence(offer.layer.replacement(candidate.technique))
                assert sensitivities.scaled(offer.layer, candidate).predicted == pytest.approx(real, rel=0.35)
    scaled = [[sensitivities.scaled(offer.layer, one) for one in offer.families["grid"]] for offer in found]
    market = Market(layers, scaled, ())
    numbers = allocate(market.options(), sum(weight.view.size for weight in weights) * 3 / 8)
    assert numbers is not None
    bits = {layer.weight.name: one.candidate.bytes for layer, one in zip(layers, market.chosen(numbers), strict=True)}
    assert bits["sensitive"] > 2 * bits["other"]


def test_a_probe_that_breaks_the_model_or_moves_nothing_still_prefers_finer_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = loaded(onnx.load(two_layers(tmp_path, 0.05)), tmp_path)
    layers = [Layer(weight, Context()) for weight in (*weights, weights[0])]
    answers = iter([1.0, np.inf, 0.0])
    monkeypatch.setattr(Prober, "divergence", lambda *_: next(answers))
    sensitivities = Sensitivities(Prober(model, weights, [{"x": normal(4, 160)}], 1), 1)
    coarse, fine = (Candidate("grid", Quantize(1.0), 10.0, error) for error in (2.0, 1.0))
    assert sensitivities.probe([(one, coarse) for one in layers], lambda _: None) == [1.0, np.inf, 0.0]
    worse, better = ([sensitivities.scaled(one, candidate).predicted for one in layers] for candidate in (coarse, fine))
    assert worse[0] == 1.0
    assert worse[0] < worse[1] < np.inf
    assert all(0 < after < before for before, after in zip(worse, better, strict=True))
