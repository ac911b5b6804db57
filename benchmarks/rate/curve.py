"""A method's curve of divergence over ratio, and where it meets a divergence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .rows import Row

LEAST_DIVERGENCE = 1e-12
"""Stands for none: the axis is logarithmic, and rounding makes divergences of equal outputs slightly negative."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A ratio; `at_most` where even the finest file that was measured diverges more, so that the true ratio is below."""

    ratio: float
    at_most: bool = False


def envelope(curve: Iterable[Row]) -> list[Row]:
    """The rows that no other one beats in ratio and divergence, finest first.

    Not the convex hull: in logarithms these curves bend both ways, and a chord would promise files that nobody has made.
    """
    best: list[Row] = []
    for row in sorted(curve, key=lambda row: (-row.ratio, row.divergence)):
        if math.isfinite(row.divergence) and (not best or row.divergence < best[-1].divergence):
            best.append(row)
    return best[::-1]


def reached(curve: Sequence[Row], divergence: float) -> Reached | None:
    """The ratio at which the envelope has this divergence, linear in both logarithms between neighbours; None without rows.

    Where even the coarsest file diverges less, its ratio is what the method gives.
    """
    rows = envelope(curve)
    if not rows:
        return None
    if divergence < rows[0].divergence:
        return Reached(rows[0].ratio, at_most=True)
    for fine, coarse in pairwise(rows):
        if divergence < coarse.divergence:
            low, high = (math.log(max(row.divergence, LEAST_DIVERGENCE)) for row in (fine, coarse))
            share = (math.log(divergence) - low) / (high - low)
            return Reached(math.exp((1 - share) * math.log(fine.ratio) + share * math.log(coarse.ratio)))
    return Reached(rows[-1].ratio)


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers, at least one."""
    return math.exp(sum(map(math.log, values)) / len(values))
