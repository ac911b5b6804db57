"""Learned maps and pruned grids: better than what they are made of, at the same bytes; their own error is that of their form; reasons for refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.optimizer.trial import Sample, tried
from onnx_compress.passes import writer
from onnx_compress.passes.codebook import Cluster
from onnx_compress.passes.feedback import Factor, factorize
from onnx_compress.passes.mapping import LearnedMap
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Adjustable, Context, Made, Refusal, Technique
from onnx_compress.passes.thin import Thin
from onnx_compress.runtime.evaluate import viewed_values
from onnx_compress.runtime.form import Grid, Mapped, Member
from onnx_compress.runtime.reader import read

from models.structures import STRUCTURES
from tests.forms import plain_view
from tests.outcomes import calibration, compressed

Floats = NDArray[np.float32]
ROWS, K = 96, 128


def weight(rows: int = ROWS, k: int = K, batch: int = 1, seed: int = 0) -> Floats:
    """Laplace values with rows of different magnitude."""
    rng = np.random.default_rng(seed)
    return (rng.laplace(size=(batch, rows, k)) * np.exp(rng.normal(0, 0.4, (batch, rows, 1)))).astype(np.float32)


def moments(k: int = K, parts: int = 1) -> Floats:
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=(parts, k, k // 4)) * np.exp(rng.normal(0, 0.5, (parts, k, 1)))
    return (mixed @ mixed.transpose(0, 2, 1) / k + 0.02 * np.eye(k)).astype(np.float32)


def known(matrices: Floats, rows: Floats | None = None) -> Context:
    """All that calibration knows."""
    factor = factorize(matrices)
    assert isinstance(factor, Factor)
    square = np.einsum("mkk->mk", matrices)[None] if len(matrices) == 1 else np.einsum("mkk->mk", matrices)[:, None]
    return Context(square=np.ascontiguousarray(square), factor=lambda: factor, rows=rows)


def values(made: Made, shape: tuple[int, int, int]) -> Floats:
    return viewed_values(Member(1, plain_view(*shape), made.form))


def accepted(found: Made | Refusal) -> Made:
    assert not isinstance(found, Refusal), found
    return found


def rate_and_error(technique: Technique, values: Floats, context: Context) -> tuple[float, float]:
    found = tried("", technique, Sample(values, context, 1.0, pooled=False))
    assert not isinstance(found, Refusal), found
    return 8 * found.bytes / values.size, found.error


def hull(points: list[tuple[float, float]], bits: float) -> float:
    """The error at a rate, between the points on either side."""
    points = sorted(points)
    return float(np.exp(np.interp(bits, [rate for rate, _ in points], [np.log(error) for _, error in points])))


CODEBOOKS = [Cluster(count, scaled) for count in (3, 6, 8, 12, 24) for scaled in (False, True)]


def best(techniques: list[Technique], context: Context, bits: float) -> float:
    """The least error of a family at a rate: that of its lower convex hull, or below."""
    return min(hull([rate_and_error(one, weight(), context) for one in techniques if one.row_scale == scaled], bits) for scaled in (False, True))  # type: ignore[attr-defined]


@pytest.mark.parametrize("bits", [1.6, 2.8])
def test_maps_beat_codebooks_at_equal_bytes_with_data(bits: float) -> None:
    context = known(moments())
    maps = [LearnedMap(count, groups, scaled, True, even=True) for count in (6, 12, 24, 48) for groups, scaled in ((1, True), (1, False))]
    assert best([*maps], context, bits) < 0.6 * best([*CODEBOOKS], context, bits)


@pytest.mark.parametrize("bits", [1.6, 2.8])
def test_maps_beat_codebooks_at_equal_bytes_without_data(bits: float) -> None:
    maps = [LearnedMap(count, groups, scaled, even=True) for count in (6, 12, 24, 48) for groups, scaled in ((1, True), (1, False))]
    assert best([*maps], Context(), bits) < 0.95 * best([*CODEBOOKS], Context(), bits)


def test_rows_of_two_kinds_get_a_codebook_each() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 60).astype(bool)
    signs = rng.choice([-1.0, 1.0], (60, K))
    mixed = np.where(kinds[:, None], signs, rng.choice([-5.0, 2.0, 7.0], (60, K)))[None].astype(np.float32)
    one, two = (accepted(LearnedMap(3, groups, row_scale=False, thrift=0.0).made(mixed, Context())) for groups in (1, 2))
    assert two.error < 1e-6 < one.error
    form = two.form
    assert isinstance(form, Mapped)
    assert form.row_group is not None
    assert len(set(form.row_group[kinds])) == len(set(form.row_group[~kinds])) == 1


TECHNIQUES: list[Adjustable] = [
    *(LearnedMap(count, groups, scaled, fed, thrift) for count, thrift in ((2, 1.0), (16, 0.0), (16, 3.0)) for groups in (1, 5) for scaled in (False, True) for fed in (False, True)),
    *(Thin(Prune(share), Quantize(0.4, power, feedback=fed)) for share in (0.0, 0.8) for power in (0.0, 1.0) for fed in (False, True)),
]
CONTEXTS = {
    "plain": (1, lambda: known(moments())),
    "rows": (1, lambda: known(moments(), np.linspace(0.1, 1.9, ROWS).astype(np.float32))),
    "three batches": (3, lambda: known(moments(parts=3))),
}


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_the_error_that_a_technique_names_is_that_of_its_form(technique: Adjustable, name: str) -> None:
    batch, make = CONTEXTS[name]
    original, context = weight(batch=batch), make()
    made = accepted(technique.made(original, context))
    assert technique.apply(original, context) is not made.form
    difference = (original - values(made, original.shape)).astype(np.float64)
    share = np.ones(batch * ROWS) if context.rows is None else context.rows
    matrices = moments(parts=batch) if batch > 1 else moments()
    fed = technique.feedback if isinstance(technique, LearnedMap) else technique.grid.feedback  # type: ignore[attr-defined]
    if not fed:
        expected = float((context.importance(original.shape) * difference**2).sum())
    else:
        each = np.einsum("brk,bkl,brl->br", difference, np.broadcast_to(matrices, (batch, K, K)), difference).reshape(-1)
        expected = float(each @ share) / context.unit
    assert made.error == pytest.approx(expected, rel=2e-2 if fed else 1e-4)


@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_a_form_is_written_and_read_back(technique: Adjustable) -> None:
    original = weight()
    made, again = (accepted(technique.made(original.copy(), known(moments()))) for _ in range(2))
    data = writer.write(Member(1, plain_view(1, ROWS, K), made.form))
    assert data == writer.write(Member(1, plain_view(1, ROWS, K), again.form))
    (found,) = read(np.frombuffer(data, np.uint8)).members
    assert np.array_equal(viewed_values(found), values(made, original.shape))


def test_thrift_buys_bytes_with_error() -> None:
    for context in (Context(), known(moments())):
        found = [rate_and_error(LearnedMap(16, thrift=thrift, feedback=context.factor is not None), weight(), context) for thrift in (0.0, 0.5, 1.0, 2.0, 4.0)]
        assert [rate for rate, _ in found] == sorted((rate for rate, _ in found), reverse=True)
        assert [error for _, error in found][1:] == sorted(error for _, error in found)[1:]


def test_a_coarser_map_is_smaller() -> None:
    technique = LearnedMap(16)
    assert rate_and_error(technique.at(1.3), weight(), Context())[0] < rate_and_error(technique, weight(), Context())[0]


@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_pruned_values_are_exact_zeros_and_errors_are_taken_up_by_the_others(share: float, fed: bool) -> None:
    context = known(moments())
    kept = Prune(share).kept(weight(), context)
    assert not isinstance(kept, Refusal)
    made = accepted(Thin(Prune(share), Quantize(0.2, feedback=fed)).made(weight(), context))
    assert isinstance(made.form, Grid)
    assert not made.form.levels.levels[~kept].any()
    if fed:
        plain = accepted(Thin(Prune(share), Quantize(0.2)).made(weight(), context))
        difference = (weight() - values(plain, weight().shape))[0].astype(np.float64)
        assert made.error < 0.95 * np.einsum("rk,kl,rl->", difference, moments()[0], difference) / context.unit


@pytest.mark.parametrize(
    ("technique", "reason"),
    [
        (LearnedMap(0), "outside"),
        (LearnedMap(4, groups=0), "outside"),
        (LearnedMap(4, groups=257), "outside"),
        (LearnedMap(1024, groups=256), "outside"),
        (LearnedMap(4, feedback=True), "calibration data"),
        (Thin(Prune(0.5), Quantize(0.1, feedback=True)), "calibration data"),
        (Thin(Prune(1.0), Quantize(0.1)), "sparsity"),
        (Thin(Prune(0.5), Quantize(1e-6)), "levels"),
        (Thin(Prune(0.5), Quantize(0.1, trellis=True)), "trellis"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(technique: Adjustable, reason: str) -> None:
    found = technique.made(weight(), Context())
    assert isinstance(found, Refusal)
    assert reason in found.reason


def test_nothing_gives_a_reason() -> None:
    assert isinstance(LearnedMap(4).apply(np.empty((1, 0, 5), np.float32), Context()), Refusal)


@pytest.mark.parametrize("technique", ["mapped", "prune"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_model_is_compressed_by_the_family_alone(tmp_path: Path, technique: str, calibrated: bool) -> None:
    model = STRUCTURES["plain"](0)
    data = calibration(tmp_path, model) if calibrated else ()
    outcome = compressed(tmp_path, model, 9, technique=technique, calibration=data)
    assert 9 <= outcome.report.ratio <= 9.2
    family = {"mapped": "mapped", "prune": "pruned grid"}[technique]
    assert all(row.form.startswith(family) for row in outcome.report.weights)
    outcome.check()
