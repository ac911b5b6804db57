"""Counts of levels and of their classes, for the choice of tables (`tables`)."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

NO_QUANTIZERS = np.zeros((1, 1, 1), np.uint8)
"""Stands for the quantizers of levels that have but one."""


@numba.njit(cache=True, nogil=True)
def _count(levels: NDArray, quantizers: NDArray, column_class: NDArray, origin: tuple[int, int, int], counts: NDArray) -> None:
    """Adds the class values of levels [batch, rows, k] to counts [units, column classes, quantizers, classes].

    `origin`: (lowest level, which counts as class 0; raw bits; rows a unit has at most, within its batch).
    """
    low, raw, unit_rows = origin
    half = (1 << raw) >> 1
    base = (low + half) >> raw
    batch, rows, k = levels.shape
    units, two = (rows + unit_rows - 1) // unit_rows, counts.shape[2] == 2
    for b in range(batch):
        for row in range(rows):
            target = counts[b * units + row // unit_rows]
            if two:
                for column in range(k):
                    value = ((levels[b, row, column] + half) >> raw) - base
                    target[column_class[column], quantizers[b, row, column], value] += 1
            elif counts.shape[1] > 1:
                for column in range(k):
                    target[column_class[column], 0, ((levels[b, row, column] + half) >> raw) - base] += 1
            else:
                plain = target[0, 0]
                for column in range(k):
                    plain[((levels[b, row, column] + half) >> raw) - base] += 1


@numba.njit(cache=True, nogil=True)
def _count_columns(levels: NDArray, quantizers: NDArray, low: int, raw: int, counts: NDArray) -> None:
    """Adds the class values of levels [batch, rows, k] to counts [k, quantizers, classes]; class 0 is that of level `low`."""
    half = (1 << raw) >> 1
    base = (low + half) >> raw
    batch, rows, k = levels.shape
    two = counts.shape[1] == 2
    for b in range(batch):
        for row in range(rows):
            for column in range(k):
                value = ((levels[b, row, column] + half) >> raw) - base
                counts[column, quantizers[b, row, column] if two else 0, value] += 1


def by_unit(levels: NDArray[np.int32], quantizers: NDArray[np.uint8] | None, low: int, raw: int, unit_rows: int, classes: int,
            columns: NDArray[np.uint8] | None = None) -> NDArray[np.float64]:  # fmt: skip
    """Counts [units, column classes, quantizers, classes] of levels [batch, rows, k]; a unit has `unit_rows` rows of one batch (64: panels)."""
    batch, rows, k = levels.shape
    column_class = np.zeros(k, np.uint8) if columns is None else columns
    shape = (batch * -(-rows // unit_rows), int(column_class.max(initial=0)) + 1, 1 if quantizers is None else 2, classes)
    counts = np.zeros(shape, np.int32 if levels.size < 1 << 31 else np.int64)
    _count(levels, NO_QUANTIZERS if quantizers is None else quantizers, column_class, (low, raw, unit_rows), counts)
    return counts.astype(np.float64)


def by_column(levels: NDArray[np.int32], quantizers: NDArray[np.uint8] | None, low: int, raw: int, classes: int) -> NDArray[np.float64]:
    """Counts [k, quantizers, classes] of levels [batch, rows, k]."""
    counts = np.zeros((levels.shape[2], 1 if quantizers is None else 2, classes), np.int32)
    _count_columns(levels, NO_QUANTIZERS if quantizers is None else quantizers, low, raw, counts)
    return counts.astype(np.float64)


def histogram(levels: NDArray[np.int32], quantizers: NDArray[np.uint8] | None = None) -> tuple[NDArray[np.float64], int]:
    """(counts of low, low + 1, ..., low) of levels of any shape; counts [2, n] of levels with quantizers."""
    low = int(levels.min())
    flat = None if quantizers is None else quantizers.reshape(1, 1, -1)
    counts = by_unit(levels.reshape(1, 1, -1), flat, low, 0, 1, int(levels.max()) - low + 1)[0, 0]
    return (counts[0] if quantizers is None else counts), low


def class_count(low: int, high: int, raw: int) -> int:
    """How many classes the levels low..high have with `raw` raw bits."""
    half = (1 << raw) >> 1
    return ((high + half) >> raw) - ((low + half) >> raw) + 1


def fold(counts: NDArray[np.float64], low: int, raw: int) -> NDArray[np.float64]:
    """Counts by class from counts by level low, low + 1, ..., along the last axis."""
    if raw == 0:
        return counts
    half = (1 << raw) >> 1
    starts = np.flatnonzero(np.diff((low + half + np.arange(counts.shape[-1])) >> raw, prepend=((low + half) >> raw) - 1))
    return np.add.reduceat(counts, starts, axis=-1)


