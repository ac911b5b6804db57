"""The allocator against brute force, and what it promises for every budget."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_compress.optimizer.allocate import Options, Timed, allocate, allocate_timed, unfolded


def instance(seed: int, weights: int = 5, most: int = 5) -> Options:
    """Random candidates; some weights' are on a convex curve (finer costs more and is better), others anywhere."""
    rng = np.random.default_rng(seed)
    options = []
    for weight in range(weights):
        count = int(rng.integers(1, most + 1))
        size = np.sort(rng.uniform(10, 1000, count))
        predicted = rng.uniform(0, 1, count) if weight % 2 else np.exp(-size / rng.uniform(50, 500)) * rng.uniform(0.1, 10)
        order = rng.permutation(count)
        options.append((size[order], predicted[order]))
    return options


def total(options: Options, chosen: list[int] | tuple[int, ...], of: int) -> float:
    return float(sum(option[of][number] for option, number in zip(options, chosen, strict=True)))


def best(options: Options, budget: float) -> float:
    """The least divergence within the budget, over all combinations."""
    combinations = product(*(range(len(size)) for size, _ in options))
    return min((total(options, one, 1) for one in combinations if total(options, one, 0) <= budget), default=np.inf)


def budgets(options: Options) -> list[float]:
    """From just the smallest candidates to all of the largest."""
    least, most = (sum(float(pick(size)) for size, _ in options) for pick in (np.min, np.max))
    return [least + share * (most - least) for share in (0, 0.05, 0.2, 0.4, 0.6, 0.8, 1)]


@pytest.mark.parametrize("seed", range(30))
def test_the_budget_is_never_exceeded(seed: int) -> None:
    options = instance(seed)
    for budget in budgets(options):
        chosen = allocate(options, budget * (1 + 1e-12))
        assert chosen is not None
        assert total(options, chosen, 0) <= budget * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_within_one_step_of_the_hull_of_brute_force(seed: int) -> None:
    """A point of the hull is optimal for its own bytes; what lies between two of them is at most one weight's step on the hull."""
    options = instance(seed)
    step = max(float(predicted.max() - predicted.min()) for _, predicted in options)
    for budget in budgets(options):
        chosen = allocate(options, budget * (1 + 1e-12))
        assert chosen is not None
        found, least = total(options, chosen, 1), best(options, budget * (1 + 1e-12))
        assert least - 1e-12 <= found <= least + step + 1e-12


@pytest.mark.parametrize("seed", range(10))
def test_with_many_weights_it_is_close_to_the_bound_of_the_multiplier(seed: int) -> None:
    """For any multiplier m >= 0, min(predicted + m * bytes) - m * budget bounds every plan from below."""
    options = instance(seed, weights=200, most=12)
    for budget in budgets(options)[1:-1]:
        chosen = allocate(options, budget)
        assert chosen is not None
        bound = max(
            sum(float((predicted + m * size).min()) for size, predicted in options) - m * budget for m in np.exp(np.linspace(-20, 3, 300))
        )
        assert total(options, chosen, 1) <= bound * 1.02 + 0.05


@pytest.mark.parametrize("seed", range(20))
def test_a_larger_budget_is_never_much_worse(seed: int) -> None:
    """Hull points are monotone; spending what is left over is greedy, so that single steps may differ by one candidate."""
    options = instance(seed, weights=40, most=8)
    found = [total(options, chosen, 1) for budget in budgets(options) if (chosen := allocate(options, budget * (1 + 1e-12)))]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(found))


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_less_than_the_smallest_is_none_and_everything_is_the_best(seed: int) -> None:
    options = instance(seed)
    least = sum(float(size.min()) for size, _ in options)
    assert allocate(options, least * 0.999) is None
    chosen = allocate(options, 1e9)
    assert chosen is not None
    assert total(options, chosen, 1) == pytest.approx(sum(float(predicted.min()) for _, predicted in options))


def test_nothing_to_choose_is_an_empty_plan() -> None:
    assert allocate([], 0) == []
    assert allocate([], -1) is None


def test_equal_sizes_take_the_better_one() -> None:
    options = [(np.array([100.0, 100.0]), np.array([2.0, 1.0]))]
    assert allocate(options, 100) == [1]


def test_divergences_of_any_magnitude_are_allocated() -> None:
    """The multiplier is searched from 2^-80 to 2^80."""
    for scale in (1e-20, 1e-12, 1.0, 1e12):
        options = [(np.array([10.0, 20.0, 40.0]), scale * np.array([4.0, 2.0, 1.0])) for _ in range(4)]
        chosen = allocate(options, 80)
        assert chosen is not None
        assert total(options, chosen, 1) == pytest.approx(8 * scale)


def timed(options: Options, most: float, worse: float = np.inf, shared: float = 0.0) -> Timed:
    """The first half of each weight's candidates is fused and takes 10 microseconds, the second folded and takes 2."""
    folded = [np.arange(len(size)) >= len(size) // 2 for size, _ in options]
    return Timed([np.where(one, 2.0, 10.0) for one in folded], folded, most, worse, shared)


def placed(weights: int = 4) -> Options:
    """Eight rates, fused, and the same folded, where they take a tenth more."""
    rng = np.random.default_rng(0)
    size = np.arange(1.0, 9.0) * 100
    harm = [rng.uniform(0.5, 2) * 4.0 ** -np.arange(1.0, 9.0) for _ in range(weights)]
    return [(np.concatenate([size, 1.1 * size]), np.concatenate([one, one])) for one in harm]


def test_without_need_nothing_is_folded() -> None:
    options = placed()
    assert allocate_timed(options, 2000, timed(options, 40.0)) == allocate(unfolded(options, timed(options, 0).folded), 2000)


@pytest.mark.parametrize("most", [32.0, 24.0, 16.0, 8.0])
def test_time_is_kept_and_hardly_more_is_folded_than_that_takes(most: float) -> None:
    """Plans lie on a hull: one weight too many at most."""
    options = placed()
    limit = timed(options, most)
    chosen = allocate_timed(options, 2000, limit)
    assert chosen is not None
    assert total(options, chosen, 0) <= 2000
    assert most - 16 < limit.total(chosen) <= most


def test_divergence_grows_no_further_than_allowed_and_time_then_falls_as_far_as_it_can() -> None:
    options = placed()
    base = allocate_timed(options, 2000, timed(options, 40.0))
    assert base is not None
    found = [allocate_timed(options, 2000, timed(options, 8.0, worse)) for worse in (1.0, 1.3, 1.6, 10.0)]
    harms = [total(options, one, 1) / total(options, base, 1) for one in found if one is not None]
    times = [timed(options, 8.0).total(one) for one in found if one is not None]
    assert all(harm <= worse * (1 + 1e-9) for harm, worse in zip(harms, (1.0, 1.3, 1.6, 10.0), strict=True))
    assert times == sorted(times, reverse=True)
    assert times[0] > times[-1] == 8.0


def test_what_the_first_folded_weight_costs_is_left_free() -> None:
    options = placed()
    chosen = allocate_timed(options, 2000, timed(options, 8.0, shared=300.0))
    assert chosen is not None
    assert total(options, chosen, 0) <= 1700
    assert allocate_timed(options, 100, timed(options, 8.0)) is None
