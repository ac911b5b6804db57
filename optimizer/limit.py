"""The other way round: the smallest file whose outputs differ by at most a given divergence, measured and not predicted.

Candidates are made around a rate that the predicted curve points at; budgets are then tried along that curve, each by coding the weights, decoding them
and running the model with all of them, and at last one factor on all grid steps takes up what is left. What a file gains by following
the drift (`drift.py`) is room for a smaller one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .allocate import frontier
from .candidates import HIGH_BITS
from .distortion import ROUNDING
from .emit import Emitted
from .errors import TargetError
from .fit import Market, scaled
from .plan import Choice
from .study import LEAST_BITS, Start, Study

FIRST_BITS = 4.0
"""The rate to begin with: a quarter of a float in 16 bits, an eighth of one in 32."""

NEAR_BITS = 1.0
"""Candidates that were made this near to a rate serve it: less than the reach of those with a trellis."""

MOVES = 4
"""Times that candidates are made anew where the curve points elsewhere."""

COARSE_ROUNDS, FINE_ROUNDS = 5, 4
"""Files that are measured, along the allocator's curve and then along one factor on all steps: the ends of a bracket each time."""

CLOSE_ENOUGH = 0.95
"""Share of the limit that ends a search: a divergence is proportional to 4^-bits, so that 5 % are 0.04 bit a weight."""

FINE_AIM = 0.98
"""Share of the limit that the fine search aims at."""

FINE_REACH, LEAST_FACTOR = 0.4, 0.005
"""In octaves of the step: the farthest that the fine search goes, and the least that is worth a measurement."""

CONFIRMATIONS = 4
"""Files that are written and run: they differ from what was measured by the order of sums, by biases in 16 bits, and by what following the drift makes up for."""

MOST_MADE_UP = 4.0
"""Times the divergence without following the drift may be the limit's; 0.5 to 0.9 are usual with it, and the next file tells."""


def smallest_within(study: Study, limit: float, confirm: Callable[[Emitted], float], start: Start) -> Emitted:
    """The smallest file within the limit; `confirm` writes a file and measures it. Raises TargetError where the finest forms exceed it."""
    budget = _approach(study, limit)
    study.sharpen(budget)
    study.settle(budget)
    search, aim, seen = _Search(study, start), limit, math.inf
    kept: _Kept | None = None
    for _ in range(CONFIRMATIONS):
        made, size = search.smallest(aim)
        emitted = study.followed(made, size)
        seen = confirm(emitted)
        if seen <= max(limit, ROUNDING):
            kept = _Kept(emitted, aim)
            if emitted is made or seen >= CLOSE_ENOUGH * limit:
                break
            aim *= FINE_AIM * limit / max(seen, limit / MOST_MADE_UP)
        else:
            aim *= 0.99 * limit / seen
        if kept is not None and aim <= kept.aim:
            break
    if kept is None:
        raise _out_of_reach(limit, seen)
    return kept.emitted


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """A file within the limit, and what its plan was allowed before it followed the drift: the more, the smaller it is."""

    emitted: Emitted
    aim: float


def _approach(study: Study, limit: float) -> float:
    """Makes candidates until they lie where the limit leads to; gives the bytes of all weights there, as predicted."""
    near: list[float] = []
    bits = FIRST_BITS
    while True:
        study.extend(bits)
        near.append(bits)
        budget = _Curve.of(study.market()).bytes_at(limit)
        bits = float(np.clip(8 * budget / max(study.values, 1), LEAST_BITS, HIGH_BITS))
        if len(near) > MOVES or min(abs(bits - one) for one in near) <= NEAR_BITS:
            return budget


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """The allocator's curve in logarithms: bytes rise, the predicted divergence falls."""

    sizes: NDArray[np.float64]
    predicted: NDArray[np.float64]

    @staticmethod
    def of(market: Market) -> _Curve:
        sizes, predicted = frontier(market.options())
        return _Curve(np.log(np.maximum(sizes, 1.0)), np.minimum.accumulate(np.log(np.maximum(predicted, 1e-300))))

    def bytes_at(self, divergence: float) -> float:
        """The bytes at which this much is predicted; the nearest end beyond them."""
        return float(np.exp(np.interp(-math.log(max(divergence, 1e-300)), -self.predicted, self.sizes)))

    @property
    def ends(self) -> tuple[float, float]:
        """The fewest and the most bytes."""
        return float(np.exp(self.sizes[0])), float(np.exp(self.sizes[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What was measured: choices, the bytes of the file, the divergence."""

    choices: Sequence[Choice]
    bytes: int
    divergence: float


class _Bracket:
    """Between a value that is known to exceed the limit and one that is known to keep it; guesses stay off the ends that are known."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self._known = [False, False]

    def learn(self, value: float, is_low: bool) -> None:
        """`value` lies on the low side, or on the high one."""
        if is_low:
            self.low, self._known[0] = value, True
        else:
            self.high, self._known[1] = value, True

    def guess(self, value: float) -> float:
        """`value`, moved inside."""
        margin = 0.1 * (self.high - self.low)
        return float(np.clip(value, self.low + margin * self._known[0], self.high - margin * self._known[1]))


class _Search:
    """Keeps all that was measured, so that another limit begins where the last one ended."""

    def __init__(self, study: Study, start: Start) -> None:
        self._study, self._market = study, study.market()
        self._curve = _Curve.of(self._market)
        self._start, self._plans = start, []  # type: ignore[var-annotated]
        self._rounds = 0
        self._tick: Callable[[float], None] = lambda _: None

    def smallest(self, limit: float) -> tuple[Emitted, int]:
        """The smallest file that was measured to keep the limit, and its bytes. Raises TargetError."""
        self._tick, self._rounds = self._start("searching the size"), 0
        self._coarse(limit)
        best = self._best(limit)
        if best is None:
            raise _out_of_reach(limit, min(plan.divergence for plan in self._plans))
        self._fine(limit, best)
        return self._study.sizer.emit((self._best(limit) or best).choices)

    def _best(self, limit: float) -> _Plan | None:
        return min((plan for plan in self._plans if plan.divergence <= max(limit, ROUNDING)), key=lambda plan: plan.bytes, default=None)

    def _measure(self, choices: Sequence[Choice]) -> _Plan:
        emitted, size = self._study.sizer.emit(choices)
        plan = _Plan(choices, size, self._study.divergence(emitted))
        self._plans.append(plan)
        self._rounds += 1
        self._tick(self._rounds / (COARSE_ROUNDS + FINE_ROUNDS))
        return plan

    def _coarse(self, limit: float) -> None:
        """Along the curve, whose prediction is corrected by what each file was measured to be; ends where no larger file is left to try."""
        budget = self._curve.bytes_at(limit)
        bracket = _Bracket(*map(math.log, self._curve.ends))
        for number in range(2 * COARSE_ROUNDS):
            numbers = self._market.allocate(budget * (1 + 1e-9)) or self._market.allocate(math.inf) or []
            plan = self._measure(self._market.choices(numbers))
            kept = plan.divergence <= limit
            bracket.learn(math.log(budget), is_low=not kept)
            enough = number + 1 >= COARSE_ROUNDS and self._best(limit) is not None
            if enough or CLOSE_ENOUGH * limit <= plan.divergence <= limit or bracket.high - bracket.low < LEAST_FACTOR:
                return
            off = plan.divergence / max(sum(choice.predicted for choice in plan.choices), 1e-300)
            guess = self._curve.bytes_at(limit / off if off > 0 else math.inf)
            budget = math.exp(bracket.guess(math.log(guess)))

    def _fine(self, limit: float, best: _Plan) -> None:
        """One factor on all steps of the best plan, a divergence going with its square."""
        plan, factor = best, 0.0
        bracket = _Bracket(0.0, FINE_REACH)
        bracket.learn(0.0, is_low=True)
        for _ in range(FINE_ROUNDS):
            if plan.divergence <= 0 or CLOSE_ENOUGH * limit <= plan.divergence <= limit or bracket.high - bracket.low < LEAST_FACTOR:
                return
            factor = bracket.guess(factor + 0.5 * math.log2(max(FINE_AIM * limit / plan.divergence, 1e-9)))
            if factor - bracket.low < LEAST_FACTOR:
                return
            plan = self._measure([scaled(choice, 2.0**factor) for choice in best.choices])
            bracket.learn(factor, is_low=plan.divergence <= limit)


def _out_of_reach(limit: float, seen: float) -> TargetError:
    return TargetError(
        f"outputs that differ by at most {limit:g} cannot be had: those of the most faithful file differ by {seen:.3g}; allow more with --max-divergence, "
        "or exclude the weights that --table shows to matter most"
    )
