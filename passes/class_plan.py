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
from .histograms import by_column, by_unit
from .tables import Coding

MANY = (2, 4, 8, 16)
ITERATIONS = 4
TABLE_BITS = 130.0
RARE_BITS = 16.0
PRIOR = 4.0


@numba.njit(cache=True, nogil=True)
def _costs(sums: NDArray, total: NDArray, lengths: NDArray) -> float:
    """Code lengths [clusters, classes] of clusters with these counts, smoothed by the law of all; gives the entropy of the counts in bits."""
    everything, bits = total.sum(), 0.0
    for one in range(len(sums)):
        mass = sums[one].sum()
        for c in range(len(total)):
            share = (sums[one, c] + PRIOR * total[c] / everything) / (mass + PRIOR)
            lengths[one, c] = min(RARE_BITS, -np.log2(max(share, 1e-9)))
            if sums[one, c] > 0:
                bits -= sums[one, c] * np.log2(sums[one, c] / mass)
    return bits


@numba.njit(cache=True, nogil=True)
def cluster(counts: NDArray, order: NDArray, many: int, labels: NDArray) -> float:
    """Groups units, with counts [units, classes], into `many` clusters of like law: `labels`; gives the bits of their symbols.

    Lloyd's iteration with bits as the distance, begun with the units in `order` cut into equal parts.
    """
    units, classes = counts.shape
    for place in range(units):
        labels[order[place]] = place * many // units
    total = np.zeros(classes)
    for unit in range(units):
        for c in range(classes):
            total[c] += counts[unit, c]
    sums, lengths, bits = np.zeros((many, classes)), np.zeros((many, classes)), 0.0
    for iteration in range(ITERATIONS + 1):
        sums[:] = 0
        for unit in range(units):
            for c in range(classes):
                sums[labels[unit], c] += counts[unit, c]
        bits = _costs(sums, total, lengths)
        if iteration == ITERATIONS:
            break
        for unit in range(units):
            best, at = np.inf, 0
            for one in range(many):
                cost = 0.0
                for c in range(classes):
                    cost += counts[unit, c] * lengths[one, c]
                if cost < best:
                    best, at = cost, one
            labels[unit] = at
    return bits


def _grouped(counts: NDArray[np.float64], most: int = 16) -> NDArray[np.uint8] | None:
    """The cheapest clusters of counts [units, classes], numbered without gaps; None where one is cheapest."""
    used = np.ascontiguousarray(counts[:, counts.any(axis=0)])
    ranks = np.arange(used.shape[1])
    order = np.argsort((used * ranks).sum(1) / np.maximum(used.sum(1), 1), kind="stable")
    labels = np.zeros(len(used), np.uint8)
    best, chosen = cluster(used, order, 1, labels) + TABLE_BITS, None
    for many in (one for one in MANY if one <= min(most, len(used))):
        labels = np.zeros(len(used), np.uint8)
        bits = cluster(used, order, many, labels) + many * TABLE_BITS + len(used) * np.log2(many)
        if bits < best:
            best, chosen = bits, np.unique(labels, return_inverse=True)[1].astype(np.uint8)
    return chosen if chosen is not None and chosen.any() else None


def plan_classes(classes: NDArray) -> Coding:
    """A cheap coding of class values [batch, rows, k], non-negative and below 2^11, without raw bits: by classes of panels and of columns."""
    low, size = int(classes.min()), int(classes.max()) - int(classes.min()) + 1
    many_columns = classes.shape[2] > 1 and classes.shape[2] * size <= tables.COUNTS * 16
    units = classes.shape[0] * -(-classes.shape[1] // PANEL_ROWS)
    unit_rows = PANEL_ROWS if units * size <= tables.COUNTS * 16 else classes.shape[1]
    plain = by_unit(classes, None, low, 0, unit_rows, size)
    choices = [tables.coding(plain.sum(0)[None], None, None)]
    if unit_rows == PANEL_ROWS and (rows := _grouped(plain[:, 0, 0])) is not None:
        choices.append(tables.coding(tables.gathered(plain, rows), rows, None))
    if many_columns and (columns := _grouped(by_column(classes, None, low, 0, size)[:, 0])) is not None:
        joint = by_unit(classes, None, low, 0, unit_rows, size, columns)
        choices.append(tables.coding(joint.sum(0)[None], None, columns))
        if unit_rows == PANEL_ROWS and (rows := _grouped(joint.reshape(len(joint), -1), 4)) is not None:
            choices.append(tables.coding(tables.gathered(joint, rows), rows, columns))
    best = min(choices, key=lambda one: one.bits)
    return replace(best, escape_base=low, tables=tuple(replace(table, first=table.first + low) for table in best.tables))
