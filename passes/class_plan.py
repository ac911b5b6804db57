"""Which panels and columns of class values share a table: quickly, in bits that are estimated by entropies (FORMAT.md, section 5).

For what is coded once and large (`planes`); `tables` is slower and counts the bits of the very stream.
"""

from __future__ import annotations

from dataclasses import replace

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS
from . import tables
from .tables import Coding
from .top_counts import ClassValues, Map

MANY = (2, 4, 8, 16)
ITERATIONS = 4
TABLE_BITS = 130.0
RARE_BITS = 16.0
PRIOR = 4.0


@numba.njit(cache=True, nogil=True)
def _costs(sums: NDArray, total: NDArray, lengths: NDArray) -> float:
    """Code lengths [classes, clusters] of clusters with counts [clusters, classes], smoothed by the law of all; gives the entropy of the counts in bits."""
    everything, bits = total.sum(), 0.0
    for one in range(len(sums)):
        mass = sums[one].sum()
        for c in range(len(total)):
            share = (sums[one, c] + PRIOR * total[c] / everything) / (mass + PRIOR)
            lengths[c, one] = min(RARE_BITS, -np.log2(max(share, 1e-9)))
            if sums[one, c] > 0:
                bits -= sums[one, c] * np.log2(sums[one, c] / mass)
    return bits


@numba.njit(cache=True, nogil=True)
def _cheapest(counts: NDArray, lengths: NDArray, costs: NDArray) -> int:
    """The cluster whose code lengths [classes, clusters] are best for these counts."""
    costs[:] = 0
    for c in range(len(counts)):
        if counts[c] > 0:
            for one in range(len(costs)):
                costs[one] += counts[c] * lengths[c, one]
    best = 0
    for one in range(1, len(costs)):
        best = one if costs[one] < costs[best] else best
    return best


@numba.njit(cache=True, nogil=True)
def cluster(counts: NDArray, order: NDArray, many: int, labels: NDArray) -> float:
    """Groups units, with counts [units, classes], into `many` clusters of like law: `labels`; gives the bits of their symbols.

    Lloyd's iteration with bits as the distance, begun with the units in `order` cut into equal parts.
    """
    units, classes = counts.shape
    for place in range(units):
        labels[order[place]] = place * many // units
    total, sums, lengths, costs = np.zeros(classes), np.zeros((many, classes)), np.zeros((classes, many)), np.zeros(many)
    for unit in range(units):
        for c in range(classes):
            total[c] += counts[unit, c]
    bits = 0.0
    for iteration in range(ITERATIONS + 1):
        sums[:] = 0
        for unit in range(units):
            own = sums[labels[unit]]
            for c in range(classes):
                own[c] += counts[unit, c]
        bits = _costs(sums, total, lengths)
        if iteration == ITERATIONS or many == 1:
            break
        moved = False
        for unit in range(units):
            best = _cheapest(counts[unit], lengths, costs)
            moved |= best != labels[unit]
            labels[unit] = best
        if not moved:
            break
    return bits


def _grouped(counts: NDArray[np.float64], table_bits: float, most: int = 16) -> tuple[float, NDArray[np.uint8] | None]:
    """(bits, the cheapest clusters of counts [units, classes], numbered without gaps); None where one is cheapest."""
    used = np.ascontiguousarray(counts[:, counts.any(axis=0)])
    ranks = np.arange(used.shape[1])
    order = np.argsort((used * ranks).sum(1) / np.maximum(used.sum(1), 1), kind="stable")
    labels = np.zeros(len(used), np.uint8)
    best, chosen = cluster(used, order, 1, labels) + table_bits, None
    for many in (one for one in MANY if one <= min(most, len(used))):
        labels = np.zeros(len(used), np.uint8)
        bits = cluster(used, order, many, labels) + many * table_bits + len(used) * np.log2(many)
        if bits < best:
            best, chosen = bits, np.unique(labels, return_inverse=True)[1].astype(np.uint8)
    return best, chosen if chosen is not None and chosen.any() else None


def plan_classes(classes: NDArray, work: Map = map) -> Coding:
    """A cheap coding of class values [batch, rows, k], non-negative and below 2^11, without raw bits: by classes of panels and of columns."""
    low, size = int(classes.min()), int(classes.max()) - int(classes.min()) + 1
    values = ClassValues(classes, low, size, work)
    many_columns = classes.shape[2] > 1 and classes.shape[2] * size <= tables.COUNTS * 16
    by_panel = classes.shape[0] * -(-classes.shape[1] // PANEL_ROWS) * size <= tables.COUNTS * 16
    unit_rows = PANEL_ROWS if by_panel else classes.shape[1]
    of_units, of_columns = values.by_unit_and_column(unit_rows) if many_columns else (values.by_unit_and_class(unit_rows, np.zeros(classes.shape[2], np.uint8))[:, 0], None)
    bits, rows = _grouped(of_units, TABLE_BITS, 16 if by_panel else 1)
    best, columns, cells = bits, None, of_units[:, None]
    if of_columns is not None:
        bits, found = _grouped(of_columns, TABLE_BITS)
        if found is not None:
            many, joint = int(found.max()) + 1, values.by_unit_and_class(unit_rows, found)
            codes = len(found) * np.log2(many)
            joint_bits, joint_rows = _grouped(joint.reshape(len(joint), -1), many * TABLE_BITS, 4 if by_panel else 1)
            joint_bits = min(bits, joint_bits + codes) if joint_rows is not None else bits
            if joint_bits < best:
                best, rows, columns, cells = joint_bits, joint_rows, found, joint
    cells = cells[:, :, None]
    coded = tables.coding(cells.sum(0)[None] if rows is None else tables.gathered(cells, rows), rows, columns)
    return replace(coded, escape_base=low, tables=tuple(replace(table, first=table.first + low) for table in coded.tables))
