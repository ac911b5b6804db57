"""Contract of the techniques: every technique and every awkward tensor give a form that fits, or a refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.passes import writer
from onnx_compress.passes.codebook import Chain, Cluster
from onnx_compress.passes.distinct import Distinct
from onnx_compress.passes.feedback import Factor, factorize
from onnx_compress.passes.mapping import LearnedMap
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quantize import Quantize, single_scale
from onnx_compress.passes.technique import Context, Refusal, Technique, log8, log8_values
from onnx_compress.passes.thin import Thin
from onnx_compress.runtime.evaluate import dense_values, viewed_values
from onnx_compress.runtime.form import Form, Grid, Member
from onnx_compress.runtime.reader import read

from tests.payloads import plain_view

TECHNIQUES: tuple[Technique, ...] = (
    *(Quantize(step, power) for step in (0.05, 0.5, 4.0) for power in (0.0, 0.5, 1.0)),
    *(Quantize(step, power, trellis=True) for step in (0.05, 0.5) for power in (0.0, 1.0)),
    Distinct(),
    *(Prune(share) for share in (0.0, 0.5, 0.97)),
    *(Cluster(count, row_scale) for count in (1, 2, 16, 256) for row_scale in (False, True)),
    *(Chain(Prune(share), Cluster(count, row_scale)) for share in (0.0, 0.8) for count in (2, 16) for row_scale in (False, True)),
    *(LearnedMap(count, groups, row_scale) for count in (1, 8) for groups in (1, 3) for row_scale in (False, True)),
    *(Thin(Prune(share), Quantize(0.5, power)) for share in (0.0, 0.8) for power in (0.0, 1.0)),
)
FED_BACK = (
    Quantize(0.5, feedback=True),
    Quantize(0.5, 0.0, feedback=True),
    Quantize(0.5, 0.0, rows=1.0, feedback=True, trellis=True),
    Quantize(0.5, columns=0.5, feedback=True),
    Quantize(0.3, feedback=True, trellis=True),
)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def _with(weight: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    weight[0, 0, 0] = value
    return weight


def _read_only(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight.flags.writeable = False
    return weight


def _thinned(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight[np.random.default_rng(1).random(weight.shape) < 0.9] = 0
    return weight


def _rows(scale: float) -> NDArray[np.float32]:
    """Rows of very different magnitude, one of them zero."""
    weight = normal(1, 40, 20) * (np.float32(scale) ** np.linspace(-1, 1, 40, dtype=np.float32))[None, :, None]
    weight[0, 3] = 0
    return weight


AWKWARD: dict[str, NDArray[np.float32]] = {
    "normal": normal(1, 70, 30),
    "three batches": normal(3, 65, 9),
    "zeros": np.zeros((1, 10, 10), np.float32),
    "constant": np.full((1, 10, 10), 0.37, np.float32),
    "constant, negative": np.full((2, 3, 7), -2.5, np.float32),
    "one value": np.full((1, 1, 1), 0.1, np.float32),
    "one zero": np.zeros((1, 1, 1), np.float32),
    "huge": normal(1, 20, 20) * np.float32(1e30),
    "largest": np.full((1, 4, 4), np.finfo(np.float32).max, np.float32),
    "large": normal(1, 20, 20) * np.float32(1e22),
    "tiny": normal(1, 20, 20) * np.float32(1e-30),
    "small": normal(1, 20, 20) * np.float32(1e-22),
    "denormals": (normal(1, 20, 20) * np.float32(1e-40)).astype(np.float32),
    "smallest denormal": np.full((1, 4, 4), 1e-45, np.float32),
    "a denormal among ones": _with(np.ones((1, 6, 6), np.float32), 1e-42),
    "negative zeros": np.full((1, 5, 5), -0.0, np.float32),
    "negative zeros among others": np.where(normal(1, 9, 9) > 0, normal(1, 9, 9), np.float32(-0.0)).astype(np.float32),
    "an outlier of 1e6": _with(normal(1, 30, 30), 1e6),
    "an outlier of 1e30": _with(normal(1, 30, 30), 1e30),
    "transposed": normal(1, 30, 70).transpose(0, 2, 1),
    "every second": normal(2, 40, 40)[:, ::2, ::-2],
    "read-only": _read_only(normal(1, 20, 20)),
    "nine tenths zero": _thinned(normal(1, 40, 40)),
    "a single row": normal(1, 1, 200),
    "a single column": normal(1, 200, 1),
    "rows of any magnitude": _rows(1e6),
    "two values": np.sign(normal(1, 12, 12)),
}
IMPORTANCE = {
    "none": None,
    "ones": np.ones((1, 1, 1), np.float32),
    "zeros": np.zeros((1, 1, 1), np.float32),
    "huge": np.full((1, 1, 1), 1e30, np.float32),
    "denormal": np.full((1, 1, 1), 1e-45, np.float32),
}
SPREAD = normal(1, 64, 200)
COLUMNS = np.where(np.arange(200) < 20, 1000.0, 1.0).astype(np.float32)[None, None]


def values(form: Form, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.broadcast_to(viewed_values(member(form, shape)), shape)


def member(form: Form, shape: tuple[int, ...]) -> Member:
    return Member(1, plain_view(*shape), form)


def error(technique: Technique, weight: NDArray[np.float32], context: Context = Context()) -> float:  # noqa: B008  (frozen)
    form = technique.apply(weight, context)
    assert not isinstance(form, Refusal)
    return float(((values(form, weight.shape) - weight).astype(np.float64) ** 2).sum())


def accepted(found: Form | Refusal) -> Form:
    assert not isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_a_technique_gives_a_form_that_fits_or_a_reason(technique: Technique, name: str) -> None:
    weight = AWKWARD[name]
    before = weight.tobytes()
    for importance, square in IMPORTANCE.items():
        found = technique.apply(weight, Context(square))
        assert weight.tobytes() == before, "the input was changed"
        if isinstance(found, Refusal):
            assert found.reason, importance
            continue
        levels = member(found, weight.shape).symbols.levels
        assert levels is not None
        assert (levels.shape, levels.dtype.name) == (weight.shape, "int32"), importance
        assert np.isfinite(values(found, weight.shape)).all(), importance


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("technique", TECHNIQUES, ids=repr)
def test_the_same_input_gives_the_same_form_and_its_payload_is_read_back(technique: Technique, name: str) -> None:
    weight = AWKWARD[name]
    forms = [technique.apply(weight.copy(), Context()) for _ in range(2)]
    if isinstance(forms[0], Refusal):
        assert forms[0] == forms[1]
        return
    one, other = (writer.write(member(accepted(form), weight.shape)) for form in forms)
    assert one == other
    (found,) = read(np.frombuffer(one, np.uint8)).members
    assert np.array_equal(viewed_values(found), viewed_values(member(forms[0], weight.shape)))


@pytest.mark.parametrize("name", ["normal", "three batches", "transposed", "a single row", "an outlier of 1e6", "two values", "constant"])
@pytest.mark.parametrize("technique", [one for one in TECHNIQUES if one != Distinct()], ids=repr)
def test_ordinary_weights_are_not_refused(technique: Technique, name: str) -> None:
    found = technique.apply(AWKWARD[name], Context())
    cluster = technique.cluster if isinstance(technique, Chain) else technique
    without_scale = isinstance(cluster, Cluster | LearnedMap) and not cluster.row_scale
    if not (isinstance(found, Refusal) and name == "an outlier of 1e6" and without_scale):
        accepted(found)


def copied(technique: Technique) -> Technique:
    """Another object with the same fields."""
    return type(technique)(*(getattr(technique, field.name) for field in fields(technique)))  # type: ignore[arg-type]


@pytest.mark.parametrize("technique", [Quantize(0.1), Prune(0.5), Cluster(4), Chain(Prune(0.5), Cluster(4)), LearnedMap(4), Thin(Prune(0.5), Quantize(0.1))], ids=repr)
def test_a_technique_is_its_parameters(technique: Technique) -> None:
    assert copied(technique) == technique
    assert hash(copied(technique)) == hash(technique)
    with pytest.raises(FrozenInstanceError):
        setattr(technique, fields(technique)[0].name, 0.3)  # type: ignore[arg-type]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_error_falls_as_the_step_falls(power: float) -> None:
    errors = [error(Quantize(step, power), SPREAD) for step in (2.0, 1.0, 0.5, 0.25, 0.1, 0.02)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * errors[0]


def test_the_error_of_a_small_step_is_a_twelfth_of_its_square() -> None:
    form = accepted(Quantize(0.1, 0.0).apply(SPREAD, Context()))
    assert isinstance(form, Grid)
    step = float(dense_values(form.scale)[0])
    assert error(Quantize(0.1, 0.0), SPREAD) / SPREAD.size == pytest.approx(step**2 / 12, rel=0.05)


@pytest.mark.parametrize("row_scale", [False, True])
def test_the_error_falls_as_centroids_are_added(row_scale: bool) -> None:
    errors = [error(Cluster(count, row_scale), SPREAD) for count in (1, 2, 4, 8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]


def test_levels_beyond_sixteen_bits_are_refused_with_the_step() -> None:
    found = Quantize(1e-6).apply(SPREAD, Context())
    assert isinstance(found, Refusal)
    assert "1e-06" in found.reason


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "weight", [SPREAD, np.full((1, 30, 30), 0.5, np.float32), np.sign(SPREAD), np.round(SPREAD * 2) / 2 + np.float32(0.25)]
)
def test_prune_drops_exactly_its_share(weight: NDArray[np.float32], share: float) -> None:
    form = accepted(Prune(share).apply(weight, Context()))
    found = values(form, weight.shape)
    assert int((found == 0).sum()) == round(share * weight.size)
    assert np.array_equal(found[found != 0], weight[found != 0])


def test_prune_drops_what_is_zero_already_and_keeps_the_largest() -> None:
    weight = AWKWARD["nine tenths zero"]
    assert np.array_equal(values(accepted(Prune(0.5).apply(weight, Context())), weight.shape), weight)
    found = values(accepted(Prune(0.95).apply(weight, Context())), weight.shape)
    assert np.abs(weight[(found == 0)]).max() <= np.abs(found[found != 0]).min()


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_an_impossible_sparsity_is_refused(share: float) -> None:
    for technique in (Prune(share), Chain(Prune(share), Cluster(4))):
        assert isinstance(technique.apply(SPREAD, Context()), Refusal)


@pytest.mark.parametrize("row_scale", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.95])
def test_chain_has_exact_positive_zeros_where_prune_drops(share: float, row_scale: bool) -> None:
    kept = Prune(share).kept(SPREAD, Context())
    assert not isinstance(kept, Refusal)
    found = values(accepted(Chain(Prune(share), Cluster(16, row_scale)).apply(SPREAD, Context())), SPREAD.shape)
    assert not found[~kept].view(np.uint32).any()
    assert (found == 0).mean() >= round(share * SPREAD.size) / SPREAD.size


def test_a_centroid_that_float16_rounds_to_nothing_is_a_positive_zero() -> None:
    weight = np.array([[[-1e-9, -1e-9, -1e-9, 1.0]]], np.float32)
    for technique in (Cluster(2, row_scale=False), Chain(Prune(0.25), Cluster(3, row_scale=False))):
        found = values(accepted(technique.apply(weight, Context())), weight.shape)
        assert not found[..., :3].view(np.uint32).any()


def test_chain_uses_at_most_its_number_of_centroids() -> None:
    for count in (2, 3, 16):
        form = accepted(Chain(Prune(0.5), Cluster(count)).apply(SPREAD, Context()))
        assert len(form.centroids.codes) <= count  # type: ignore[union-attr]


def columns_error(technique: Technique, context: Context) -> float:
    form = accepted(technique.apply(SPREAD, context))
    return float(((values(form, SPREAD.shape) - SPREAD)[..., :20] ** 2).sum())


def test_important_columns_are_better_reproduced_by_cluster() -> None:
    skewed = SPREAD.copy()
    skewed[..., :20] = np.abs(skewed[..., :20]) + 3  # where few of the others are
    for row_scale in (False, True):
        plain, aware = (accepted(Cluster(6, row_scale).apply(skewed, Context(square))) for square in (None, COLUMNS))
        errors = [((values(form, skewed.shape) - skewed)[..., :20] ** 2).sum() for form in (plain, aware)]
        assert errors[1] < 0.7 * errors[0]


def test_important_columns_are_kept_by_prune() -> None:
    kept = Prune(0.8).kept(SPREAD, Context(COLUMNS))
    plain = Prune(0.8).kept(SPREAD, Context())
    assert not isinstance(kept, Refusal)
    assert not isinstance(plain, Refusal)
    assert kept[..., :20].mean() > 0.95 > plain[..., :20].mean()
    assert kept.sum() == plain.sum()


def test_columns_that_never_matter_do_not_disturb_the_centroids() -> None:
    square = np.where(np.arange(200) < 100, 1e6, 0.0).astype(np.float32)[None, None]
    form = accepted(Cluster(16, row_scale=False).apply(SPREAD, Context(square)))
    assert ((values(form, SPREAD.shape) - SPREAD)[..., :100] ** 2).mean() < 0.02


def test_values_of_no_importance_far_behind_heavy_ones_give_no_invalid_centroids() -> None:
    weight = np.concatenate([np.full(100_000, -1.0), np.linspace(0, 1, 10)]).astype(np.float32).reshape(1, 1, -1)
    square = (weight < 0).astype(np.float32)
    found = values(accepted(Cluster(16, row_scale=False).apply(weight, Context(square))), weight.shape)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("technique", [t for t in TECHNIQUES if isinstance(t, Quantize)], ids=repr)
def test_the_error_of_a_grid_is_that_of_what_it_decodes_to(technique: Quantize, name: str) -> None:
    weight = AWKWARD[name]
    rows = np.exp(normal(weight.shape[0] * weight.shape[1]))
    for square in (*IMPORTANCE.values(), np.exp(normal(1, weight.shape[1], 1))):
        context = Context(square, rows)
        form, made = technique.apply(weight, context), technique.made(weight, context)
        if isinstance(form, Refusal) or isinstance(made, Refusal):
            assert form == made
            continue
        assert np.array_equal(form.levels.levels, made.form.levels.levels)
        difference = (values(form, weight.shape) - weight).astype(np.float64)
        expected = (context.importance(weight.shape) * difference**2).sum()
        assert made.error == pytest.approx(expected, rel=1e-4, abs=1e-30)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("technique", [Quantize(0.4), Quantize(0.4, 0.0, trellis=True)], ids=repr)
def test_importance_of_batches_rows_and_single_values_goes_where_it_belongs(technique: Quantize, batch: int) -> None:
    weight = normal(batch, 20, 30)
    for shape in ((batch, 1, 30), (1, 20, 30), (batch, 20, 1), (batch, 20, 30)):
        context = Context(np.exp(normal(*shape)))
        made = technique.made(weight, context)
        assert not isinstance(made, Refusal)
        difference = (values(made.form, weight.shape) - weight).astype(np.float64)
        assert made.error == pytest.approx((context.importance(weight.shape) * difference**2).sum(), rel=1e-4)


def correlated_inputs(m: int, k: int) -> Callable[[], Factor]:
    """Fetches the factor of inputs that are alike."""
    factor = factorize(np.repeat((0.95 ** np.abs(np.arange(k)[:, None] - np.arange(k)))[None], m, axis=0).astype(np.float32))
    assert factor is not None
    return lambda: factor


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("technique", FED_BACK, ids=repr)
def test_feedback_and_trellis_give_a_form_that_fits_or_a_reason(technique: Quantize, name: str) -> None:
    weight = AWKWARD[name]
    context = Context(np.ones((1, 1, weight.shape[2]), np.float32), np.ones(weight.shape[0] * weight.shape[1], np.float32))
    found = technique.apply(weight, replace(context, factor=correlated_inputs(1, weight.shape[2])))
    if isinstance(found, Refusal):
        assert found.reason
        return
    assert found.levels.quantizers == 1 + technique.trellis
    assert np.isfinite(values(found, weight.shape)).all()
    (read_back,) = read(np.frombuffer(writer.write(member(found, weight.shape)), np.uint8)).members
    assert np.array_equal(viewed_values(read_back), viewed_values(member(found, weight.shape)))


@pytest.mark.parametrize("technique", FED_BACK, ids=repr)
def test_a_finer_step_is_never_worse_and_feedback_helps(technique: Quantize) -> None:
    context = Context(np.ones((1, 1, 200), np.float32), np.ones(64, np.float32), correlated_inputs(1, 200))
    found = [technique.at(factor).made(SPREAD, context) for factor in (1.0, 0.5, 0.25)]
    errors = [one.error for one in found if not isinstance(one, Refusal)]
    assert len(errors) == 3
    assert errors == sorted(errors, reverse=True)
    if technique.feedback:
        plain = replace(technique, feedback=False).made(SPREAD, context)
        assert not isinstance(plain, Refusal)
        difference = (values(plain.form, SPREAD.shape) - SPREAD).astype(np.float64)[0]
        matrix = 0.95 ** np.abs(np.arange(200)[:, None] - np.arange(200))
        assert errors[0] < 0.6 * np.einsum("ri,ij,rj->", difference, matrix, difference)


def test_feedback_without_a_factor_is_refused() -> None:
    found = Quantize(0.3, feedback=True).apply(SPREAD, Context(np.ones((1, 1, 200), np.float32)))
    assert isinstance(found, Refusal)
    assert "calibration" in found.reason


def test_steps_by_importance_are_finer_where_a_row_matters_more() -> None:
    rows = np.geomspace(0.1, 10, 64).astype(np.float32)
    assert isinstance(Quantize(0.3, 0.0, rows=1.0).apply(SPREAD, Context()), Refusal)
    form = accepted(Quantize(0.3, 0.0, rows=1.0).apply(SPREAD, Context(rows=rows)))
    assert isinstance(form, Grid)
    steps = log8_values(form.scale)
    np.testing.assert_allclose(steps * np.sqrt(rows), np.median(steps * np.sqrt(rows)), rtol=0.05)
    errors = np.square(values(form, SPREAD.shape) - SPREAD)[0].mean(1) * rows
    assert errors[:32].mean() == pytest.approx(errors[32:].mean(), rel=0.2)


def test_steps_by_column_are_finer_where_an_input_is_larger() -> None:
    assert isinstance(Quantize(0.3, columns=0.5).apply(SPREAD, Context()), Refusal)
    form = accepted(Quantize(0.3, columns=0.5).apply(SPREAD, Context(COLUMNS)))
    assert isinstance(form, Grid)
    assert form.column_scale is not None
    steps = log8_values(form.column_scale)
    assert steps[50] / steps[0] == pytest.approx(COLUMNS.ravel()[0] ** 0.25, rel=0.05)


@pytest.mark.parametrize(("value", "kind"), [(0.1, "float16"), (2.0**-12, "float16"), (1e-5, "float32"), (40000.0, "float32"), (1e-24, "float32")])
def test_a_single_scale_is_a_float16_where_that_holds_it_well(value: float, kind: str) -> None:
    leaf = single_scale(value)
    assert not isinstance(leaf, Refusal)
    assert leaf.kind == kind
    assert dense_values(leaf)[0] == pytest.approx(value, rel=2.0**-11)


@pytest.mark.parametrize("value", [0.0, 1e-25, 1e25, np.inf, np.nan])
def test_a_single_scale_out_of_range_is_refused(value: float) -> None:
    assert isinstance(single_scale(value), Refusal)


def test_log8_is_within_half_its_ratio() -> None:
    sample = np.exp(np.random.default_rng(0).uniform(-8, 2, 999)).astype(np.float32)
    leaf = log8(sample)
    assert not isinstance(leaf, Refusal)
    assert np.abs(np.log2(log8_values(leaf) / sample)).max() <= 1 / 32 + 1e-6


@pytest.mark.parametrize("largest", [0.0, 1e-26, 1e26, np.inf])
def test_log8_refuses_what_its_exponent_cannot_say(largest: float) -> None:
    assert isinstance(log8(np.array([largest], np.float32)), Refusal)


def test_importance_has_mean_one_and_is_read_only() -> None:
    found = Context(COLUMNS).importance(SPREAD.shape)
    assert found.mean() == pytest.approx(1, rel=1e-5)
    assert not found.flags.writeable


@pytest.mark.parametrize("count", [1, 2, 37, 256])
def test_few_different_values_come_back_bit_for_bit(count: int) -> None:
    values = normal(count)
    values[0] = -0.0
    weight = np.random.default_rng(3).choice(values, (2, 70, 30)).astype(np.float32)
    form = Distinct().apply(weight, Context())
    assert not isinstance(form, Refusal)
    made = Member(1, plain_view(2, 70, 30), form)
    assert np.array_equal(viewed_values(made).view(np.uint32), weight.view(np.uint32))
    assert len(writer.write(made)) < weight.size * max(np.log2(count), 0.1) / 8 * 1.1 + 4 * count + 700


def test_many_different_values_are_refused() -> None:
    many = np.arange(257, dtype=np.float32).reshape(1, 257, 1)
    assert isinstance(Distinct().apply(many, Context()), Refusal)
    rare = np.zeros((1, 300, 300), np.float32)
    rare[0, :, 0] = np.arange(300)
    assert isinstance(Distinct().apply(rare, Context()), Refusal)
