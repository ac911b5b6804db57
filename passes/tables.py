"""The choice of tables: which rows, columns, quantizers or weights share one (FORMAT.md, sections 3 and 5).

A table costs bytes, a bad table costs more: everything here is counted in bits of the very stream that is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, Table
from ..runtime.members import class_bits
from .frequencies import fit_bits, fit_table, fit_tables, normalize, rate
from .histograms import by_column, by_unit, class_count, fold, histogram

__all__ = ["Coding", "fit_table", "histogram", "normalize", "plan", "rate", "share"]

MAX_TABLES = 256
ROW_CLASSES = (1, 2, 4, 8)
COLUMN_CLASSES = (2, 4)
ITERATIONS = 6

WIDEST = 1 << 17
"""Levels that span more do not fit into 16 bits, wherever they lie."""

COUNTS = 1 << 20
"""Counts of levels by panel are made in one pass up to this many; counts of classes by column up to 16 times as many."""

PRIOR = 4.0
"""Pseudo-counts of the whole weight's law in each class: what a class has not seen yet costs bits, not infinitely many."""

RARE_BITS = 16.0
"""What a class value that a table does not know costs about: an escape."""


@dataclass(frozen=True, slots=True, eq=False)
class Coding:
    """How the levels of one weight are coded, and the `bits` of that: symbols, tables, map and classes.

    Table `tables[map[row class, column class, quantizer]]` codes `counts[number]` class values escape_base, escape_base + 1, ...
    `row_class` uint8 [panels], in a pool [batch * rows]; `column_class` uint8 [k]; None where there is one class.
    """

    bits: float
    raw_bits: int
    escape_base: int
    tables: tuple[Table, ...]
    map: NDArray[np.uint8]
    counts: NDArray[np.float64]
    row_class: NDArray[np.uint8] | None = None
    column_class: NDArray[np.uint8] | None = None


def plan(levels: NDArray[np.int32], quantizers: NDArray[np.uint8] | None = None, pooled: bool = False, effort: int = 1) -> Coding | None:
    """The cheapest coding of levels [batch, rows, k]; None where they do not fit into 16 bits.

    Raw bits are chosen with one table a quantizer; with effort 1, panels (in a pool: rows) and columns are then grouped into classes with tables of their
    own, as many as pay. `quantizers`, of the same shape, are those of trellis-coded levels.
    """
    low, high = int(levels.min()), int(levels.max())
    if high - low > WIDEST:
        return None
    weight = _Weight(levels, quantizers, low, high, 1 if pooled else PANEL_ROWS)
    by_level = weight.by_level(effort)
    bits, raw = rate(by_level.sum((0, 1)), low)
    if not np.isfinite(bits):
        return None
    counts = weight.by_class(by_level, effort, raw)
    options = ROW_CLASSES if effort else (1,)
    choices = _codings(counts, options)
    if effort and levels.shape[2] > 1 and levels.shape[2] * counts[0].size <= 16 * COUNTS:
        choices += _with_columns(weight, raw, choices[0], options)
    best = min(choices, key=lambda one: one.bits)
    base = (low + ((1 << raw) >> 1)) >> raw
    shifted = tuple(replace(table, first=table.first + base) for table in best.tables)
    return replace(best, bits=best.bits + float(raw) * (levels.size if pooled else _plane_bits(*levels.shape)), raw_bits=raw, escape_base=base, tables=shifted)


@dataclass(frozen=True, slots=True, eq=False)
class _Weight:
    """Levels low..high [batch, rows, k] that are to be coded; a unit, which may have a row class of its own, has `unit_rows` rows."""

    levels: NDArray[np.int32]
    quantizers: NDArray[np.uint8] | None
    low: int
    high: int
    unit_rows: int

    @property
    def units(self) -> int:
        """How many row classes can be told apart."""
        batch, rows, _ = self.levels.shape
        return int(batch * -(-rows // self.unit_rows))

    def by_level(self, effort: int) -> NDArray[np.float64]:
        """Counts [units or 1, 1, quantizers, levels]: by unit where that costs no memory to speak of."""
        width = self.high - self.low + 1
        if effort and self.units * width <= COUNTS:
            return by_unit(self.levels, self.quantizers, self.low, 0, self.unit_rows, width)
        total, _ = histogram(self.levels, self.quantizers)
        return total.reshape(1, 1, -1, width)

    def by_class(self, by_level: NDArray[np.float64], effort: int, raw: int) -> NDArray[np.float64]:
        """Counts [units, 1, quantizers, classes]; with effort 0 of one unit."""
        if len(by_level) == self.units or not effort:
            return fold(by_level, self.low, raw)
        return by_unit(self.levels, self.quantizers, self.low, raw, self.unit_rows, class_count(self.low, self.high, raw))


def _plane_bits(batch: int, rows: int, k: int) -> int:
    """Bits of one plane of raw bits: a step's lanes fill whole bytes, of a ragged last group too."""
    return batch * k * 8 * -(-rows // 8)


def _with_columns(weight: _Weight, raw: int, plain: Coding, options: Sequence[int]) -> list[Coding]:
    """Codings with column classes, where these pay by themselves: with each number of row classes."""
    classes = class_count(weight.low, weight.high, raw)
    counts = by_column(weight.levels, weight.quantizers, weight.low, raw, classes)
    found = []
    for many in COLUMN_CLASSES:
        if many <= len(counts):
            columns = group(counts, many)
            cells = gathered(counts, columns)[None]
            found.append((coding(cells, None, columns).bits, columns))
    bits, columns = min(found, key=lambda one: one[0], default=(np.inf, np.zeros(0, np.uint8)))
    if bits >= plain.bits:
        return []
    joint = by_unit(weight.levels, weight.quantizers, weight.low, raw, weight.unit_rows, classes, columns)
    return _codings(joint, options, columns)


def _codings(counts: NDArray[np.float64], options: Sequence[int], columns: NDArray[np.uint8] | None = None) -> list[Coding]:
    """Codings of counts [units, column classes, quantizers, classes] with each number of row classes; first classes and bases are 0."""
    units, classes = len(counts), counts.shape[-1]
    codings = []
    for many in options:
        if many <= units:
            rows = None if many == 1 else group(counts.reshape(units, -1, classes), many)
            codings.append(coding(counts.sum(0)[None] if rows is None else gathered(counts, rows), rows, columns))
    return codings


def gathered(counts: NDArray, classes: NDArray[np.uint8]) -> NDArray:
    """Sums of counts [units, ...] by class of the unit."""
    sums = np.zeros((int(classes.max()) + 1, *counts.shape[1:]), counts.dtype)
    _add_by_class(counts.reshape(len(counts), -1), classes, sums.reshape(len(sums), -1))
    return sums


@numba.njit(cache=True, nogil=True)
def _add_by_class(counts: NDArray, classes: NDArray, sums: NDArray) -> None:
    for unit in range(len(counts)):
        own, line = sums[classes[unit]], counts[unit]
        for at in range(len(line)):
            own[at] += line[at]


def coding(cells: NDArray[np.float64], rows: NDArray[np.uint8] | None, columns: NDArray[np.uint8] | None, low: int = 0) -> Coding:
    """The coding of counts [row classes, column classes, quantizers, classes], the first of which is `low`.

    There is a table for each cell, or one for both quantizers where that is cheaper.
    """
    numbers: list[int] = []
    tables: list[Table] = []
    counts: list[NDArray[np.float64]] = []
    bits, quantizers = 0.0, cells.shape[2]
    together, each = (part.reshape(-1, cells.shape[3]) for part in (cells.sum(2), cells))
    of_both, apart = fit_tables(together, low), fit_tables(each, low) if quantizers > 1 else []
    for cell, whole in enumerate(of_both):
        own, fitted, two = [together[cell]], [whole], slice(2 * cell, 2 * cell + 2)
        if apart and sum(cost for cost, _ in apart[two]) < whole[0]:
            own, fitted = [*each[two]], apart[two]
        numbers += range(len(tables), len(tables) + quantizers) if len(own) > 1 else [len(tables)] * quantizers
        counts += own
        tables += [table for _, table in fitted]
        bits += sum(cost for cost, _ in fitted)
    number = np.array(numbers, np.uint8).reshape(cells.shape[:3])
    bits += _map_bits(rows, columns, number.size if len(tables) > 1 else 0)
    rows, columns = (None if size == 1 else classes for size, classes in zip(cells.shape, (rows, columns), strict=False))
    return Coding(bits, 0, low, tuple(tables), number, np.stack(counts), rows, columns)


def coding_bits(cells: NDArray, rows: NDArray[np.uint8] | None, columns: NDArray[np.uint8] | None) -> float:
    """The bits of `coding` for counts [row classes, column classes, values] of one quantizer."""
    histograms = cells.reshape(-1, cells.shape[2])
    return fit_bits(histograms) + _map_bits(rows, columns, len(histograms) if len(histograms) > 1 else 0)


def _map_bits(rows: NDArray[np.uint8] | None, columns: NDArray[np.uint8] | None, cells: int) -> float:
    """Bits of the classes, and of the numbers of the tables of so many cells."""
    return sum(_packed_bits(classes) for classes in (rows, columns)) + 8.0 * cells


def _packed_bits(classes: NDArray[np.uint8] | None) -> float:
    return 0.0 if classes is None else 8.0 * -(-len(classes) * class_bits(int(classes.max()) + 1) // 8)


def group(counts: NDArray[np.float64], many: int) -> NDArray[np.uint8]:
    """Groups units, with counts [units, tables, classes], into at most `many` classes of like law: uint8 [units].

    Lloyd's iteration with bits as the distance, begun with the units sorted by spread.
    """
    flat = counts.reshape(len(counts), -1)
    prior = counts.sum(0) / np.maximum(counts.sum((0, 2))[:, None], 1) * PRIOR
    merged = counts.sum(1)
    centre = np.arange(merged.shape[1]) - float((merged.sum(0) * np.arange(merged.shape[1])).sum() / merged.sum())
    spread = (merged * centre**2).sum(1) / merged.sum(1)
    classes = (np.argsort(np.argsort(spread, kind="stable"), kind="stable") * many // len(spread)).astype(np.uint8)
    for _ in range(ITERATIONS):
        seen = gathered(counts, classes) + prior
        lengths = np.minimum(-np.log2(np.maximum(seen / np.maximum(seen.sum(2), 1e-9)[..., None], 1e-9)), RARE_BITS)
        costs = np.einsum("uf,cf->uc", flat, lengths.reshape(len(seen), -1))  # no BLAS: the same sums on any number of threads
        before, classes = classes, np.unique(costs.argmin(1), return_inverse=True)[1].astype(np.uint8)
        if np.array_equal(before, classes):
            break
    return classes


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
