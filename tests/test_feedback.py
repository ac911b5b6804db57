"""Error feedback and the trellis search: against quadratic forms written out, exhaustive search, and the scalar grid."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.passes.cholesky import BLOCK, LARGE_COLUMNS, solved
from onnx_compress.passes.feedback import DAMPING, LANES, LEAST_VARIANCE, WINDOW, Factor, factorize, round_rows, trellis_rows
from onnx_compress.runtime import trellis

NO_GAINS = np.empty((0, 0, 0), np.float32)
COLUMNS_OF = (1, 2, 5, WINDOW - 1, WINDOW, WINDOW + 1, 70)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def second_moments(m: int, k: int, seed: int = 0, decay: float = 0.9) -> NDArray[np.float32]:
    """[m, k, k]: neighbours are correlated, columns have scales of their own."""
    rng = np.random.default_rng(seed)
    correlated = decay ** np.abs(np.arange(k)[:, None] - np.arange(k))
    scales = np.exp(rng.normal(0, 0.5, (m, k)))
    return (correlated * scales[:, :, None] * scales[:, None, :]).astype(np.float32)


def whole(factor: Factor) -> NDArray[np.float64]:
    """U D U^T, [m, k, k]; the upper triangle of `gains` by row holds U by column, without its unit diagonal."""
    k = factor.variances.shape[1]
    found = []
    for gains, variances in zip(factor.gains.astype(np.float64), factor.variances.astype(np.float64), strict=True):
        upper = np.triu(gains.T, 1) + np.eye(k)
        found.append(upper @ np.diag(variances) @ upper.T)
    return np.stack(found)


@dataclass(frozen=True)
class Made:
    """What a kernel made of a weight: `values` are those that its levels decode to."""

    levels: NDArray[np.int32]
    errors: NDArray[np.float64]
    values: NDArray[np.float32]


def rounded(weight: NDArray[np.float32], scale: NDArray[np.float32], factor: Factor, columns: NDArray[np.float32] | None = None) -> Made:
    """`round_rows`."""
    columns = np.ones(weight.shape[1], np.float32) if columns is None else columns
    levels, errors = np.zeros(weight.shape, np.int32), np.full(len(weight), np.nan)
    round_rows(weight, scale, columns, factor.gains, factor.variances, levels, errors)
    return Made(levels, errors, scale[:, None] * columns * levels.astype(np.float32))


def searched(weight: NDArray[np.float32], scale: NDArray[np.float32], factor: Factor, columns: NDArray[np.float32] | None = None) -> Made:
    """`trellis_rows`."""
    columns = np.ones(weight.shape[1], np.float32) if columns is None else columns
    levels, errors = np.zeros(weight.shape, np.int32), np.full(len(weight), np.nan)
    trellis_rows(weight, scale, columns, factor.gains, factor.variances, levels, errors, trellis.NEXT)
    return Made(levels, errors, scale[:, None] * columns * trellis.multiples(levels).astype(np.float32))


KERNELS = {"grid": rounded, "trellis": searched}


def unrelated(m: int, k: int, seed: int = 0) -> Factor:
    """No gains, and variances of their own."""
    return Factor(NO_GAINS, np.exp(normal(m, k, seed=seed)))


def made_factor(m: int, k: int, seed: int = 0) -> Factor:
    factor = factorize(second_moments(m, k, seed))
    assert factor is not None
    return factor


def quadratic(weight: NDArray[np.float32], values: NDArray[np.float32], matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """(w - q) H (w - q)^T by row, equal parts of the rows using one matrix each."""
    difference = (weight - values).astype(np.float64).reshape(len(matrices), -1, weight.shape[1])
    return np.einsum("mri,mij,mrj->mr", difference, matrices, difference).reshape(-1)


@pytest.mark.parametrize(("m", "k"), [*product((1, 3), (1, 2, 9, 64)), (2, LARGE_COLUMNS + 70)])
def test_the_factor_multiplies_out_to_the_damped_matrix(m: int, k: int) -> None:
    moments = second_moments(m, k, seed=k)
    factor = factorize(moments)
    assert factor is not None
    assert (factor.gains.shape, factor.variances.shape) == ((m, k, k), (m, k))
    damped = moments * (1 + DAMPING * np.eye(k))
    np.testing.assert_allclose(whole(factor), damped, rtol=1e-4, atol=1e-5 * np.abs(damped).max())
    assert (factor.variances > 0).all()


@pytest.mark.parametrize("k", [1, BLOCK, 3 * BLOCK + 5, LARGE_COLUMNS + 70])
def test_what_is_solved_fits(k: int) -> None:
    matrix, right = second_moments(1, k)[0] + np.eye(k), normal(k, 7).astype(np.float64)
    found = solved(matrix.copy(), right.copy())
    np.testing.assert_allclose(matrix @ found, right, atol=1e-9)


def test_a_column_that_never_moved_keeps_a_small_variance() -> None:
    moments = second_moments(1, 6)
    moments[:, 2], moments[:, :, 2] = 0, 0
    factor = factorize(moments)
    assert factor is not None
    assert factor.variances[0, 2] == pytest.approx(LEAST_VARIANCE * np.einsum("mkk->mk", moments).mean(), rel=1e-3)


@pytest.mark.parametrize("bad", [np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan), np.diag([1, np.inf])[None], [[[1.0, 2.0], [2.0, 1.0]]], np.eye(LARGE_COLUMNS)[None] - 0.9])
def test_what_is_no_positive_matrix_has_no_factor(bad: object) -> None:
    assert factorize(np.asarray(bad, np.float32)) is None


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(("m", "rows"), [(1, 1), (1, LANES), (1, 2 * LANES + 5), (3, 3), (3, 60), (7, 7 * 17)])
@pytest.mark.parametrize("k", COLUMNS_OF)
def test_the_error_is_the_quadratic_form_of_what_the_levels_decode_to(name: str, m: int, rows: int, k: int) -> None:
    weight, factor = normal(rows, k, seed=k), made_factor(m, k)
    scale, columns = 0.3 * np.exp(0.3 * normal(rows, seed=1)), np.exp(0.3 * normal(k, seed=2))
    made = KERNELS[name](weight, scale, factor, columns)
    np.testing.assert_allclose(made.errors, quadratic(weight, made.values, whole(factor)), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("k", COLUMNS_OF)
@pytest.mark.parametrize("m", [1, 3])
def test_without_gains_the_error_of_the_trellis_is_the_weighted_sum_of_squares(m: int, k: int) -> None:
    weight, factor = normal(51, k, seed=k), unrelated(m, k)
    made = searched(weight, np.full(51, 0.4, np.float32), factor)
    weights = np.repeat(factor.variances, 51 // m, axis=0)
    np.testing.assert_allclose(made.errors, (weights * (weight - made.values).astype(np.float64) ** 2).sum(1), rtol=1e-5)


def test_feedback_beats_plain_rounding_where_inputs_are_correlated() -> None:
    weight, factor, scale = normal(64, 100), made_factor(1, 100), np.full(64, 0.3, np.float32)
    plain = scale[:, None] * np.rint(weight / scale[:, None])
    assert rounded(weight, scale, factor).errors.sum() < 0.5 * quadratic(weight, plain, whole(factor)).sum()


def test_feedback_is_plain_rounding_where_inputs_are_not_correlated() -> None:
    weight, scale = normal(40, 30), np.full(40, 0.3, np.float32)
    factor = factorize((np.eye(30) * np.exp(normal(30)))[None].astype(np.float32))
    assert factor is not None
    assert np.array_equal(rounded(weight, scale, factor).levels, np.rint(weight / scale[:, None]))


def test_the_trellis_with_feedback_beats_the_one_without_where_inputs_are_correlated() -> None:
    weight, factor, scale = normal(64, 100), made_factor(1, 100), np.full(64, 0.3, np.float32)
    without = searched(weight, scale, Factor(NO_GAINS, factor.variances))
    assert searched(weight, scale, factor).errors.sum() < 0.5 * quadratic(weight, without.values, whole(factor)).sum()


def best_error(row: NDArray[np.float32], step: float, variances: NDArray[np.float32]) -> float:
    """The least error of all paths through the trellis, each parity with its nearest level."""
    reach = range(-int(np.abs(row).max() / step) - 4, int(np.abs(row).max() / step) + 5)
    costs = []
    for parities in product((0, 1), repeat=len(row)):
        state, cost = 0, 0.0
        for value, parity, variance in zip(row, parities, variances, strict=True):
            quantizer = state & 1
            multiples = np.array([2 * level - quantizer * np.sign(level) for level in reach if level % 2 == parity])
            cost += variance * ((value - step * multiples) ** 2).min()
            state = trellis.NEXT[state, parity]
        costs.append(cost)
    return min(costs)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_without_gains_no_path_of_a_short_row_is_better(k: int) -> None:
    weight, factor = normal(24, k, seed=k) * np.float32(2), unrelated(1, k)
    made = searched(weight, np.full(24, 0.5, np.float32), factor)
    expected = [best_error(row, 0.5, factor.variances[0]) for row in weight]
    np.testing.assert_allclose(made.errors, expected, rtol=1e-5)


def viterbi(row: NDArray[np.float32], step: float) -> float:
    """The least squared error of a row of any length: all survivors are kept to the end."""
    cost = np.full(trellis.STATES, np.inf)
    cost[0] = 0
    reach = np.arange(-int(np.abs(row).max() / step) - 4, int(np.abs(row).max() / step) + 5)
    for value in row:
        after = np.full(trellis.STATES, np.inf)
        for state, parity in np.ndindex(trellis.STATES, 2):
            levels = reach[reach % 2 == parity]
            to, error = trellis.NEXT[state, parity], ((value - step * (2 * levels - (state & 1) * np.sign(levels))) ** 2).min()
            after[to] = min(after[to], cost[state] + error)
        cost = after
    return float(cost.min())


def test_deciding_after_a_window_costs_next_to_nothing() -> None:
    weight = normal(20, 6 * WINDOW)
    made = searched(weight, np.full(20, 0.4, np.float32), Factor(NO_GAINS, np.ones((1, 6 * WINDOW), np.float32)))
    full = np.array([viterbi(row, 0.4) for row in weight])
    assert (made.errors >= full * (1 - 1e-5)).all()
    assert made.errors.sum() <= full.sum() * 1.003


def entropy(levels: NDArray[np.int32]) -> float:
    """Bits a level."""
    share = np.unique(levels, return_counts=True)[1] / levels.size
    return float(-(share * np.log2(share)).sum())


def trellis_entropy(levels: NDArray[np.int32]) -> float:
    """Bits a level where each quantizer has a table of its own."""
    quantizers = trellis.quantizers(levels)
    return sum(entropy(levels[quantizers == number]) * float((quantizers == number).mean()) for number in (0, 1))


@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_the_trellis_saves_a_twelfth_of_a_bit_at_equal_error(law: str) -> None:
    weight = getattr(np.random.default_rng(0), law)(0, 1, (256, 400)).astype(np.float32)
    ones = Factor(NO_GAINS, np.ones((1, 400), np.float32))
    steps = 2.0 ** np.arange(-2.5, 0.8, 0.25)
    plain = [(weight - step * np.rint(weight / step), entropy(np.rint(weight / step).astype(np.int32))) for step in steps]
    errors, rates = np.log2([np.square(difference).mean() for difference, _ in plain]), [rate for _, rate in plain]
    gains = []
    for step in (0.2, 0.28, 0.34):
        made = searched(weight, np.full(256, step, np.float32), ones)
        rate = trellis_entropy(made.levels)
        if 2.5 <= rate <= 3.5:
            gains.append(np.interp(np.log2(made.errors.sum() / weight.size), errors, rates) - rate)
    assert len(gains) >= 2
    assert min(gains) >= 0.08, gains


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("cut", [1, 7, LANES, LANES + 1, 40])
def test_rows_do_not_depend_on_those_beside_them(name: str, cut: int) -> None:
    weight, factor, scale = normal(53, 60), made_factor(1, 60), 0.3 * np.exp(0.3 * normal(53, seed=1))
    made = KERNELS[name](weight, scale, factor)
    parts = [KERNELS[name](weight[rows], scale[rows], factor) for rows in (slice(None, cut), slice(cut, None))]
    assert np.array_equal(made.levels, np.concatenate([part.levels for part in parts]))
    assert np.array_equal(made.errors, np.concatenate([part.errors for part in parts]))


@pytest.mark.parametrize("name", KERNELS)
def test_each_part_of_the_rows_uses_its_own_matrix(name: str) -> None:
    for rows, m in ((9, 9), (40, 2), (57, 3)):
        weight, factor, scale = normal(rows, 9), made_factor(m, 9), np.full(rows, 0.3, np.float32)
        made, each = KERNELS[name](weight, scale, factor), rows // m
        for part in range(m):
            mine = slice(part * each, (part + 1) * each)
            alone = KERNELS[name](weight[mine], scale[mine], Factor(factor.gains[part : part + 1], factor.variances[part : part + 1]))
            assert np.array_equal(made.levels[mine], alone.levels)
            assert np.array_equal(made.errors[mine], alone.errors)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("peak", [8000.0, 32000.0])
def test_levels_near_their_limit_are_exact(name: str, peak: float) -> None:
    weight = np.rint(normal(20, 50) * 100)
    weight[:, ::7], weight[:, 3::7] = peak, -peak
    made = KERNELS[name](weight, np.ones(20, np.float32), unrelated(1, 50) if name == "trellis" else made_factor(1, 50))
    assert np.abs(made.values - weight).max() <= (2 if name == "trellis" else 0)


@pytest.mark.parametrize("size", [1e-22, 1e22])
@pytest.mark.parametrize("name", KERNELS)
def test_the_size_of_the_weights_does_not_matter(name: str, size: float) -> None:
    """Squares of large steps lie beyond float32."""
    weight, factor = normal(20, 50), made_factor(1, 50)
    one, other = (KERNELS[name](weight * by, np.full(20, 0.3 * by, np.float32), factor) for by in (np.float32(1), np.float32(size)))
    assert (one.levels == other.levels).mean() > 0.98
    assert other.errors.sum() == pytest.approx(one.errors.sum() * size**2, rel=1e-2)


def test_zeros_cost_nothing_in_either_kernel() -> None:
    for kernel in KERNELS.values():
        made = kernel(np.zeros((18, 40), np.float32), np.ones(18, np.float32), made_factor(1, 40))
        assert not made.levels.any()
        assert not made.errors.any()
