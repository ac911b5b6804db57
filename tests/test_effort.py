"""Levels of effort: what is tried and measured grows with them; the curve and the smallest file within a divergence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer import Request, compress, curve
from onnx_compress.optimizer.allocate import allocate, frontier
from onnx_compress.optimizer.curve import REACH_BITS, bands
from onnx_compress.optimizer.distortion import ROUNDING
from onnx_compress.optimizer.effort import BALANCED, BEST, EFFORTS, FAST, effort_of
from onnx_compress.optimizer.errors import TargetError, UsageError
from onnx_compress.optimizer.plan import Layer
from onnx_compress.optimizer.report import Report
from onnx_compress.optimizer.sensitivity import Sensitivities
from onnx_compress.optimizer.trial import Candidate
from onnx_compress.optimizer.verify import Checked, surprise_warnings

from models.structures import STRUCTURES
from tests.outcomes import calibration


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(STRUCTURES["plain"](0), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def made(source: Path, **wishes: Any) -> Report:
    return compress(source, source.with_name("out.onnx"), Request(force=True, threads=2, **wishes))


def test_levels_are_in_order() -> None:
    assert list(EFFORTS) == ["fast", "balanced", "best"]
    for one, other in ((FAST, BALANCED), (BALANCED, BEST)):
        assert (one.feedback, one.trellises, one.rounds, one.probes) <= (other.feedback, other.trellises, other.rounds, other.probes)
        assert len(one.refined) < len(other.refined)


def test_fast_is_what_runs_without_data_and_balanced_what_runs_with_it() -> None:
    assert effort_of(None, calibrated=False) is FAST
    assert effort_of(None, calibrated=True) is BALANCED
    assert effort_of("best", calibrated=False) is BEST


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("effort", EFFORTS)
def test_every_level_meets_the_target_and_feeds_errors_back_on_data_only(source: Path, effort: str, calibrated: bool) -> None:
    data = calibration(source.parent, STRUCTURES["plain"](0)) if calibrated else ()
    report = made(source, target_ratio=8, effort=effort, calibration=data)
    assert 8 <= report.ratio <= 8 * 1.005
    forms = " ".join(weight.form for weight in report.weights)
    assert ("feedback=True" in forms) == (calibrated and effort != "fast")
    assert effort != "fast" or "trellis=True" not in forms
    assert ("probing again" in report.seconds) == (effort != "fast")


def test_each_weight_is_measured_alone_on_request(source: Path) -> None:
    assert all(math.isnan(weight.measured) for weight in made(source, target_ratio=8).weights)
    report = made(source, target_ratio=8, per_weight=True)
    measured = [weight.measured for weight in report.weights]
    assert all(0 < one < 1 for one in measured)
    assert report.divergence / 4 < sum(measured) < 4 * report.divergence
    alone = made(source, target_ratio=1.15, per_weight=True, include=(f"^{report.weights[0].name}$",))
    assert alone.weights[0].measured == pytest.approx(alone.divergence, rel=0.1)


def test_a_measured_divergence_beyond_twice_the_predicted_is_said() -> None:
    assert surprise_warnings(Checked(0.019, "classes", 0.0), 0.01, True) == ()
    assert surprise_warnings(Checked(2e-5, "classes", 0.0), 1e-9, True) == ()  # of no consequence
    (sentence,) = surprise_warnings(Checked(0.03, "classes", 0.0), 0.01, False)
    assert "3.0 times the 0.01 predicted" in sentence
    assert "--calibration" in sentence
    assert surprise_warnings(Checked(math.inf, "map", 0.0), 0.01, True)
    assert surprise_warnings(Checked(0.1, "map", 0.0), 0.0, True)


@pytest.mark.parametrize("limit", [1e-2, 1e-4])
def test_the_smallest_file_within_a_divergence_is_close_to_it(source: Path, limit: float) -> None:
    report = made(source, max_divergence=limit)
    assert limit / 2 <= report.divergence <= limit
    smaller = made(source, target_ratio=report.ratio * 1.15)
    assert smaller.divergence > limit


def test_a_divergence_that_cannot_be_had_names_what_can(source: Path) -> None:
    with pytest.raises(TargetError, match=r"differ by at most 0 cannot be had: those of the most faithful file differ by \d"):
        made(source, max_divergence=0.0)
    assert [file.name for file in source.parent.iterdir()] == ["in.onnx"]


def test_weights_of_few_values_can_be_had_with_no_more_divergence_than_sums_round(tmp_path: Path) -> None:
    onnx.save(STRUCTURES["constant_values"](0), tmp_path / "in.onnx")
    assert made(tmp_path / "in.onnx", max_divergence=0.0).divergence < ROUNDING


def test_a_model_of_integers_is_within_any_divergence(tmp_path: Path) -> None:
    onnx.save(STRUCTURES["int8_per_channel"](0), tmp_path / "in.onnx")
    report = made(tmp_path / "in.onnx", max_divergence=1e-7)
    assert report.ratio > 1.1


def test_the_curve_falls_and_its_files_can_be_had(source: Path) -> None:
    found = curve(source, Request(threads=2))
    assert [file.name for file in source.parent.iterdir()] == ["in.onnx"]
    assert {*(point.asked for point in found.points), *found.out_of_reach} == {2, 3, 4, 6, 8, 10, 12, 16, 20}
    assert found.bytes_before == source.stat().st_size
    measured = [point.measured for point in found.points]
    assert measured == sorted(measured)
    for point in found.points:
        assert point.ratio == pytest.approx(found.bytes_before / point.bytes)
        assert point.ratio >= point.asked
        assert sum(point.families.values()) == len(made(source, target_ratio=2).weights) or point.asked != 2
    ten = next(point for point in found.points if point.asked == 10)
    report = made(source, target_ratio=10)
    assert report.divergence / 1.5 <= ten.measured <= 1.5 * report.divergence


def test_bands_are_few_and_near_every_rate() -> None:
    rates = [16.0, 10.7, 8.0, 5.3, 4.0, 3.2, 2.7, 2.0, 1.6]
    found = bands(rates)
    assert len(found) <= 4
    assert all(min(abs(min(rate, 11.0) - band) for band in found) <= REACH_BITS for rate in rates)
    assert len(bands([])) == 1


def test_the_frontier_is_what_the_allocator_spends_along() -> None:
    generator = np.random.default_rng(0)
    options = [(np.arange(1.0, 9.0), generator.uniform(0.5, 2) * 4.0 ** -np.arange(1.0, 9.0)) for _ in range(4)]
    sizes, predicted = frontier(options)
    assert (np.diff(sizes) > 0).all() and (np.diff(predicted) < 0).all()
    for size, expected in zip(sizes, predicted, strict=True):
        numbers = allocate(options, size)
        assert numbers is not None
        assert sum(harm[number] for (_, harm), number in zip(options, numbers, strict=True)) == pytest.approx(expected)


def test_sensitivities_between_probes_are_interpolated_and_never_fall_with_the_error() -> None:
    class Prober:
        def divergence(self, replaced: dict[str, float]) -> float:
            return replaced["divergence"]

    class Probed:
        optimism = 1.0
        work = ()
        is_pooled = False

        def __init__(self) -> None:
            self.weight = type("W", (), {"view": type("V", (), {"size": 10})})

        def replacement(self, technique: Any) -> dict[str, float]:
            return {"divergence": technique}

    layer = cast("Layer", Probed())
    found = Sensitivities(cast("Any", Prober()), 1)
    for error, divergence in ((1.0, 0.1), (100.0, 1.0), (200.0, 0.5)):
        found.probe([(layer, Candidate("grid", cast("Any", divergence), 1.0, error))], lambda _: None)
    predicted = [found.scaled(layer, Candidate("grid", cast("Any", None), 1.0, error)).predicted for error in (0.01, 1.0, 10.0, 100.0, 200.0, 400.0)]
    assert predicted == pytest.approx([0.001, 0.1, math.sqrt(0.1), 1.0, 1.0, 2.0])
    found.probe([(layer, Candidate("grid", cast("Any", 3.0), 1.0, 1.0))], lambda _: None, "none")
    assert found.scaled(layer, Candidate("grid", cast("Any", None), 1.0, 5.0)).predicted == pytest.approx(15.0)
    found.probe([(layer, Candidate("grid", cast("Any", 12.0), 1.0, 1.0))], lambda _: None, "mean")
    assert found.scaled(layer, Candidate("grid", cast("Any", None), 1.0, 5.0)).predicted == pytest.approx(30.0)


def test_a_curve_of_a_model_without_weights_is_refused_with_the_reason(tmp_path: Path) -> None:
    onnx.save(STRUCTURES["without_weights"](0), tmp_path / "in.onnx")
    with pytest.raises(UsageError, match="no large constants"):
        curve(tmp_path / "in.onnx", Request())
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]
