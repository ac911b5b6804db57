"""The choice of tables: which classes, how many raw bits, which panels or weights share a table (FORMAT.md, section 3).

A table costs bytes, a bad table costs more: everything here is counted in bits of the very stream that is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, PROBABILITY_ONE, Table

MAX_CLASSES = 16
MAX_TABLES = 256
BITS_OF = np.concatenate([[np.inf], -np.log2(np.arange(1, PROBABILITY_ONE + 1) / PROBABILITY_ONE)])
"""Bits of a symbol whose frequency is the index."""


@numba.njit(cache=True, nogil=True)
def normalize(counts: NDArray, frequencies: NDArray) -> float:  # noqa: PLR0912  (one loop nest, for numba)
    """Frequencies with sum 256 for `counts` [n], each count > 0 getting at least 1: nearly minimal bits, which are returned.

    Starts from the rounded-down shares and gives each remaining unit to the class that gains most bits by it.
    """
    total, used = 0.0, 0
    for count in counts:
        total += count
    if total == 0:
        frequencies[:] = 0
        frequencies[-1] = 256
        return 0.0
    for i in range(len(counts)):
        frequencies[i] = 0 if counts[i] == 0 else max(1, int(counts[i] * 256.0 / total))
        used += frequencies[i]
    while used > 256:
        worst, loss = -1, np.inf
        for i in range(len(counts)):
            if frequencies[i] > 1:
                delta = counts[i] * np.log2(frequencies[i] / (frequencies[i] - 1.0))
                if delta < loss:
                    worst, loss = i, delta
        frequencies[worst] -= 1
        used -= 1
    while used < 256:
        best, gain = -1, -1.0
        for i in range(len(counts)):
            if counts[i] > 0:
                delta = counts[i] * np.log2((frequencies[i] + 1.0) / frequencies[i])
                if delta > gain:
                    best, gain = i, delta
        frequencies[best] += 1
        used += 1
    bits = 0.0
    for i in range(len(counts)):
        if counts[i] > 0:
            bits -= counts[i] * np.log2(frequencies[i] / 256.0)
    return bits


ESCAPE_BITS = 8.0


@numba.njit(cache=True, nogil=True)
def _fit(histogram: NDArray, best: NDArray) -> tuple[float, int, int, bool]:
    """The cheapest table for a histogram of class values: (bits with table and escapes, first index, classes, escape); frequencies into `best`.

    Windows of every size around the heaviest stretch compete; the rest of the values escapes.
    """
    low, high, total = 0, len(histogram), 0.0
    while high > 1 and histogram[high - 1] == 0:
        high -= 1
    while low < high - 1 and histogram[low] == 0:
        low += 1
    for i in range(low, high):
        total += histogram[i]
    cheapest, first, classes, escape = np.inf, low, 1, False
    counts, frequencies = np.zeros(16), np.zeros(16, np.int64)
    if high - low <= 16:
        n = high - low
        counts[:n] = histogram[low:high]
        bits = normalize(counts[:n], frequencies[:n]) + 8 * (n + 1)
        cheapest, first, classes = bits, low, n
        best[:n] = frequencies[:n]
    for n in range(min(15, high - low - 1), 0, -1):
        start, mass = _heaviest(histogram, low, high, n)
        if total - mass > 0.25 * total and n < 15 and cheapest < np.inf:
            break
        counts[:n] = histogram[start : start + n]
        counts[n] = total - mass
        if total > mass:
            bits = normalize(counts[: n + 1], frequencies[: n + 1]) + 8 * (n + 2) + 8.0 * (total - mass)
            if bits < cheapest:
                cheapest, first, classes, escape = bits, start, n + 1, True
                best[: n + 1] = frequencies[: n + 1]
    return cheapest, first, classes, escape


@numba.njit(cache=True, nogil=True)
def _heaviest(histogram: NDArray, low: int, high: int, width: int) -> tuple[int, float]:
    """The window of `width` values with the largest mass: (start, mass)."""
    mass = 0.0
    for i in range(low, low + width):
        mass += histogram[i]
    start, best = low, mass
    for i in range(low + 1, high - width + 1):
        mass += histogram[i + width - 1] - histogram[i - 1]
        if mass > best:
            start, best = i, mass
    return start, best


def fit_table(histogram: NDArray[np.float64], low: int) -> tuple[float, Table]:
    """The cheapest table for a histogram of class values `low, low + 1, ...`: (bits of table, symbols and escapes; table)."""
    frequencies = np.zeros(MAX_CLASSES, np.int64)
    bits, first, classes, escape = _fit(np.asarray(histogram, np.float64), frequencies)
    return float(bits), Table(low + int(first), tuple(int(f) for f in frequencies[:classes]), bool(escape))


@numba.njit(cache=True, nogil=True)
def _rate(histogram: NDArray, low: int, scratch: NDArray) -> tuple[float, int]:
    """Bits of the cheapest (raw bits, table) for a histogram of levels `low, low + 1, ...`, and the raw bits."""
    best, best_raw, total = np.inf, 0, 0.0
    for count in histogram:
        total += count
    for raw in range(9):
        half = (1 << raw) >> 1
        base = (low + half) >> raw
        size = ((low + len(histogram) - 1 + half) >> raw) - base + 1
        if size > 256 or base < -32768 or base + size > 32768:  # an escape's byte, and the range of a table's first class
            continue
        classes = np.zeros(size)
        for i in range(len(histogram)):
            classes[((low + i + half) >> raw) - base] += histogram[i]
        bits = _fit(classes, scratch)[0] + raw * total
        if bits < best:
            best, best_raw = bits, raw
    return best, best_raw


def rate(histogram: NDArray[np.float64], low: int) -> tuple[float, int]:
    """(bits, raw bits) of the cheapest coding of a histogram of levels with one table, the table included; infinite beyond 16-bit levels."""
    bits, raw = _rate(np.asarray(histogram, np.float64), low, np.zeros(MAX_CLASSES, np.int64))
    return float(bits), int(raw)


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """How the levels of one weight are coded: `tables`, and which of them each row class uses."""

    raw_bits: int
    escape_base: int
    tables: tuple[Table, ...]
    row_class: NDArray[np.uint8] | None
    bits: float


@numba.njit(cache=True, nogil=True)
def _panel_histograms(levels: NDArray, low: int, raw: int, histograms: NDArray) -> None:
    """Adds the class values of levels [batch, rows, k] to histograms [panels, classes]; class 0 is that of level `low`."""
    half = (1 << raw) >> 1
    base = (low + half) >> raw
    batch, rows, k = levels.shape
    panels = (rows + PANEL_ROWS - 1) // PANEL_ROWS
    for b in range(batch):
        for row in range(rows):
            target = histograms[b * panels + row // PANEL_ROWS]
            for column in range(k):
                target[((levels[b, row, column] + half) >> raw) - base] += 1


def histogram(levels: NDArray[np.int32]) -> tuple[NDArray[np.float64], int]:
    """(counts of low, low + 1, ..., low) of levels of any shape."""
    low = int(levels.min())
    counts = np.zeros((1, int(levels.max()) - low + 1))
    _panel_histograms(levels.reshape(1, 1, -1), low, 0, counts)
    return counts[0], low


def plan(levels: NDArray[np.int32], row_classes: tuple[int, ...] = (1, 2, 4, 8)) -> Coding | None:
    """The cheapest coding of levels [batch, rows, k]; None where they do not fit into 16 bits.

    Raw bits are chosen with one table; then panels are grouped into row classes with a table each, as many as pay.
    """
    counts, low = histogram(levels)
    bits, raw = rate(counts, low)
    if not np.isfinite(bits):
        return None
    half = (1 << raw) >> 1
    base, high = (low + half) >> raw, (low + len(counts) - 1 + half) >> raw
    panels = levels.shape[0] * -(-levels.shape[1] // PANEL_ROWS)
    histograms = np.zeros((panels, high - base + 1))
    _panel_histograms(levels, low, raw, histograms)
    raw_total = float(raw) * levels.size
    plans = [_with_classes(histograms, base, many) for many in row_classes if many <= panels]
    cost, tables, classes = min(plans, key=lambda found: found[0])
    return Coding(raw, base, tables, classes, cost + raw_total)


def plan_histograms(histograms: NDArray[np.float64], low: int, row_classes: tuple[int, ...] = (1, 2, 4)) -> float:
    """Bits of the cheapest coding of levels that are known by their histograms, [panels, levels low, low + 1, ...]; as `plan`."""
    bits, raw = rate(histograms.sum(0), low)
    if not np.isfinite(bits):
        return bits
    half = (1 << raw) >> 1
    classes = ((low + half + np.arange(histograms.shape[1])) >> raw) - ((low + half) >> raw)
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    grouped = np.add.reduceat(histograms, starts, axis=1)
    plans = [_with_classes(grouped, (low + half) >> raw, many) for many in row_classes if many <= len(histograms)]
    return min(cost for cost, _, _ in plans) + raw * float(histograms.sum())


def _with_classes(histograms: NDArray[np.float64], base: int, many: int) -> tuple[float, tuple[Table, ...], NDArray[np.uint8] | None]:
    """Groups panels into `many` classes: Lloyd's iteration with bits as the distance, begun with the panels sorted by spread."""
    if many == 1:
        bits, table = fit_table(histograms.sum(0), base)
        return bits, (table,), None
    centre = np.arange(histograms.shape[1]) - histograms.shape[1] / 2
    spread = (histograms * centre**2).sum(1) / histograms.sum(1)
    classes = (np.argsort(np.argsort(spread, kind="stable"), kind="stable") * many // len(spread)).astype(np.uint8)
    for _ in range(4):
        tables = [fit_table(histograms[classes == c].sum(0), base)[1] for c in range(int(classes.max()) + 1)]
        costs = np.stack([_panel_costs(table, histograms, base) for table in tables])
        classes = np.unique(costs.argmin(0), return_inverse=True)[1].astype(np.uint8)
    fitted = [fit_table(histograms[classes == c].sum(0), base) for c in range(int(classes.max()) + 1)]
    if len(fitted) == 1:
        return fitted[0][0], (fitted[0][1],), None
    return sum(bits for bits, _ in fitted) + 8.0 * (len(classes) + len(fitted)), tuple(table for _, table in fitted), classes


def _class_costs(table: Table, size: int, low: int) -> NDArray[np.float64]:
    """Bits of the class values low..low + size - 1 under a table; infinite where it cannot code one."""
    costs = np.full(size, BITS_OF[table.frequencies[-1]] + ESCAPE_BITS if table.escape else np.inf)
    plain = table.frequencies[: len(table.frequencies) - table.escape]
    for value, frequency in enumerate(plain, table.first - low):
        if frequency and 0 <= value < size:
            costs[value] = BITS_OF[frequency]
    return costs


def _panel_costs(table: Table, histograms: NDArray[np.float64], low: int) -> NDArray[np.float64]:
    """Bits of each panel's class values under a table."""
    costs = _class_costs(table, histograms.shape[1], low)
    return np.where(histograms > 0, histograms * np.where(np.isinf(costs), 1e9, costs), 0.0).sum(1)


def share(codings: list[tuple[NDArray[np.float64], int, int]]) -> tuple[tuple[Table, ...], list[int]]:
    """Tables for the members of a pool, given as (class histogram, first class value, raw bits): greedy merging while bits fall.

    Members may share a table whatever their raw bits: a table speaks of classes. Returns the tables and the table of each member.
    """
    low = min(first for _, first, _ in codings)
    size = max(first + len(counts) for counts, first, _ in codings) - low
    groups = []
    for number, (counts, first, _) in enumerate(codings):
        padded = np.zeros(size)
        padded[first - low : first - low + len(counts)] = counts
        groups.append((fit_table(padded, low)[0], padded, [number]))
    gains = {(i, j): _merge_gain(groups[i], groups[j], low) for j in range(len(groups)) for i in range(j)}
    alive = set(range(len(groups)))
    while gains and (max(gains.values()) > 0 or len(alive) > MAX_TABLES):
        i, j = max(gains, key=lambda pair: (gains[pair], pair))
        merged = groups[i][1] + groups[j][1]
        groups.append((fit_table(merged, low)[0], merged, groups[i][2] + groups[j][2]))
        alive -= {i, j}
        gains = {pair: gain for pair, gain in gains.items() if not {i, j} & set(pair)}
        gains |= {(other, len(groups) - 1): _merge_gain(groups[other], groups[-1], low) for other in sorted(alive)}
        alive.add(len(groups) - 1)
    tables: list[Table] = []
    owner = [0] * len(codings)
    for group in sorted(alive):
        for member in groups[group][2]:
            owner[member] = len(tables)
        tables.append(fit_table(groups[group][1], low)[1])
    return tuple(tables), owner


def _merge_gain(a: tuple[float, NDArray, list[int]], b: tuple[float, NDArray, list[int]], low: int) -> float:
    """Bits saved when two groups share one table."""
    return a[0] + b[0] - fit_table(a[1] + b[1], low)[0]
