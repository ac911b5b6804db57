"""Error feedback: each value is rounded after the errors of those before it in its row have been taken up, on the second moments of the inputs.

With H = E[x x^T] = U D U^T (U unit upper triangular, D diagonal) the squared error of a layer's output is

    (w - q) H (w - q)^T = sum over k of D_k (t_k - q_k)^2,      t_k = w_k + sum over i < k of (w_i - q_i) U_ik

so that rounding t_k instead of w_k, in the order of k, minimises one term after the other.
After: Chee, Cai, Kuleshov and De Sa 2023 (arXiv:2307.13304, LDLQ), which is GPTQ (Frantar et al. 2022, arXiv:2210.17323) without its inverse.

With a trellis (`runtime/trellis.py`) eight survivors advance together, one for each state; each has errors of its own in the last WINDOW columns, and
what lies before is decided. After: Marcellin and Fischer 1990; the delayed decision is that of any truncated Viterbi search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.trellis import STATES
from .cholesky import cholesky

LANES = 16
"""Rows that advance together: one vector of floats."""

UNROLLED = 8
"""Columns whose errors are added at once: their sum stays in registers."""

WINDOW = 64
"""Columns after which a trellis decision is final. Survivors of eight states merge slowly: the error is 2.7 % above that of the whole search with 24
columns, 0.6 % with 48, 0.2 % with 64 (normal weights, step 0.3 of their deviation), where it takes a tenth longer than with 24.
"""

WORST = np.inf
"""The cost of a state that no path leads to."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """H = U D U^T: `gains` float32 [m, k, k], row j holding U_ij for i < j, and `variances` D, float32 [m, k].

    Of the batch * rows rows of a weight, each m-th part uses one of the m matrices.
    """

    gains: NDArray[np.float32]
    variances: NDArray[np.float32]


def factorize(moments: NDArray[np.float32]) -> Factor | None:
    """The factor of H, `moments` [m, k, k]; None where H is not positive or not finite. Columns that never occur cost next to nothing."""
    diagonal = np.einsum("mkk->mk", moments).astype(np.float64)
    mean = diagonal.mean(axis=1, keepdims=True)
    if not np.isfinite(mean).all() or (mean <= 0).any():
        return None
    k = moments.shape[1]
    gains, variances = np.empty_like(moments), np.empty((len(moments), k), np.float32)
    for number, matrix in enumerate(moments):
        reversed_ = matrix[::-1, ::-1].astype(np.float64)
        np.fill_diagonal(reversed_, np.maximum(diagonal[number], LEAST_VARIANCE * mean[number])[::-1] * (1 + DAMPING))
        try:
            lower = cholesky(reversed_)[::-1, ::-1].T  # row j: sqrt(D_j) U_ij for i <= j
        except np.linalg.LinAlgError:
            return None
        roots = np.diag(lower).copy()
        variances[number] = roots**2
        np.divide(lower, roots[:, None], out=gains[number], casting="same_kind")
    return Factor(gains, variances)


LEAST_VARIANCE = 1e-4
"""Of the mean variance: what an input that never moved may still do on other data."""

DAMPING = 1e-4
"""Keeps the factorization stable in float64."""


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def add_gains(acc: NDArray, gains: NDArray, errors: NDArray, until: int) -> None:
    """acc[l] += sum over i < until of gains[i] * errors[i, l]."""
    lanes = acc.shape[0]
    i = 0
    while i + UNROLLED <= until:
        g0, g1, g2, g3 = gains[i], gains[i + 1], gains[i + 2], gains[i + 3]
        g4, g5, g6, g7 = gains[i + 4], gains[i + 5], gains[i + 6], gains[i + 7]
        for lane in range(lanes):
            acc[lane] += (
                (g0 * errors[i, lane] + g1 * errors[i + 1, lane])
                + (g2 * errors[i + 2, lane] + g3 * errors[i + 3, lane])
                + (g4 * errors[i + 4, lane] + g5 * errors[i + 5, lane])
                + (g6 * errors[i + 6, lane] + g7 * errors[i + 7, lane])
            )
        i += UNROLLED
    while i < until:
        g0 = gains[i]
        for lane in range(lanes):
            acc[lane] += g0 * errors[i, lane]
        i += 1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def round_rows(weight: NDArray, scale: NDArray, columns: NDArray, gains: NDArray, variances: NDArray, levels: NDArray, errors: NDArray) -> None:
    """Levels [rows, k] of weight [rows, k] on the grid scale[row] * columns[k], with feedback; errors[row] = sum of D (t - q)^2.

    gains [m, k, k], variances [m, k]; rows / m consecutive rows use one of them.
    """
    rows, k = weight.shape
    each = rows // gains.shape[0]
    lanes = min(LANES, each)
    history, acc = np.zeros((k, lanes), np.float32), np.zeros(lanes, np.float32)
    for first in range(0, rows, each):
        matrix, variance = gains[first // each], variances[first // each]
        for start in range(first, first + each, lanes):
            width = min(lanes, first + each - start)
            total = np.zeros(lanes)
            for j in range(k):
                acc[:] = 0
                add_gains(acc, matrix[j], history, j)
                for lane in range(width):
                    step = scale[start + lane] * columns[j]
                    target = weight[start + lane, j] + acc[lane]
                    level = np.rint(target / step)
                    value = step * level
                    levels[start + lane, j] = int(level)
                    history[j, lane] = weight[start + lane, j] - value
                    total[lane] += variance[j] * np.float64(target - value) ** 2
            for lane in range(width):
                errors[start + lane] = total[lane]


@numba.njit(cache=True, nogil=True)
def _predecessors(following: NDArray) -> NDArray:
    """[state, 2, (from, parity)] for the two ways into each state."""
    found, count = np.zeros((len(following), 2, 2), np.int64), np.zeros(len(following), np.int64)
    for state in range(len(following)):
        for parity in range(2):
            to = following[state, parity]
            found[to, count[to], 0], found[to, count[to], 1] = state, parity
            count[to] += 1
    return found


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _nearest(value: float, quantizer: int, parity: int) -> int:
    """The level of this parity whose multiple lies nearest to `value`."""
    if quantizer == 0:
        return 2 * int(np.rint((value / 2 - parity) / 2)) + parity
    # Odd multiples +-1, +-5, .. belong to odd levels; 0, +-3, +-7, .. to even ones.
    sign, size = (1, value) if value >= 0 else (-1, -value)
    if parity == 1:
        return sign * max(2 * int(np.rint((size - 1) / 4)) + 1, 1)
    level = 2 * int(np.rint((size + 1) / 4))
    if level == 2 and size < 1.5:
        level = 0
    return sign * max(level, 0)


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def trellis_rows(
    weight: NDArray, scale: NDArray, columns: NDArray, gains: NDArray, variances: NDArray, levels: NDArray, errors: NDArray, following: NDArray
) -> None:
    """As `round_rows`, with levels of the trellis; `gains` of shape [m, 0, 0] are none: the search is then for the values themselves.

    Lanes are rows, with eight survivors each, one for each state: `cost` [lane, state] is the error so far, WORST where no path leads there;
    `recent` and `chosen` [2, lane, state, WINDOW] are the last errors and levels, column j at j % WINDOW, read from one half and written
    to the other; `decided` [k, lane] are the errors before.

    What makes it fast: helpers work on all lanes, since numba counts references at every call, and loops over the window ask the arrays for its
    length, since LLVM unrolls a constant one instead of making it a loop of vectors (half the time).
    """
    rows, k = weight.shape
    each = rows // variances.shape[0]
    lanes = min(LANES, each)
    ways = _predecessors(following)
    decided, acc, near, steps = np.zeros((k, lanes), np.float32), np.zeros(lanes, np.float32), np.zeros(WINDOW, np.float32), np.zeros(lanes, np.float32)
    cost, option_cost = np.zeros((lanes, STATES)), np.zeros((lanes, STATES, 2))
    recent, option_error = np.zeros((2, lanes, STATES, WINDOW), np.float32), np.zeros((lanes, STATES, 2), np.float32)
    chosen, option_level = np.zeros((2, lanes, STATES, WINDOW), np.int32), np.zeros((lanes, STATES, 2), np.int32)
    for first in range(0, rows, each):
        matrix = first // each
        for start in range(first, first + each, lanes):
            end = min(start + lanes, first + each)
            cost[:] = WORST
            cost[:, 0] = 0.0
            for j in range(k):
                if j >= WINDOW:
                    _decide(cost, recent[j & 1], chosen[j & 1], decided, levels[start:end], j - WINDOW)
                if gains.shape[1]:
                    _take_up(gains[matrix, j], j, decided, acc, near)
                for lane in range(end - start):
                    steps[lane] = scale[start + lane] * columns[j]
                _weigh(weight[start:end, j], steps, variances[matrix, j], acc, near, cost, recent[j & 1], option_cost, option_error, option_level)
                _select(ways, option_cost, option_error, option_level, cost, recent, chosen, j, end - start)
            for lane in range(end - start):
                best = cost[lane].argmin()
                errors[start + lane] = cost[lane, best]
                for j in range(max(k - WINDOW, 0), k):
                    levels[start + lane, j] = chosen[k & 1, lane, best, j % WINDOW]


@numba.njit(cache=True, nogil=True)
def _decide(cost: NDArray, recent: NDArray, chosen: NDArray, decided: NDArray, levels: NDArray, column: int) -> None:
    """Makes the oldest column final: the best survivor's level. Survivors that differ there end, so that all others share their past."""
    slot = column % WINDOW
    for lane in range(len(levels)):
        best = 0
        for state in range(STATES):
            if cost[lane, state] < cost[lane, best]:
                best = state
        level = chosen[lane, best, slot]
        levels[lane, column], decided[column, lane] = level, recent[lane, best, slot]
        for state in range(STATES):
            if chosen[lane, state, slot] != level:
                cost[lane, state] = WORST


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _take_up(row: NDArray, j: int, decided: NDArray, acc: NDArray, near: NDArray) -> None:
    """Prepares column j: acc [lanes], what the decided errors add to its target, and near [WINDOW], the gains of those that differ by survivor."""
    oldest = max(j - WINDOW + 1, 0)
    acc[:] = 0
    add_gains(acc, row, decided, oldest)
    near[:] = 0
    for i in range(oldest, j):
        near[i % WINDOW] = row[i]


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "reassoc"})  # reassoc: the sum of the window in vectors
def _weigh(
    values: NDArray, steps: NDArray, variance: float, acc: NDArray, near: NDArray, cost: NDArray, recent: NDArray,
    option_cost: NDArray, option_error: NDArray, option_level: NDArray,
) -> None:  # fmt: skip
    """For each survivor the nearest level of either parity: its cost, error and level [lane, state, parity]."""
    for lane in range(len(values)):
        for state in range(STATES):
            if cost[lane, state] == WORST:
                option_cost[lane, state, 0] = option_cost[lane, state, 1] = WORST
                continue
            target = np.float32(0)
            for slot in range(len(near)):
                target += near[slot] * recent[lane, state, slot]
            target += values[lane] + acc[lane]
            for parity in range(2):
                level = _nearest(target / steps[lane], state & 1, parity)
                sign = 1 if level > 0 else (-1 if level < 0 else 0)
                found = steps[lane] * np.float32(2 * level - (state & 1) * sign)
                option_cost[lane, state, parity] = cost[lane, state] + variance * np.float64(target - found) ** 2
                option_error[lane, state, parity] = values[lane] - found
                option_level[lane, state, parity] = level


@numba.njit(cache=True, nogil=True)
def _select(
    ways: NDArray, option_cost: NDArray, option_error: NDArray, option_level: NDArray, cost: NDArray, recent: NDArray, chosen: NDArray, j: int, many: int
) -> None:
    """The better of the two ways into each state becomes its survivor, which takes over the past of the one that it comes from."""
    slot, old, new = j % WINDOW, j & 1, 1 - (j & 1)
    for lane in range(many):
        for state in range(STATES):
            source, parity = ways[state, 0, 0], ways[state, 0, 1]
            if option_cost[lane, ways[state, 1, 0], ways[state, 1, 1]] < option_cost[lane, source, parity]:
                source, parity = ways[state, 1, 0], ways[state, 1, 1]
            cost[lane, state] = option_cost[lane, source, parity]
            for at in range(recent.shape[3]):
                recent[new, lane, state, at] = recent[old, lane, source, at]
            for at in range(chosen.shape[3]):
                chosen[new, lane, state, at] = chosen[old, lane, source, at]
            recent[new, lane, state, slot], chosen[new, lane, state, slot] = option_error[lane, source, parity], option_level[lane, source, parity]
