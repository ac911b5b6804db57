"""What is looked at in a weight of floats before its views are compared: once for all views that see it as it lies in memory (for `planes`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import plane_kernels as kernels
from .top_counts import ClassValues, Map, Stripe, lines, stripes

FINE_COUNTS = 1 << 20
"""Counts by single lines and columns that two views may share; of larger weights each view counts for itself."""

_Place = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """Of words [batch, rows, k]: `tops`, one of their fields, [batch, rows, k], with how often there is which, and `unions` [batch, rows], the OR of each row."""

    tops: ClassValues
    unions: NDArray


@dataclass(frozen=True, slots=True, eq=False)
class _Lines:
    """Of words as they lie in memory, [batch, lines, length]: `tops` of that shape, the OR of each line and of each column.

    `bounds`: the least of `tops`, the least that is not 0, if there is one, and the largest.
    """

    tops: NDArray
    bounds: tuple[int, int, int]
    line_unions: NDArray
    column_unions: NDArray

    def values(self, work: Map, turned: bool = False, fine: tuple[NDArray, NDArray] | None = None) -> ClassValues:
        """Zeros and weights have nothing between them, mostly. `fine` are counts by line and by column."""
        least, low, high = self.bounds
        gap = low - 1 if least == 0 < high else 0
        tops, counts = (self.tops.transpose(0, 2, 1), fine and fine[::-1]) if turned else (self.tops, fine)
        return ClassValues(tops, least, high - least - gap + 1, work, counts, gap)


def surveys(seen: list[NDArray], field: tuple[int, int], work: Map) -> list[Survey]:
    """Of several views [batch, rows, k] of the words of a weight; `field` is (shift, mask)."""
    places = [_place(words) for words in seen]
    found = {place: _lines(words, field, work) for place, words in dict(zip(places, seen, strict=True)).items()}
    counts = {place: _fine(found[place].values(work)) for place, many in Counter(places).items() if many > 1}
    return [_survey(found[place], counts.get(place), lines(words[0])[1], work) for place, words in zip(places, seen, strict=True)]


def _place(words: NDArray) -> _Place:
    part, _ = lines(words[0])
    return part.ctypes.data, part.shape


def _survey(found: _Lines, counts: tuple[NDArray, NDArray] | None, turned: bool, work: Map) -> Survey:
    return Survey(found.values(work, turned, counts), found.column_unions if turned else found.line_unions)


def _fine(values: ClassValues) -> tuple[NDArray, NDArray] | None:
    """Counts by line and by column; None where these are many."""
    batch, *shape = values.tops.shape
    return values.by_unit_and_column(1) if batch == 1 and sum(shape) * values.size <= FINE_COUNTS else None


def _lines(words: NDArray, field: tuple[int, int], work: Map) -> _Lines:
    stored = words.transpose(0, 2, 1) if lines(words[0])[1] else words
    batch, many, length = stored.shape
    tops = np.empty(stored.shape, np.uint8 if field[1] < 1 << 8 else np.uint16)
    line_unions = np.empty((batch, many), words.dtype)

    def look(stripe: Stripe) -> tuple[NDArray, tuple[int, int, int]]:
        number, start, end = stripe
        columns = np.zeros(length, words.dtype)
        return columns, kernels.survey(stored[number, start:end], field, line_unions[number, start:end], columns, tops[number, start:end])

    columns, bounds = zip(*work(look, stripes(stored)), strict=True)
    least, low, high = zip(*bounds, strict=True)
    return _Lines(tops, (min(least), min(low), max(high)), line_unions, np.bitwise_or.reduce(np.reshape(columns, (batch, -1, length)), 1))
