"""Which panels and columns of class values share a table: quickly, in bits that are estimated by entropies (FORMAT.md, section 5).

For what is coded once and large (`planes`); `tables` is slower and counts the bits of the very stream.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS
from . import tables
from .tables import Coding
from .top_counts import ClassValues, Map

MANY = (2, 4, 8, 16)
MOST = MANY[-1]
BLOCK = 512
"""Units that are looked at together: their costs stay in the first cache."""
ITERATIONS = 4
TABLE_BITS = 130.0
RARE_BITS = 16.0
PRIOR = 4.0


@numba.njit(cache=True, nogil=True)
def _lengths(sums: NDArray, total: NDArray, lengths: NDArray) -> None:
    """Code lengths [classes, clusters] of clusters with counts [clusters, classes], smoothed by the law of all."""
    everything = total.sum()
    for one in range(len(sums)):
        mass = sums[one].sum()
        for c in range(len(total)):
            share = (sums[one, c] + PRIOR * total[c] / everything) / (mass + PRIOR)
            lengths[c, one] = min(RARE_BITS, -np.log2(max(share, 1e-9)))


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
def _used(counts: NDArray) -> NDArray:
    """Counts [units, classes] as float64, of classes that there are."""
    seen = np.zeros(counts.shape[1], np.int64)
    for of_unit in counts:
        for c in range(len(of_unit)):
            seen[c] |= of_unit[c]
    kept = np.flatnonzero(seen)
    used = np.empty((len(counts), len(kept)))
    for unit in range(len(counts)):
        for at in range(len(kept)):
            used[unit, at] = counts[unit, kept[at]]
    return used


@numba.njit(cache=True, nogil=True)
def _add_scaled(values: NDArray, by: float, sums: NDArray) -> None:
    for at in range(len(sums)):
        sums[at] += values[at] * by


@numba.njit(cache=True, nogil=True)
def _add_four(values: NDArray, by: NDArray, first: int, sums: NDArray) -> None:
    """The same with four lines of values [4, ...] from `first` on, one after the other, in one pass."""
    a, b, c, d = values[0, first:], values[1, first:], values[2, first:], values[3, first:]
    for at in range(len(sums)):
        sums[at] = (((sums[at] + a[at] * by[0]) + b[at] * by[1]) + c[at] * by[2]) + d[at] * by[3]


@numba.njit(cache=True, nogil=True)
def _take_less(costs: NDArray, number: int, least: NDArray, best: NDArray) -> None:
    for at in range(len(least)):
        less = costs[at] < least[at]
        best[at] = np.float64(number) if less else best[at]
        least[at] = costs[at] if less else least[at]


@numba.njit(cache=True, nogil=True)
def _cheapest(counts: NDArray, first: int, lengths: NDArray, costs: NDArray, best: NDArray) -> None:
    """The clusters whose code lengths [classes, clusters] are best for the units from `first` on, into `best` [n]; `costs` [2, n] is written to."""
    for one in range(lengths.shape[1]):
        costs[0] = 0
        fours = len(counts) // 4 * 4
        for c in range(0, fours, 4):
            _add_four(counts[c : c + 4], lengths[c : c + 4, one], first, costs[0])
        for c in range(fours, len(counts)):
            _add_scaled(counts[c, first : first + len(best)], lengths[c, one], costs[0])
        if one == 0:
            best[:] = 0
            costs[1] = costs[0]
        _take_less(costs[0], one, costs[1], best)


@numba.njit(cache=True, nogil=True)
def cluster(counts: NDArray, turned: NDArray, order: NDArray, many: int, labels: NDArray) -> float:
    """Groups units, with counts [units, classes], also `turned`, into `many` clusters of like law: `labels`; gives the bits of their symbols.

    Lloyd's iteration with bits as the distance, begun with the units in `order` cut into equal parts.
    """
    units, classes = counts.shape
    sums, lengths = np.zeros((many, classes)), np.zeros((classes, many))
    for place in range(units):
        labels[order[place]] = place * many // units
        _add_scaled(counts[order[place]], 1.0, sums[labels[order[place]]])
    total = sums.sum(0)
    for _ in range(ITERATIONS if many > 1 else 0):
        _lengths(sums, total, lengths)
        moved = False
        for first in range(0, units, BLOCK):
            best = np.empty(min(BLOCK, units - first))
            _cheapest(turned, first, lengths, np.empty((2, len(best))), best)
            for at in range(len(best)):
                unit, old, new = first + at, labels[first + at], np.int64(best[at])
                if new != old:
                    _add_scaled(counts[unit], -1.0, sums[old])
                    _add_scaled(counts[unit], 1.0, sums[new])
                    labels[unit], moved = new, True
        if not moved:
            break
    return _entropy(sums)


@numba.njit(cache=True, nogil=True)
def _means(turned: NDArray) -> NDArray:
    """The mean class of each unit, of counts [classes, units]."""
    totals, weighted = np.zeros(turned.shape[1]), np.zeros(turned.shape[1])
    for c in range(len(turned)):
        _add_scaled(turned[c], 1.0, totals)
        _add_scaled(turned[c], float(c), weighted)
    return weighted / np.maximum(totals, 1.0)


@numba.njit(cache=True, nogil=True)
def _grouped(counts: NDArray, table_bits: float, most: int, chosen: NDArray) -> tuple[float, int]:
    """(bits, how many clusters) of the cheapest clusters of counts [units, classes], at most `most`; their labels, numbered without gaps, into `chosen`."""
    units, used = len(counts), _used(counts)
    turned = used.T.copy()
    order = np.argsort(_means(turned), kind="mergesort")
    labels, number = np.zeros(units, np.uint8), np.zeros(MOST, np.uint8)
    best, found = cluster(used, turned, order, 1, labels) + table_bits, 1
    for many in MANY:
        if many > min(most, units):
            break
        bits = cluster(used, turned, order, many, labels) + many * table_bits + units * np.log2(many)
        if bits < best:
            number[:] = 0
            for label in labels:
                number[label] = 1
            found = number.sum()
            number[:] = np.cumsum(number) - 1
            for unit in range(units):
                chosen[unit] = number[labels[unit]]
            best = bits
    return best, found


def _classes(counts: NDArray, table_bits: float, most: int = MOST) -> tuple[float, NDArray[np.uint8] | None]:
    """(bits, the cheapest clusters of counts [units, classes]); None where one is cheapest."""
    labels = np.empty(len(counts), np.uint8)
    bits, many = _grouped(counts, table_bits, most, labels)
    return bits, labels if many > 1 else None


def plan_classes(classes: NDArray, work: Map = map) -> Coding:
    """A cheap coding of class values [batch, rows, k], non-negative and below 2^11, without raw bits: by classes of panels and of columns."""
    low, size = int(classes.min()), int(classes.max()) - int(classes.min()) + 1
    values = ClassValues(classes, low, size, work)
    many_columns = classes.shape[2] > 1 and classes.shape[2] * size <= tables.COUNTS * 16
    by_panel = classes.shape[0] * -(-classes.shape[1] // PANEL_ROWS) * size <= tables.COUNTS * 16
    unit_rows = PANEL_ROWS if by_panel else classes.shape[1]
    of_units, of_columns = values.by_unit_and_column(unit_rows) if many_columns else (values.by_unit_and_class(unit_rows, np.zeros(classes.shape[2], np.uint8))[:, 0], None)
    bits, rows = _classes(of_units, TABLE_BITS, 16 if by_panel else 1)
    best, columns, cells = bits, None, of_units[:, None]
    if of_columns is not None:
        bits, found = _classes(of_columns, TABLE_BITS)
        if found is not None:
            many, joint = int(found.max()) + 1, values.by_unit_and_class(unit_rows, found)
            codes = len(found) * np.log2(many)
            joint_bits, joint_rows = _classes(joint.reshape(len(joint), -1), many * TABLE_BITS, 4 if by_panel else 1)
            joint_bits = min(bits, joint_bits + codes) if joint_rows is not None else bits
            if joint_bits < best:
                best, rows, columns, cells = joint_bits, joint_rows, found, joint
    cells = cells[:, :, None].astype(np.float64)
    return tables.coding(cells.sum(0)[None] if rows is None else tables.gathered(cells, rows), rows, columns, low)
