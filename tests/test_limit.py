"""The smallest file within a divergence: how it is searched for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from onnx_compress.optimizer import limit as limits
from onnx_compress.optimizer.fit import Market
from onnx_compress.optimizer.plan import Layer
from onnx_compress.optimizer.sensitivity import Scaled
from onnx_compress.optimizer.study import Study
from onnx_compress.optimizer.trial import Candidate
from onnx_compress.passes.quantize import Quantize

WEIGHTS, VALUES = 5, 10_000


@dataclass
class FakeStudy:
    """Divergence is `off` times the predicted one, shaken by `noise`, `gain` of it is left where the drift is followed; 1,000 bytes are beside the weights."""

    off: float
    noise: float
    gain: float = 1.0
    values: int = WEIGHTS * VALUES
    extended: list[float] = field(default_factory=list)
    files: list[tuple[int, float]] = field(default_factory=list)

    @property
    def sizer(self) -> FakeStudy:
        return self

    def extend(self, bits: float) -> None:
        self.extended.append(bits)

    def sharpen(self, budget: float) -> None:
        pass

    def settle(self, budget_bytes: float) -> None:
        """Nothing is small."""

    def market(self) -> Market:
        """Steps in quarters of an octave around the rates that were asked for; a bit for each octave."""
        quarters = sorted({round(4 * (bits + offset / 4)) for bits in self.extended for offset in range(-12, 17) if bits + offset / 4 > 0.2})
        many = [
            [Scaled(Candidate("grid", Quantize(2.0 ** (-q / 4), 0.0), VALUES / 8 * q / 4, 1.0), weight * 4.0 ** (-q / 4)) for q in quarters]
            for weight in range(1, WEIGHTS + 1)
        ]
        layers = [cast("Layer", _FakeLayer(f"w{number}")) for number in range(WEIGHTS)]
        return Market(layers, many, [])

    def followed(self, emitted: tuple[int, float], most_bytes: int) -> tuple[int, float]:
        assert emitted[0] == most_bytes
        return emitted if self.gain == 1.0 else (emitted[0], emitted[1] * self.gain)

    def emit(self, choices: Any) -> tuple[Any, int]:
        size = 1_000 + round(sum(-VALUES / 8 * np.log2(choice.technique.step) for choice in choices))
        return (size, sum(choice.predicted for choice in choices)), size

    def divergence(self, emitted: tuple[int, float]) -> float:
        found = self.off * emitted[1] * (1 + self.noise * float(np.random.default_rng(emitted[0]).uniform(-1, 1)))
        self.files.append((emitted[0], found))
        return found


@dataclass(frozen=True)
class _FakeLayer:
    name: str


def smallest(study: FakeStudy, limit: float, confirmed: float = 1.0) -> tuple[int, float]:
    """(bytes, predicted divergence) of what the search ends with, where writing a file moves outputs `confirmed` times as much as was measured."""
    found = limits.smallest_within(cast("Study", study), limit, lambda emitted: confirmed * study.divergence(cast("Any", emitted)), lambda _: lambda _: None)
    return cast("tuple[int, float]", found)


@pytest.mark.parametrize("limit", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("off", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_search_ends_close_below_the_limit_whatever_the_prediction_is_worth(limit: float, off: float, noise: float) -> None:
    study = FakeStudy(off, noise)
    size, predicted = smallest(study, limit)
    assert off * predicted * (1 + noise) > 0.7 * limit
    assert study.files[-1][0] == size
    assert study.files[-1][1] <= limit
    assert len(study.files) <= 11
    assert len(study.extended) <= 6


def test_a_file_that_differs_more_than_it_was_measured_to_is_stepped_back_from() -> None:
    study = FakeStudy(1.0, 0.0)
    size, _ = smallest(study, 0.01, confirmed=1.2)
    assert 1.2 * dict(study.files)[size] <= 0.01


@pytest.mark.parametrize(("gain", "noise"), [(0.7, 0.0), (0.5, 0.1), (0.05, 0.0)])
def test_what_following_the_drift_makes_up_for_is_room_for_a_smaller_file(gain: float, noise: float) -> None:
    limit = 0.01
    plain, following = (smallest(FakeStudy(1.0, noise, one), limit) for one in (1.0, gain))
    bits = 8 * (plain[0] - following[0]) / (WEIGHTS * VALUES)
    assert bits == pytest.approx(-math.log2(gain) / 2, abs=0.1)
    assert following[1] <= limit * (1 + noise)
