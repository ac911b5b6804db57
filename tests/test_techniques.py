"""Contract of the techniques: every technique and every awkward tensor give a form that fits, or a refusal with its reason."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.passes import writer
from onnx_compress.passes.codebook import Chain, Cluster
from onnx_compress.passes.distinct import Distinct
from onnx_compress.passes.mapping import LearnedMap
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Context, Refusal, Technique
from onnx_compress.passes.thin import Thin
from onnx_compress.runtime.evaluate import viewed_values
from onnx_compress.runtime.form import Member
from onnx_compress.runtime.reader import read

from tests.forms import plain_view
from tests.techniques import AWKWARD, COLUMNS, IMPORTANCE, SPREAD, TECHNIQUES, accepted, error, member, normal, values


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


@pytest.mark.parametrize("row_scale", [False, True])
def test_the_error_falls_as_centroids_are_added(row_scale: bool) -> None:
    errors = [error(Cluster(count, row_scale), SPREAD) for count in (1, 2, 4, 8, 16, 32, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * errors[0]


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
