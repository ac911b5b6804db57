"""Which panels and columns of class values share a table: quickly, in bits that are estimated by entropies (FORMAT.md, section 5).

For what is coded once and large (`planes`); `tables` is slower and counts the bits of the very stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS
from . import tables
from .tables import Coding
from .top_counts import ClassValues

MANY = (2, 4, 8, 16)
"""Numbers of clusters that are tried; even, for two are looked at together."""

MOST = MANY[-1]
MOST_BESIDE_COLUMNS = 4
BLOCK = 512
"""Units that are looked at together: their costs stay in the first cache."""
ITERATIONS = 4
TABLE_BITS = 130.0
RARE_BITS = 16
PRIOR = 4.0
RARE = 2.0**-14
"""Classes with a smaller share of the values are not told apart while clusters are sought: a float's lowest octaves."""

LEARNED = 4096
"""Units from which clusters are learned, evenly spaced; all others are given to one of these."""


@numba.njit(cache=True, nogil=True)
def take_logarithms(values: NDArray) -> None:
    """Of float32 from 2^-16 to 1, to the base 2, in their place: off by 2e-5 at most, and a vector at a time.

    A value is 2^e (1 + m), and log2(1 + m) about m (1 + (1 - m) p(m)), which is exact at both ends of an octave; p was fitted by least squares.
    """
    bits = values.view(np.int32)
    for at in range(len(values)):
        m = np.float32(bits[at] & 0x7FFFFF) * np.float32(2.0**-23)
        p = np.float32(0.44183587) + m * (np.float32(-0.26653628) + m * (np.float32(0.14701877) + m * np.float32(-0.04424374)))
        values[at] = np.float32((bits[at] >> 23) - 127) + m * (np.float32(1) + (np.float32(1) - m) * p)


@numba.njit(cache=True, nogil=True)
def _lengths(sums: NDArray, prior: NDArray, lengths: NDArray) -> None:
    """Code lengths [classes, clusters] of clusters with counts [clusters, classes], to which those of a `prior` law are added."""
    shares = np.empty(len(prior), np.float32)
    for one in range(len(sums)):
        by = 1 / (sums[one].sum() + PRIOR)
        for c in range(len(prior)):
            shares[c] = max((sums[one, c] + prior[c]) * by, 2.0**-RARE_BITS)
        take_logarithms(shares)
        for c in range(len(prior)):
            lengths[c, one] = -shares[c]


@numba.njit(cache=True, nogil=True)
def _entropy(sums: NDArray) -> float:
    """Bits of what is counted in clusters [clusters, classes], each with its own law."""
    bits = 0.0
    for counts in sums:
        mass = counts.sum()
        for count in counts:
            if count > 0:
                bits -= count * np.log2(count / mass)
    return bits


@numba.njit(cache=True, nogil=True)
def _pooled(counts: NDArray) -> tuple[NDArray, float]:
    """(counts [units, classes] as float32, of which rare classes count as one, the first; the bits that tell these apart). Classes without counts fill up to a multiple of four."""
    total = np.zeros(counts.shape[1], np.int64)
    for unit in range(len(counts)):
        for c in range(len(total)):
            total[c] += counts[unit, c]
    rare = total < RARE * total.sum()
    kept = np.flatnonzero(~rare)
    together = total[rare].sum()
    first = 1 if together > 0 else 0
    pooled = np.zeros((len(counts), (first + len(kept) + 3) // 4 * 4), np.float32)
    lost = np.flatnonzero(rare & (total > 0))
    for unit in range(len(counts)):
        for at in range(len(kept)):
            pooled[unit, first + at] = counts[unit, kept[at]]
        for class_ in lost:
            pooled[unit, 0] += counts[unit, class_]
    return pooled, _entropy(total[lost].reshape(1, -1).astype(np.float64))


@numba.njit(cache=True, nogil=True)
def _add_unit(counts: NDArray, unit: int, by: float, sums: NDArray, one: int) -> None:
    """Adds the counts of a unit, times `by`, to those of a cluster. (Lines taken out of arrays would be counted as references, which costs more than this.)"""
    for c in range(counts.shape[1]):
        sums[one, c] += counts[unit, c] * by


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _add_four(turned: NDArray, lengths: NDArray, place: tuple[int, int, int], costs: NDArray, others: NDArray) -> None:
    """Adds what two clusters take for four classes to `costs` and `others`, [n]; `place`: the first class, cluster and unit."""
    c, one, first = place
    x, y, z, w = turned[c, first:], turned[c + 1, first:], turned[c + 2, first:], turned[c + 3, first:]
    p, q, r, s = lengths[c, one], lengths[c + 1, one], lengths[c + 2, one], lengths[c + 3, one]
    t, u, v, o = lengths[c, one + 1], lengths[c + 1, one + 1], lengths[c + 2, one + 1], lengths[c + 3, one + 1]
    for at in range(len(costs)):
        costs[at] += x[at] * p + y[at] * q + z[at] * r + w[at] * s
        others[at] += x[at] * t + y[at] * u + z[at] * v + w[at] * o


@numba.njit(cache=True, nogil=True)
def _take_less(costs: NDArray, others: NDArray, number: int, least: NDArray, best: NDArray) -> None:
    """Takes the cluster `number`, or the next, whose costs are `others`, where that costs less than the least."""
    first, second = np.float32(number), np.float32(number + 1)
    for at in range(len(least)):
        less = costs[at] < least[at]
        chosen, cost = first if less else best[at], costs[at] if less else least[at]
        less = others[at] < cost
        best[at], least[at] = second if less else chosen, others[at] if less else cost


@numba.njit(cache=True, nogil=True)
def _cheapest(turned: NDArray, first: int, lengths: NDArray, best: NDArray) -> None:
    """The clusters whose code lengths [classes, clusters] are best for the units from `first` on, of counts [classes, units], into `best` [n].

    Clusters go two at a time and classes by four, so that the costs are not loaded and stored for each.
    """
    costs, others, least = np.empty(len(best), np.float32), np.empty(len(best), np.float32), np.full(len(best), np.inf, np.float32)
    for one in range(0, lengths.shape[1], 2):
        costs[:], others[:] = 0, 0
        for c in range(0, len(turned), 4):
            _add_four(turned, lengths, (c, one, first), costs, others)
        _take_less(costs, others, one, least, best)


@numba.njit(cache=True, nogil=True)
def _move(counts: NDArray, turned: NDArray, lengths: NDArray, labels: NDArray, sums: NDArray) -> bool:
    """Moves each unit, with counts [units, classes], also `turned`, to its best cluster; whether one moved. `labels` and `sums` follow."""
    moved = False
    for first in range(0, len(counts), BLOCK):
        best = np.empty(min(BLOCK, len(counts) - first), np.float32)
        _cheapest(turned, first, lengths, best)
        for at in range(len(best)):
            unit, old, new = first + at, labels[first + at], np.uint8(best[at])
            if new != old:
                _add_unit(counts, unit, -1.0, sums, old)
                _add_unit(counts, unit, 1.0, sums, new)
                labels[unit], moved = new, True
    return moved


@numba.njit(cache=True, nogil=True)
def cluster(counts: NDArray, turned: NDArray, order: NDArray, labels: NDArray, lengths: NDArray) -> float:
    """Groups units, with counts [units, classes], also `turned`, into clusters of like law: `labels`, and `lengths` float32 [classes, clusters]; gives the bits of their symbols.

    Lloyd's iteration with bits as the distance, begun with the units in `order` cut into equal parts.
    """
    units, many = len(counts), lengths.shape[1]
    sums = np.zeros((many, counts.shape[1]))
    for place in range(units):
        labels[order[place]] = place * many // units
        _add_unit(counts, order[place], 1.0, sums, place * many // units)
    prior = sums.sum(0) * (PRIOR / sums.sum())
    for _ in range(ITERATIONS):
        _lengths(sums, prior, lengths)
        if not _move(counts, turned, lengths, labels, sums):
            break
    return _entropy(sums)


@numba.njit(cache=True, nogil=True)
def _means(turned: NDArray) -> NDArray:
    """The mean class of each unit, of counts [classes, units]."""
    totals, weighted = np.zeros(turned.shape[1]), np.zeros(turned.shape[1])
    for c in range(len(turned)):
        for unit in range(len(totals)):
            totals[unit] += turned[c, unit]
            weighted[unit] += turned[c, unit] * float(c)
    return weighted / np.maximum(totals, 1.0)


@numba.njit(cache=True, nogil=True)
def _grouped(counts: NDArray, table_bits: float, most: int, chosen: NDArray) -> tuple[float, int]:
    """(bits, how many clusters) of the cheapest clusters of counts [units, classes], at most `most`; their labels, numbered without gaps, into `chosen`.

    How many are cheapest is learned from some units, as the clusters are.
    """
    (used, rare_bits), units = _pooled(counts), len(counts)
    apart = (units - 1) // LEARNED + 1
    learned = used[::apart].copy()
    turned = learned.T.copy()
    order = np.argsort(_means(turned), kind="mergesort")
    labels, lengths = np.zeros(len(learned), np.uint8), np.zeros((used.shape[1], 2), np.float32)
    alone = _entropy(used.sum(0).reshape(1, -1)) + table_bits
    least = alone if apart == 1 else _entropy(learned.sum(0).reshape(1, -1)) * apart + table_bits
    found = 1
    for many in MANY:
        if many > min(most, units):
            break
        own = np.zeros((used.shape[1], many), np.float32)
        bits = cluster(learned, turned, order, labels, own) * apart + many * table_bits + units * np.log2(many)
        if bits < least:
            least, found, lengths = bits, many, own
            chosen[: len(labels)] = labels
    if found == 1:
        return alone + rare_bits, 1
    if apart > 1:
        least = _given(used, lengths, chosen) + found * table_bits + units * np.log2(found)
    return least + rare_bits, _without_gaps(chosen)


@numba.njit(cache=True, nogil=True)
def _given(counts: NDArray, lengths: NDArray, labels: NDArray) -> float:
    """Gives each unit to the cluster that is best by code lengths [classes, clusters]: `labels`; gives the bits of their symbols."""
    sums = np.zeros((lengths.shape[1], counts.shape[1]))
    labels[:], sums[0] = 0, counts.sum(0)
    _move(counts, counts.T.copy(), lengths, labels, sums)
    return _entropy(sums)


@numba.njit(cache=True, nogil=True)
def _without_gaps(labels: NDArray) -> int:
    """Numbers labels anew, those that there are; gives how many."""
    number = np.zeros(MOST, np.uint8)
    for label in labels:
        number[label] = 1
    found = number.sum()
    number[:] = np.cumsum(number) - 1
    for unit in range(len(labels)):
        labels[unit] = number[labels[unit]]
    return int(found)


def _classes(counts: NDArray, table_bits: float, most: int = MOST) -> tuple[float, NDArray[np.uint8] | None]:
    """(bits, the cheapest clusters of counts [units, classes]); None where one is cheapest."""
    labels = np.empty(len(counts), np.uint8)
    bits, many = _grouped(counts, table_bits, most, labels)
    return bits, labels if many > 1 else None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How class values may be coded: by classes of columns or of panels, units of `unit_rows` rows, with counts `cells` [row classes, column classes, values], in `bits`.

    `of_rows` and `of_columns` are the classes by themselves; panels have one where columns do not share the better tables.
    """

    values: ClassValues
    bits: float
    cells: NDArray
    unit_rows: int
    of_rows: NDArray[np.uint8] | None
    of_columns: NDArray[np.uint8] | None

    def coding(self) -> Coding:
        """The coding, with classes of panels beside those of columns where that pays: these are sought in what the columns' classes leave."""
        if self.of_columns is None or self.of_rows is None:
            return self._coding(self.cells, self.of_rows)
        cells = self.values.by_unit_and_class(self.unit_rows, self.of_columns)
        _, rows = _classes(cells.reshape(len(cells), -1), cells.shape[1] * TABLE_BITS, MOST_BESIDE_COLUMNS)
        return self._coding(self.cells if rows is None else self.values.spread(tables.gathered(cells, rows)), rows)

    def _coding(self, cells: NDArray, rows: NDArray[np.uint8] | None) -> Coding:
        return tables.coding(cells[:, :, None].astype(np.float64), rows, self.of_columns, self.values.low)


def plan_classes(values: ClassValues) -> Plan:
    """A cheap plan for class values, non-negative and below 2^11, without raw bits."""
    (batch, many, k), size = values.tops.shape, values.size
    many_columns = k > 1 and k * size <= tables.COUNTS * 16
    by_panel = batch * -(-many // PANEL_ROWS) * size <= tables.COUNTS * 16
    unit_rows = PANEL_ROWS if by_panel else many
    of_units, of_columns = values.by_unit_and_column(unit_rows) if many_columns else (values.by_unit_and_class(unit_rows, np.zeros(k, np.uint8))[:, 0], None)
    bits, rows = _classes(of_units, TABLE_BITS, MOST if by_panel else 1)
    less, columns = (bits, None) if of_columns is None else _classes(of_columns, TABLE_BITS)
    if of_columns is not None and columns is not None and less < bits:
        cells = values.spread(tables.gathered(of_columns, columns)[None])
        return Plan(values, tables.coding_bits(cells, None, columns), cells, unit_rows, rows, columns)
    cells = values.spread(of_units.sum(0)[None, None] if rows is None else tables.gathered(of_units, rows)[:, None])
    return Plan(values, tables.coding_bits(cells, rows, None), cells, unit_rows, rows, None)
