"""Spends a budget of bytes: one candidate for each weight under one Lagrangian multiplier.

The allocator sees only (bytes, predicted divergence). For a multiplier m every weight takes the candidate with the least `predicted + m * bytes`,
which is a point of its lower convex hull; m is bisected until the bytes fit, and what is left over is spent where it buys most. Where time is limited, too,
microseconds have a price of their own in `predicted`.
After: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .layout import NO_LAYOUT, Layout

BISECTIONS = 100
"""Halvings of the logarithm of the multiplier: far below the resolution of a double."""

PRICES, PRICE_BISECTIONS = 16, 14
"""Octaves, either way, around the price at which all the time of a plan is worth all its divergence; halvings of their logarithm."""

Options = Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""For each weight (bytes [n], predicted divergence [n]) of its candidates."""


def allocate(options: Options, budget_bytes: float) -> list[int] | None:
    """The chosen candidate of each weight; None where even the smallest ones exceed the budget."""
    found = _bisected(options, budget_bytes)
    return None if found is None else _spent(options, found[0], budget_bytes)


def _bisected(options: Options, budget_bytes: float) -> tuple[list[int], float] | None:
    """(the choices of the least multiplier that keeps the budget, that multiplier); None as in `allocate`."""
    best = [int(np.lexsort((predicted, size))[0]) for size, predicted in options]
    if _bytes(options, best) > budget_bytes:
        return None
    low, high = -80.0, 80.0  # log2 of the multiplier: from "bytes are free" to "bytes are all"
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        chosen = _choose(options, 2.0**middle)
        if _bytes(options, chosen) <= budget_bytes:
            best, high = chosen, middle
        else:
            low = middle
    return best, 2.0**high


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """What a limit of time needs to know: microseconds [n] of the candidates of each weight, and which of them are folded, bool [n].

    All are to come to `most` microseconds at most, as long as that does not make the divergence more than `worse` times what it is without folded ones.
    A plan with folded candidates takes `shared_bytes` more than those. In the `layout` weights have these `names`.
    """

    microseconds: Sequence[NDArray[np.float64]]
    folded: Sequence[NDArray[np.bool_]]
    most: float
    worse: float
    shared_bytes: float
    names: Sequence[str] = ()
    layout: Layout = NO_LAYOUT

    def total(self, chosen: Sequence[int]) -> float:
        """The microseconds of these candidates, and of reordering between them."""
        return _sum(self.microseconds, chosen) + self.layout.microseconds(self._placed(chosen))

    def _placed(self, chosen: Sequence[int]) -> dict[str, bool]:
        return {name: bool(out[number]) for name, out, number in zip(self.names, self.folded, chosen, strict=False)}

    def priced(self, options: Options, price: float, multiplier: float) -> Options:
        """The same options with time in them; where folding one weight bears on others, only those of the placement that is best at this multiplier."""
        timed = [(size, harm + price * each) for (size, harm), each in zip(options, self.microseconds, strict=True)]
        if not self.names:
            return timed
        costs = [harm + multiplier * size for size, harm in timed]
        fused, folded = ([float(np.where(out == placed, cost, np.inf).min()) for cost, out in zip(costs, self.folded, strict=True)] for placed in (False, True))
        gains = {name: one - other for name, one, other in zip(self.names, fused, folded, strict=True)}
        best = self.layout.best(gains, price)
        return [(np.where(out == best[name], size, np.inf), harm) for name, out, (size, harm) in zip(self.names, self.folded, timed, strict=True)]


def allocate_timed(options: Options, budget_bytes: float, timed: Timed) -> list[int] | None:
    """As `allocate`, and within the time; where that would make the divergence too large, as fast as can be had for it.

    Time has a price of its own, which is bisected: the least that keeps the time, below that at which the divergence grows too much.
    """
    fused = unfolded(options, timed.folded)
    found = _bisected(fused, budget_bytes)
    if found is None:
        return None
    multiplier, plain = found[1], _spent(fused, found[0], budget_bytes)
    least = timed.total(plain)
    if least <= timed.most:
        return plain
    predicted = _predicted(options, plain)
    middle = float(np.log2(max(predicted, 1e-30) / least))
    low, high, best = middle - PRICES, middle + PRICES, plain
    for _ in range(PRICE_BISECTIONS):
        price = 2.0 ** ((low + high) / 2)
        chosen = allocate(timed.priced(options, price, multiplier), budget_bytes - timed.shared_bytes) or plain
        took = timed.total(chosen)
        kept, fast = _predicted(options, chosen) <= timed.worse * predicted, took <= timed.most
        if kept and (fast or took < least):
            best, least = chosen, took
        low, high = (low, (low + high) / 2) if fast or not kept else ((low + high) / 2, high)
    return best


def unfolded(options: Options, folded: Sequence[NDArray[np.bool_]]) -> Options:
    """The same options where folded candidates are out of reach."""
    return [(np.where(out, np.inf, size), harm) for (size, harm), out in zip(options, folded, strict=True)]


def frontier(options: Options) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(bytes, predicted divergence) over all multipliers, from the smallest plan to the most faithful one: what `allocate` spends its budget along."""
    points = {}
    for exponent in np.arange(-80.0, 80.0, 0.25):
        chosen = _choose(options, 2.0**exponent)
        points[_bytes(options, chosen)] = _predicted(options, chosen)
    sizes = sorted(points)
    return np.array(sizes), np.array([points[size] for size in sizes])


def _choose(options: Options, multiplier: float) -> list[int]:
    return [int(np.argmin(predicted + multiplier * size)) for size, predicted in options]


def _predicted(options: Options, chosen: Sequence[int]) -> float:
    return _sum([predicted for _, predicted in options], chosen)


def _bytes(options: Options, chosen: Sequence[int]) -> float:
    return _sum([size for size, _ in options], chosen)


def _sum(each: Sequence[NDArray[np.float64]], chosen: Sequence[int]) -> float:
    return float(sum(values[number] for values, number in zip(each, chosen, strict=True)))


def _spent(options: Options, chosen: Sequence[int], budget_bytes: float) -> list[int]:
    """The choices with single weights upgraded, the best gain a byte first, while they fit."""
    chosen, left = list(chosen), budget_bytes - _bytes(options, chosen)
    while True:
        best, step = 0.0, None
        for weight, (size, predicted) in enumerate(options):
            more = size - size[chosen[weight]]
            gain = predicted[chosen[weight]] - predicted
            fits = (more > 0) & (more <= left) & (gain > 0)
            if fits.any():
                worth = np.where(fits, gain / np.where(fits, more, 1), 0)
                if worth.max() > best:
                    best, step = float(worth.max()), (weight, int(worth.argmax()))
        if step is None:
            return chosen
        left -= options[step[0]][0][step[1]] - options[step[0]][0][chosen[step[0]]]
        chosen[step[0]] = step[1]
