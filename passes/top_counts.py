"""Counts of the class values of large arrays, in stripes that may be counted side by side (for `class_plan`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS
from . import plane_kernels as kernels

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, perhaps of several threads."""

STRIPE = 1 << 21
"""Values that are worth a task of their own."""

MOST_CELLS = 1 << 18
"""Counts that each stripe may have for itself."""

Stripe = tuple[int, int, int]
"""A batch, and the first and last lines of it."""


def lines(part: NDArray) -> tuple[NDArray, bool]:
    """[rows, k] as it lies in memory, and whether that is turned: [k, rows]."""
    turned = not part.flags.c_contiguous
    return (part.T if turned else part), turned


def stripes(array: NDArray, cells: int = 0) -> Iterator[Stripe]:
    """Stripes of an array [batch, rows, k] along its lines, of whole panels; few where each has many `cells` of its own."""
    batch, many = array.shape[0], len(lines(array[0])[0])
    parts = max(1, array[0].size // STRIPE) if cells <= MOST_CELLS else 1
    each = -(-many // (parts * PANEL_ROWS)) * PANEL_ROWS
    for number in range(batch):
        yield from ((number, at, min(at + each, many)) for at in range(0, many, each))


@dataclass(frozen=True, slots=True, eq=False)
class ClassValues:
    """Class values `tops` [batch, rows, k], the least of which is `low`, and of which there are `size`; `work` counts. The `gap` values above the least are none of them.

    `fine` are counts that are known already, where there is one batch: [rows, values] and [k, values].
    """

    tops: NDArray
    low: int
    size: int
    work: Map
    fine: tuple[NDArray, NDArray] | None = None
    gap: int = 0

    @property
    def high(self) -> int:
        """The largest class value."""
        return self.low + self.gap + self.size - 1

    def by_unit_and_column(self, unit_rows: int) -> tuple[NDArray, NDArray]:
        """Counts [units, values] of `unit_rows` rows of one batch, and [k, values]."""
        _, rows, k = self.tops.shape
        if self.fine is not None:
            return np.add.reduceat(self.fine[0], np.arange(0, rows, unit_rows)), self.fine[1]
        shapes = (-(-rows // unit_rows), self.size), (k, self.size)

        def count(stripe: Stripe) -> tuple[NDArray, NDArray]:
            part, turned, units, columns = *self._part(stripe), *(np.zeros(shape, self._dtype) for shape in shapes)
            kernels.count(part, turned, (self.low + self.gap, stripe[1], unit_rows), units, columns)
            return units, columns

        counted = self._summed(count, sum(a * b for a, b in shapes))
        return np.concatenate([units for units, _ in counted]), reduce(np.add, (columns for _, columns in counted))

    def by_unit_and_class(self, unit_rows: int, of_column: NDArray[np.uint8]) -> NDArray:
        """Counts [units, column classes, values]."""
        shape = (-(-self.tops.shape[1] // unit_rows), int(of_column.max()) + 1, self.size)

        def count(stripe: Stripe) -> tuple[NDArray]:
            part, turned, units = *self._part(stripe), np.zeros(shape, self._dtype)
            kernels.count_joint(part, turned, (self.low + self.gap, stripe[1], unit_rows), of_column, units)
            return (units,)

        return np.concatenate([units for (units,) in self._summed(count, int(np.prod(shape)))])

    def spread(self, counts: NDArray) -> NDArray:
        """Counts [..., values] with those of the gap, which are 0."""
        least, others = counts[..., :1], counts[..., 1:]
        return np.concatenate([least, np.zeros((*counts.shape[:-1], self.gap), counts.dtype), others], -1) if self.gap else counts

    @property
    def _dtype(self) -> type[np.signedinteger]:
        return np.int32 if self.tops.size < 1 << 31 else np.int64

    def _part(self, stripe: Stripe) -> tuple[NDArray, bool]:
        number, start, end = stripe
        whole, turned = lines(self.tops[number])
        return whole[start:end], turned

    def _summed(self, count: Callable[[Stripe], tuple[NDArray, ...]], cells: int) -> list[tuple[NDArray, ...]]:
        """What is counted in each batch."""
        todo = list(stripes(self.tops, cells))
        found: list[tuple[NDArray, ...]] = []
        for (_, start, _), counted in zip(todo, self.work(count, todo), strict=True):
            if start == 0:
                found.append(counted)
                continue
            for total, part in zip(found[-1], counted, strict=True):
                np.add(total, part, out=total)
        return found
