"""LearnedMap: rows share codebooks by groups; assignments and centroids are improved together (JLCM).

Rows are sorted by their magnitude, or where they have a scale by the shape of their distribution, and dealt into groups that have a codebook each. Then,
a few times: codes for the centroids, centroids for the codes,

    code = argmin of D_k (t - c)^2 + price * bits[code],        c = sum of D t / sum of D over the values with this code

with the targets t of error feedback (`feedback.py`) where the second moments are known, and bits from the codes' frequencies: what follows is entropy-coded,
and a codebook for it has its centroids nearly evenly spread. After: Chou, Lookabaugh and Gray 1989, "Entropy-constrained vector quantization".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Dense, Form, Mapped, Symbols
from .codebook import ITERATIONS, train
from .feedback import LANES, Factor, add_gains
from .quantize import factor_of
from .technique import Context, Made, Refusal, log8, log8_values, row_rms

PLAIN_PASSES, FED_PASSES = 4, 2
"""Alternations without feedback, and then with it, which takes k times as long."""

LEAST_VALUE = 0.05
"""Of the mean variance: what a column counts for at least where bytes are saved; one that calibration hardly ever saw would lose all else."""

ENTROPY_SLOPE = 2 * np.log(2)
"""-dD/dR of D = step^2 / 12, in units of D a bit: the price at which a bit buys as much in the codes as in a finer codebook."""

REACH = 6
"""Codes that are cheaper to write than the nearest, tried one after the other."""

MOST_GROUPS, MOST_CENTROIDS = 256, 65536

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LearnedMap:
    """`groups` codebooks of at most `count` centroids; with `row_scale` for values divided by their row's rms, with `feedback` errors are fed back.

    `thrift` times the slope of the rate is what a bit may cost in error; 0 takes the nearest centroid. `even` starts with centroids evenly spread over all
    values, not with those of k-means: more of them, hence better where they weigh little.
    """

    count: int
    groups: int = 1
    row_scale: bool = True
    feedback: bool = False
    thrift: float = 1.0
    even: bool = False

    def apply(self, weight: NDArray[np.float32], context: Context) -> Form | Refusal:
        """A Mapped form with float16 centroids."""
        made = self.made(weight, context)
        return made if isinstance(made, Refusal) else made.form

    def at(self, factor: float) -> LearnedMap:
        """The same with a price that makes codes as much cheaper as a coarser step would."""
        return replace(self, thrift=self.thrift * factor**4)

    def made(self, weight: NDArray[np.float32], context: Context) -> Made | Refusal:
        """The Mapped form and its error."""
        if not (self.count >= 1 and 1 <= self.groups <= MOST_GROUPS and self.count * self.groups <= MOST_CENTROIDS):
            return Refusal(f"{self.groups} codebooks of {self.count} centroids are outside 1..{MOST_GROUPS} and {MOST_CENTROIDS} in all")
        factor = factor_of(context, weight.shape, self.feedback)
        if isinstance(factor, Refusal):
            return factor
        if not weight.size:
            return Refusal("it has no values")
        scale = log8(row_rms(weight)) if self.row_scale else None
        if isinstance(scale, Refusal):
            return scale
        state = _State.of(self, weight, (context, factor), scale)
        for _ in range(PLAIN_PASSES):
            state.alternate(None)
        for _ in range(FED_PASSES if state.gains.size else 0):
            state.alternate(state.gains)
        with np.errstate(over="ignore"):
            state.books = state.books.astype(np.float16).astype(np.float32) + np.float32(0)  # + 0: no negative zero
        if not np.isfinite(state.books).all():
            return Refusal("centroids are outside the range of float16")
        errors = state.alternate(state.gains, final=True)
        unit = context.unit if self.feedback else 1.0
        return Made(state.form(weight.shape, scale), float(errors @ state.share) / unit)


@dataclass(slots=True, eq=False)
class _State:
    """Rows [rows, k] with their codebooks [groups, n], as they are improved."""

    flat: Floats
    scale: Floats
    share: Floats
    group: NDArray[np.uint8]
    books: Floats
    bits: NDArray[np.float64]
    price: float
    gains: Floats
    variances: Floats
    values: Floats
    codes: NDArray[np.int32]

    @staticmethod
    def of(technique: LearnedMap, weight: Floats, known: tuple[Context, Factor], scale: Dense | None) -> _State:
        """Codebooks that k-means finds for rows sorted into groups, and the price of a bit that follows from their error."""
        context, factor = known
        rows, k = weight.shape[0] * weight.shape[1], weight.shape[2]
        flat = np.ascontiguousarray(weight).reshape(rows, k)
        scales = np.ones(rows, np.float32) if scale is None else log8_values(scale)
        share = np.ones(rows, np.float32) if context.rows is None else np.ascontiguousarray(context.rows, np.float32)
        importance = context.importance(weight.shape).reshape(rows, k)
        values = np.maximum(factor.variances, LEAST_VALUE * factor.variances.mean(axis=1, keepdims=True))
        group = _sorted_groups(flat, scale is not None, min(technique.groups, rows))
        books = _trained(flat, scales, importance, group, technique)
        if len(books) > 1:
            _regroup(flat, scales, importance, books, group)
            books = _trained(flat, scales, importance, _renumbered(group), technique)
        state = _State(
            flat, scales, share, _renumbered(group), books, np.zeros(books.shape[1]), 0.0, factor.gains, factor.variances, values, np.empty((rows, k), np.int32)
        )
        errors = state.alternate(None)
        state.price = technique.thrift * ENTROPY_SLOPE * float(errors @ share) / flat.size
        return state

    def alternate(self, gains: Floats | None, final: bool = False) -> NDArray[np.float64]:
        """Codes for the centroids, and but for the last time centroids and bits for the codes; gives each row's error."""
        fed = np.empty((0, 0, 0), np.float32) if gains is None else gains
        errors, mass, sums = np.zeros(len(self.flat)), np.zeros(self.books.shape), np.zeros(self.books.shape)
        _map_rows(
            self.flat, self.scale, self.share, self.books, self.group, self.bits, self.price, (fed, self.variances, self.values), self.codes, errors, mass, sums
        )
        if not final:
            means = np.divide(sums, mass, out=self.books.astype(np.float64), where=mass > 0)
            self.books = np.sort(means, axis=1).astype(np.float32)
            counts = np.bincount(self.codes.reshape(-1), minlength=self.books.shape[1]) + 0.5
            self.bits = -np.log2(counts / counts.sum())
        return errors

    def form(self, shape: tuple[int, ...], scale: Dense | None) -> Mapped:
        """Without the centroids that no row uses."""
        used, codes = np.unique(self.codes, return_inverse=True)
        centroids = Dense("float16", self.books[:, used].astype("<f2").view(np.uint16).reshape(-1))
        groups = len(self.books)
        return Mapped(centroids, groups, self.group if groups > 1 else None, Symbols(codes.reshape(shape).astype(np.int32)), scale)


def _sorted_groups(flat: Floats, scaled: bool, groups: int) -> NDArray[np.uint8]:
    """The group of each row: equal parts in the order of magnitude, or where rows are scaled of mean |w| over rms (peaked rows first)."""
    rms = np.sqrt(np.einsum("rk,rk->r", flat, flat, dtype=np.float64))
    order = np.abs(flat).sum(axis=1, dtype=np.float64) / np.maximum(rms, 1e-300) if scaled else rms
    ranks = np.empty(len(flat), np.int64)
    ranks[np.argsort(order, kind="stable")] = np.arange(len(flat))
    return (ranks * groups // len(flat)).astype(np.uint8)


def _renumbered(group: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Groups that have rows, from 0 on."""
    return np.unique(group, return_inverse=True)[1].astype(np.uint8).reshape(-1)


def _trained(flat: Floats, scale: Floats, importance: Floats, group: NDArray[np.uint8], technique: LearnedMap) -> Floats:
    """A codebook for each group, ascending, float32 [groups, n]; one with fewer centroids repeats its last."""
    books = []
    for number in range(int(group.max()) + 1):
        rows = np.flatnonzero(group == number)
        chosen = np.broadcast_to(np.bool_(True), (1, len(rows), flat.shape[1]))
        books.append(train(flat[None, rows], scale[None, rows], importance[None, rows], chosen, technique.count, 1 if technique.even else ITERATIONS))
    most = max(map(len, books))
    return np.stack([np.append(book, np.full(most - len(book), book[-1])) for book in books]).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _regroup(flat: NDArray, scale: NDArray, importance: NDArray, books: NDArray, group: NDArray) -> None:
    """Each row to the codebook that serves it best."""
    for row in range(flat.shape[0]):
        least = np.inf
        for number in range(books.shape[0]):
            cost = 0.0
            for column in range(flat.shape[1]):
                value = np.float64(flat[row, column]) / scale[row]
                cost += importance[row, column] * (value - books[number, _nearest(books[number], value)]) ** 2
            if cost < least:
                group[row], least = number, cost


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _map_rows(
    weight: NDArray, scale: NDArray, share: NDArray, books: NDArray, group: NDArray, bits: NDArray, price: float, factor: tuple[NDArray, NDArray, NDArray],
    codes: NDArray, errors: NDArray, mass: NDArray, sums: NDArray,
) -> None:  # fmt: skip
    """Codes [rows, k] of weight [rows, k] in the ascending codebook books[group[row]], times scale[row], with feedback; errors as in `feedback.round_rows`.

    A code costs share[row] * D (t - q)^2 + price * bits[code]. `factor` is (gains, or an empty array for none, variances, what takes
    the place of D where codes and centroids are chosen).
    Adds D and D t, in units of the codebook, to `mass` and `sums` [groups, n].
    """
    gains, variances, values = factor
    rows, k = weight.shape
    each = rows // variances.shape[0]
    lanes, feeds, cheapest = min(LANES, each), gains.shape[1] > 0, np.argmin(bits)
    history, acc = np.zeros((k, lanes), np.float32), np.zeros(lanes, np.float32)
    for first in range(0, rows, each):
        part = first // each
        for start in range(first, first + each, lanes):
            width = min(lanes, first + each - start)
            for j in range(k):
                acc[:] = 0
                if feeds:
                    add_gains(acc, gains[part, j], history, j)
                for lane in range(width):
                    row, own = start + lane, group[start + lane]
                    step, variance = np.float64(scale[row]), np.float64(variances[part, j])
                    target = np.float64(weight[row, j] + acc[lane]) / step
                    worth = np.float64(values[part, j]) * step * step * share[row]
                    best = _cheapest(books[own], target, worth, price, bits, cheapest)
                    value = books[own, best] * scale[row]
                    codes[row, j] = best
                    history[j, lane] = weight[row, j] - value
                    errors[row] += variance * (target * step - value) ** 2
                    mass[own, best] += worth
                    sums[own, best] += worth * target


@numba.njit(cache=True, nogil=True)
def _cheapest(book: NDArray, target: float, worth: float, price: float, bits: NDArray, cheapest: int) -> int:
    """The code with the least worth * (target - book[code])^2 + price * bits[code] of those from the nearest towards the cheapest."""
    code = _nearest(book, target)
    if price == 0:
        return code
    best, least = code, worth * (target - book[code]) ** 2 + price * bits[code]
    for _ in range(REACH):
        if code == cheapest:
            break
        code += 1 if code < cheapest else -1
        cost = worth * (target - book[code]) ** 2 + price * bits[code]
        if cost < least:
            best, least = code, cost
    return best


@numba.njit(cache=True, nogil=True)
def _nearest(book: NDArray, value: float) -> int:
    """The number of the nearest of some ascending values."""
    low, high = 0, len(book) - 1
    while low < high:
        middle = (low + high) // 2
        if book[middle] + book[middle + 1] < 2 * value:
            low = middle + 1
        else:
            high = middle
    return low
