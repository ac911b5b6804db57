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

from ..runtime.trellis import NEXT, STATES

LANES = 16
"""Rows that advance together: one vector of floats."""

UNROLLED = 8
"""Columns whose errors are added at once: their sum stays in registers."""

WINDOW = 24
"""Columns after which a trellis decision is final: eight times the memory of three columns, when all survivors have long agreed."""

WORST = np.float32(1e30)


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
        regular = matrix.astype(np.float64)
        np.fill_diagonal(regular, np.maximum(diagonal[number], LEAST_VARIANCE * mean[number]) * (1 + DAMPING))
        try:
            lower = np.linalg.cholesky(regular[::-1, ::-1])[::-1, ::-1].T  # row j: sqrt(D_j) U_ij for i <= j
        except np.linalg.LinAlgError:
            return None
        roots = np.diag(lower).copy()
        variances[number] = roots**2
        gains[number] = lower / roots[:, None]
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
def trellis_rows(  # noqa: PLR0912  (one search, for numba)
    weight: NDArray, scale: NDArray, columns: NDArray, gains: NDArray, variances: NDArray, levels: NDArray, errors: NDArray, following: NDArray
) -> None:
    """As `round_rows`, with levels of the trellis; `gains` of shape [m, 0, 0] are none: the search is then for the values themselves."""
    rows, k = weight.shape
    each = rows // variances.shape[0]
    lanes, feeds = min(LANES, each), gains.shape[1] > 0
    ways = _predecessors(following)
    decided, acc = np.zeros((k, lanes), np.float32), np.zeros(lanes, np.float32)
    width = lanes * STATES
    recent, chosen = np.zeros((WINDOW, width), np.float32), np.zeros((WINDOW, width), np.int16)
    next_recent, next_chosen = np.zeros(STATES, np.float32), np.zeros(STATES, np.int16)
    near, cost = np.zeros(width, np.float32), np.zeros(width, np.float64)
    source, new_cost = np.zeros(STATES, np.int64), np.zeros(STATES)
    new_level, new_error = np.zeros(STATES, np.int16), np.zeros(STATES, np.float32)
    option_cost, option_level, option_error = np.zeros((STATES, 2)), np.zeros((STATES, 2), np.int16), np.zeros((STATES, 2), np.float32)
    for first in range(0, rows, each):
        variance = variances[first // each]
        for start in range(first, first + each, lanes):
            many = min(lanes, first + each - start)
            cost[:] = WORST
            cost[:: STATES] = 0.0
            for j in range(k):
                slot = j % WINDOW
                if j >= WINDOW:
                    _decide(cost, chosen, recent, slot, many, decided, levels, start, j - WINDOW)
                acc[:] = 0
                near[:] = 0
                if feeds:
                    row = gains[first // each, j]
                    add_gains(acc, row, decided, max(j - WINDOW + 1, 0) if j >= WINDOW else 0)
                    for i in range(max(j - WINDOW + 1, 0), j):
                        gain, at = row[i], i % WINDOW
                        for lane in range(width):
                            near[lane] += gain * recent[at, lane]
                for lane in range(many):
                    base = lane * STATES
                    step = scale[start + lane] * columns[j]
                    for state in range(STATES):
                        if cost[base + state] >= WORST:
                            option_cost[state, 0] = option_cost[state, 1] = WORST
                            continue
                        quantizer = state & 1
                        target = weight[start + lane, j] + acc[lane] + near[base + state]
                        for parity in range(2):
                            level = _nearest(target / step, quantizer, parity)
                            sign = 1 if level > 0 else (-1 if level < 0 else 0)
                            value = step * np.float32(2 * level - quantizer * sign)
                            option_cost[state, parity] = cost[base + state] + variance[j] * np.float64(target - value) ** 2
                            option_level[state, parity] = level
                            option_error[state, parity] = weight[start + lane, j] - value
                    for state in range(STATES):
                        a, p, b, r = ways[state, 0, 0], ways[state, 0, 1], ways[state, 1, 0], ways[state, 1, 1]
                        if option_cost[b, r] < option_cost[a, p]:
                            a, p = b, r
                        source[state], new_cost[state] = a, option_cost[a, p]
                        new_level[state], new_error[state] = option_level[a, p], option_error[a, p]
                    for at in range(min(j, WINDOW)):
                        if at == slot:
                            continue
                        for state in range(STATES):
                            next_recent[state], next_chosen[state] = recent[at, base + source[state]], chosen[at, base + source[state]]
                        for state in range(STATES):
                            recent[at, base + state], chosen[at, base + state] = next_recent[state], next_chosen[state]
                    for state in range(STATES):
                        cost[base + state] = new_cost[state]
                        recent[slot, base + state], chosen[slot, base + state] = new_error[state], new_level[state]
            for lane in range(many):
                base = lane * STATES
                best = 0
                for state in range(STATES):
                    if cost[base + state] < cost[base + best]:
                        best = state
                errors[start + lane] = cost[base + best]
                for j in range(max(k - WINDOW, 0), k):
                    levels[start + lane, j] = chosen[j % WINDOW, base + best]


@numba.njit(cache=True, nogil=True)
def _decide(cost: NDArray, chosen: NDArray, recent: NDArray, slot: int, many: int, decided: NDArray, levels: NDArray, start: int, column: int) -> None:
    """Makes the oldest column final: the best survivor's level; survivors that differ there end."""
    for lane in range(many):
        base = lane * STATES
        best = 0
        for state in range(STATES):
            if cost[base + state] < cost[base + best]:
                best = state
        level = chosen[slot, base + best]
        levels[start + lane, column] = level
        decided[column, lane] = recent[slot, base + best]
        for state in range(STATES):
            if chosen[slot, base + state] != level:
                cost[base + state] = WORST
