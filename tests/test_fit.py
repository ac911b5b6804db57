"""Fitting: whatever the gap between predicted and real sizes, the file ends just below the target or the error says what is possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_compress.optimizer import Request, compress
from onnx_compress.optimizer.cost import Times
from onnx_compress.optimizer.emit import Emitted
from onnx_compress.optimizer.errors import TargetError
from onnx_compress.optimizer.fit import Market, Sizer, fit
from onnx_compress.optimizer.plan import Choice, Layer, Payload
from onnx_compress.optimizer.preference import Pace
from onnx_compress.optimizer.sensitivity import Scaled
from onnx_compress.optimizer.trial import Candidate
from onnx_compress.optimizer.weights import Weight
from onnx_compress.passes.codebook import Cluster
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Context, Technique
from onnx_compress.runtime.form import View

from models.structures import STRUCTURES
from tests.outcomes import WINDOW, compressed

WEIGHTS, SIZE = 6, 10_000
WINDOW_BELOW = 0.995


def layer(number: int, deviation: float = 1.0) -> Layer:
    """A weight [100, 100]; its last member is the largest, 30 deviations."""
    values = np.random.default_rng(number).normal(0, deviation, (100, 100)).astype(np.float32)
    values[-1, -1] = 30 * deviation
    value = ir.Value(name=f"w{number}", const_value=ir.tensor(values))
    return Layer(Weight(f"w{number}", value, 1, View((100, 100), (0, 1), 1, 100), ()), Context())


def grid_bytes(step: float) -> float:
    """The entropy of a Gaussian on a grid."""
    return SIZE / 8 * float(np.log2(1 + 1 / step) + 0.1)


@dataclass
class FakeSizer:
    """The real size is `factor` times the predicted one, plus `overhead`; keeps count of the emissions."""

    factor: float
    overhead: int
    bytes_before: int = 4 * WEIGHTS * SIZE
    sizes: list[int] = field(default_factory=list)

    def emit(self, choices: Sequence[Choice]) -> tuple[Emitted, int]:
        size = self.overhead + round(self.factor * sum(real_bytes(choice.technique) for choice in choices))
        self.sizes.append(size)
        payload = Payload(bytes(max(size - self.overhead, 0)), tuple(choices), (0.0,) * len(choices), {})
        return Emitted(cast("Any", None), (payload,), (), ()), size


@dataclass
class NoisySizer(FakeSizer):
    """Sizes jump about by `noise`, always the same way for the same steps."""

    noise: float = 0.0

    def emit(self, choices: Sequence[Choice]) -> tuple[Emitted, int]:
        emitted, size = super().emit(choices)
        shaken = size * (1 + self.noise * np.random.default_rng(size).uniform(-1, 1))
        payload = replace(emitted.payloads[0], data=bytes(max(round(shaken) - self.overhead, 0)))
        return replace(emitted, payloads=(payload,)), round(shaken)


def real_bytes(technique: Technique | None) -> float:
    if isinstance(technique, Quantize):
        return grid_bytes(2.0 ** (round(np.log2(technique.step) * 16) / 16) if technique.power else technique.step)
    assert isinstance(technique, Cluster)
    return SIZE / 8 * float(np.log2(technique.count))


def market(codebooks: bool) -> Market:
    """Six weights with steps 2^-8..2^2 in quarters of an octave, or with codebooks of 2..256 values."""
    steps: list[Technique] = (
        [Cluster(2**bits) for bits in range(1, 9)] if codebooks else [Quantize(2.0 ** (quarter / 4), 0.0) for quarter in range(-32, 9)]
    )
    family = "codebook" if codebooks else "grid"
    many = [
        [Scaled(Candidate(family, one, real_bytes(one), 1.0), weight * 2.0 ** (-real_bytes(one) * 16 / SIZE)) for one in steps]
        for weight in range(1, WEIGHTS + 1)
    ]
    return Market([layer(number) for number in range(WEIGHTS)], many, [])


def test_only_as_many_values_are_folded_as_creating_a_session_has_memory_for() -> None:
    """Six weights that are all slower fused, by 1 to 6 microseconds: the four that gain most go first."""
    steps = [Quantize(2.0**-power, folded=folded) for power in range(1, 6) for folded in (False, True)]
    many = [
        [Scaled(Candidate("grid", one, grid_bytes(one.step), 1.0), one.step**2, Times(2.0 + weight, 1.0)) for one in steps]
        for weight in range(WEIGHTS)
    ]
    layers = [layer(number) for number in range(WEIGHTS)]
    for values, expected in ((10**9, set(range(WEIGHTS))), (4 * SIZE + 1, {2, 3, 4, 5}), (SIZE - 1, set())):
        limited = Market(layers, many, [], Pace(0.0, np.inf, values))
        numbers = limited.allocate(30_000)
        assert numbers is not None
        assert {weight for weight, one in enumerate(limited.chosen(numbers)) if one.candidate.is_folded} == expected


def size_of(found: Emitted, sizer: FakeSizer) -> int:
    return sizer.overhead + sum(len(payload.data) for payload in found.payloads)


@pytest.mark.parametrize("target", [9_000, 15_000, 30_000, 45_000])
@pytest.mark.parametrize("overhead", [0, 4_000])
@pytest.mark.parametrize("factor", [0.8, 1.0, 1.07])
def test_grids_end_within_half_a_percent_below_the_target(factor: float, overhead: int, target: int) -> None:
    sizer = FakeSizer(factor, overhead)
    size = size_of(fit(market(codebooks=False), cast("Sizer", sizer), target + overhead, lambda _: None), sizer)
    assert WINDOW_BELOW * (target + overhead) <= size <= target + overhead
    assert len(sizer.sizes) <= 20


@pytest.mark.parametrize("target", [9_123, 15_000, 31_415, 45_000])
@pytest.mark.parametrize("noise", [0.0005, 0.001])
def test_a_size_that_is_a_noisy_function_of_the_steps_is_met_all_the_same(noise: float, target: int) -> None:
    sizer = NoisySizer(1.05, 300, noise=noise)
    size = size_of(fit(market(codebooks=False), cast("Sizer", sizer), target, lambda _: None), sizer)
    assert WINDOW_BELOW * target <= size <= target


@pytest.mark.parametrize("target", [2_345, 3_456, 5_678, 7_890])
def test_one_weight_whose_steps_are_kept_in_eight_bits_moves_to_a_single_step(target: int) -> None:
    """`real_bytes` rounds steps by row to sixteenths of an octave, as log8 does where all rows are alike."""
    by_row = [Quantize(2.0 ** (quarter / 4), 1.0) for quarter in range(-32, 9)]
    one_step = [Quantize(2.0 ** (quarter / 4), 0.0) for quarter in range(-32, 9)]
    many = [
        Scaled(Candidate(family, one, real_bytes(one), 1.0), harm * 2.0 ** (-real_bytes(one) * 16 / SIZE))
        for family, techniques, harm in (("grid", by_row, 1.0), ("grid, one step", one_step, 1.5))
        for one in techniques
    ]
    sizer = FakeSizer(1.013, 50)
    found = fit(Market([layer(0)], [many], []), cast("Sizer", sizer), target, lambda _: None)
    assert WINDOW_BELOW * target <= size_of(found, sizer) <= target


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("target", [11_000, 12_345, 30_000])
def test_codebooks_which_cannot_be_refined_never_exceed_the_target(factor: float, target: int) -> None:
    sizer = FakeSizer(factor, 500)
    assert size_of(fit(market(codebooks=True), cast("Sizer", sizer), target + 500, lambda _: None), sizer) <= target + 500


@pytest.mark.parametrize("codebooks", [False, True])
def test_a_target_that_only_the_smallest_candidates_meet_is_met(codebooks: bool) -> None:
    made, sizer = market(codebooks), FakeSizer(1.0, 100)
    smallest = sum(min(one.candidate.bytes for one in many) for many in made.candidates)
    target = int(smallest) + 101
    assert size_of(fit(made, cast("Sizer", sizer), target, lambda _: None), sizer) <= target


def test_where_predictions_are_worthless_the_smallest_candidates_are_still_found() -> None:
    """Every plan but the smallest is one byte too large, whatever was predicted for it."""
    made, target = market(codebooks=True), 30_000

    class Stubborn(FakeSizer):
        def emit(self, choices: Sequence[Choice]) -> tuple[Emitted, int]:
            emitted, size = super().emit(choices)
            return emitted, size if all(choice.technique == Cluster(2) for choice in choices) else target + 1

    found = fit(made, cast("Sizer", Stubborn(1.0, 0)), target, lambda _: None)
    assert {choice.technique for choice in found.payloads[0].choices} == {Cluster(2)}


def test_a_target_out_of_reach_names_the_best_ratio_and_what_stands_in_the_way() -> None:
    sizer = FakeSizer(1.0, 5_000)
    with pytest.raises(TargetError, match=r"80 times smaller cannot be reached, 2\d\.\d+ times can: .* take 5,000 of the 3,000 bytes"):
        fit(market(codebooks=False), cast("Sizer", sizer), 3_000, lambda _: None)


def test_progress_rises() -> None:
    seen: list[float] = []
    fit(market(codebooks=False), cast("Sizer", FakeSizer(1.07, 1_000)), 20_000, seen.append)
    assert seen == sorted(seen)
    assert all(0 < fraction <= 1 for fraction in seen)


def test_a_step_that_is_made_too_fine_falls_back_to_the_one_before() -> None:
    """30 deviations over a step of 0.001 are 29,000 levels, which can be coded; at 0.0008 they cannot."""
    fine, coarse = Quantize(0.0008, 0.0), Quantize(0.001, 0.0)
    choice = Choice(layer(0), fine, "grid", 0.0, instead=coarse)
    taken, member = choice.made()
    assert taken.technique == coarse
    assert member.symbols.levels is not None
    assert int(np.abs(member.symbols.levels).max()) > 25_000
    with pytest.raises(ValueError, match="refuses w0"):
        replace(choice, instead=None).made()


@pytest.mark.parametrize(("rows", "alike"), [(8, True), (256, False)])
@pytest.mark.parametrize("ratio", [4, 7])
def test_a_model_of_one_weight_has_the_ratio_that_was_asked_for(tmp_path: Path, rows: int, alike: bool, ratio: int) -> None:
    """A quarter of a megabyte; eight rows of equal norm have steps that jump together."""
    generator = np.random.default_rng(1)
    values = generator.standard_t(5, (65_536 // rows, rows)).astype(np.float32)
    values = values / np.linalg.norm(values, axis=0) if alike else values * np.exp(generator.normal(0, 0.5, rows)).astype(np.float32)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", len(values)), ("y", rows)))
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "one", [x], [y], [onnx.numpy_helper.from_array(values, "w")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=ratio, threads=2))
    assert ratio <= report.ratio <= 1.005 * ratio


def test_half_of_32_bits_is_within_reach_of_the_grids(tmp_path: Path) -> None:
    """At 16 bits a weight the finest grids are too large: coarser ones have to be among the candidates."""
    outcome = compressed(tmp_path, STRUCTURES["einsum"](0), 2)
    assert 2 <= outcome.report.ratio <= 2.4


@pytest.mark.parametrize("technique", ["quantize", "codebook", "mapped", "prune", "deep-compression", "lowrank"])
@pytest.mark.parametrize("ratio", [5, 9, 14])
def test_every_forced_technique_meets_the_target(tmp_path: Path, technique: str, ratio: int) -> None:
    outcome = compressed(tmp_path, STRUCTURES["plain"](0), ratio, technique=technique)
    assert outcome.report.ratio >= ratio
    assert technique != "quantize" or outcome.report.ratio <= WINDOW * ratio
    outcome.check()


def test_the_name_of_the_data_file_counts(tmp_path: Path) -> None:
    """Every external tensor repeats the name of the file that it is in."""
    onnx.save(STRUCTURES["plain"](0), tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / f"{'long' * 50}.onnx", Request(target_ratio=10, external_data=True))
    assert 10 <= report.ratio <= 10 * WINDOW


def test_a_target_size_is_met_to_the_byte(tmp_path: Path) -> None:
    onnx.save(STRUCTURES["plain"](0), tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_bytes=33_333))
    assert 33_333 * WINDOW_BELOW <= report.bytes_after <= 33_333
    assert (tmp_path / "out.onnx").stat().st_size == report.bytes_after


def test_the_ratio_is_not_missed_by_rounding(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(STRUCTURES["plain"](0), source)
    for ratio in (3.3333333, 7.77777):
        report = compress(source, tmp_path / "out.onnx", Request(target_ratio=ratio, force=True))
        assert source.stat().st_size / (tmp_path / "out.onnx").stat().st_size >= ratio
        assert report.ratio >= ratio
