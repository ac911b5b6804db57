"""Grids: their error, error feedback, trellises, and steps by row and by column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx_compress.passes import writer
from onnx_compress.passes.feedback import Factor, factorize
from onnx_compress.passes.quantize import Quantize, single_scale
from onnx_compress.passes.technique import Context, Refusal, log8, log8_values
from onnx_compress.runtime.evaluate import dense_values, viewed_values
from onnx_compress.runtime.form import Grid
from onnx_compress.runtime.reader import read

from tests.techniques import AWKWARD, COLUMNS, IMPORTANCE, SPREAD, TECHNIQUES, accepted, error, member, normal, values

FED_BACK = (
    Quantize(0.5, feedback=True),
    Quantize(0.5, 0.0, feedback=True),
    Quantize(0.5, 0.0, rows=1.0, feedback=True, trellis=True),
    Quantize(0.5, columns=0.5, feedback=True),
    Quantize(0.3, feedback=True, trellis=True),
)


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


def test_levels_beyond_sixteen_bits_are_refused_with_the_step() -> None:
    found = Quantize(1e-6).apply(SPREAD, Context())
    assert isinstance(found, Refusal)
    assert "1e-06" in found.reason


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
