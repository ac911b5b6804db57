"""Meets the target: allocation on predicted sizes, then bisection on the real ones until the file has the size that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..passes.technique import Adjustable
from .allocate import Options, allocate
from .coding import Coder
from .emit import Emitted, emit
from .errors import TargetError
from .plan import Choice, Layer, Payload
from .save import is_external, size_bytes
from .sensitivity import Scaled

ALLOCATIONS = 4
"""Rounds of allocation; each corrects what the last one guessed wrong about the real size."""

FINE_ROUNDS = 5
"""Corrections of one factor on all steps: the size is a smooth function of it, each round takes the secant of the last two."""

FINE_REACH = 0.3
"""The factor is at most 2^0.3 either way, 0.3 bit a weight: more than the allocator leaves over."""

CLOSE_ENOUGH = 0.0015
"""The file may stay this share below the target."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizer:
    """Turns choices into the very file that would be written, to count its bytes; every external tensor repeats `data_name`."""

    model: ir.Model
    untouchable: frozenset[str]
    external: bool | None
    coder: Coder
    bytes_before: int
    data_name: str

    def emit(self, choices: Sequence[Choice]) -> tuple[Emitted, int]:
        """(the compressed model, its bytes over all files)."""
        emitted = emit(self.model, self.coder.code(choices), self.untouchable)
        name = self.data_name if is_external(emitted, self.external) else None
        return emitted, size_bytes(emitted, name)

    def skeleton_bytes(self, layers: Sequence[Layer], fixed: Sequence[Choice]) -> int:
        """Bytes of the file when all float weights are empty payloads: the graph, what is left alone, and the integers."""
        empty = [Payload(b"", (Choice(layer, None, "", 0.0),), (0.0,), {}) for layer in layers]
        emitted = emit(self.model, [*empty, *self.coder.code(fixed)], self.untouchable)
        name = self.data_name if is_external(emitted, self.external) else None
        return size_bytes(emitted, name)


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """What the allocator chooses from: layers with their candidates, and integer weights, which have one candidate each."""

    layers: Sequence[Layer]
    candidates: Sequence[Sequence[Scaled]]
    fixed: Sequence[Choice]

    def options(self) -> Options:
        """(bytes, predicted divergence) of all candidates."""
        return [(np.array([one.candidate.bytes for one in many]), np.array([one.predicted for one in many])) for many in self.candidates]

    def chosen(self, numbers: Sequence[int]) -> list[Scaled]:
        """The candidates with these numbers."""
        return [many[number] for many, number in zip(self.candidates, numbers, strict=True)]

    def choices(self, numbers: Sequence[int]) -> list[Choice]:
        """The plan that these candidate numbers stand for."""
        mine = [
            Choice(layer, one.candidate.technique, one.candidate.family, one.predicted)
            for layer, one in zip(self.layers, self.chosen(numbers), strict=True)
        ]
        return [*mine, *self.fixed]

    def bytes(self, numbers: Sequence[int]) -> float:
        """The predicted bytes of these candidates."""
        return sum(one.candidate.bytes for one in self.chosen(numbers))


def fit(market: Market, sizer: Sizer, target_bytes: int, tick: Callable[[float], None]) -> Emitted:
    """The compressed model with the least predicted divergence of at most `target_bytes`.

    Raises TargetError where even the smallest candidates are too large.
    """
    options = market.options()
    fixed_bytes, best, numbers, size = 0.0, None, None, 0
    for round_number in range(ALLOCATIONS):
        numbers = allocate(options, target_bytes - fixed_bytes)
        if numbers is None:
            break
        emitted, size = sizer.emit(market.choices(numbers))
        tick((round_number + 1) / (ALLOCATIONS + FINE_ROUNDS))
        if size <= target_bytes and (best is None or size > best[1]):
            best = (emitted, size)
            if size >= target_bytes * (1 - CLOSE_ENOUGH):
                return emitted
        fixed_bytes = size - market.bytes(numbers)
    if numbers is None:
        return best[0] if best else _smallest(market, sizer, target_bytes)
    search = _Refinement(market.choices(numbers), size, target_bytes)
    for round_number in range(FINE_ROUNDS):
        emitted, size = sizer.emit(search.next())
        search.learn(size)
        tick((ALLOCATIONS + round_number + 1) / (ALLOCATIONS + FINE_ROUNDS))
        if size <= target_bytes and (best is None or size > best[1]):
            best = (emitted, size)
            if size >= target_bytes * (1 - CLOSE_ENOUGH):
                break
    return best[0] if best else _smallest(market, sizer, target_bytes)


class _Refinement:
    """One factor on the steps of all grids and their like, found by secants that stay between what is known to be too large and what fits."""

    def __init__(self, choices: Sequence[Choice], size: int, target_bytes: int) -> None:
        self._choices = choices
        self._aim = target_bytes * (1 - CLOSE_ENOUGH / 2)
        grids = sum(choice.weight.view.size for choice in choices if isinstance(choice.technique, Adjustable))
        self._slope = -max(grids, 1) / 8  # bytes for one doubling of all steps, at one bit a weight
        self._known = {0.0: size}
        self._factor = 0.0

    def next(self) -> list[Choice]:
        """The choices at the next factor to try."""
        self._factor = float(np.clip(self._guess(), -FINE_REACH, FINE_REACH))
        return [_scaled(choice, 2.0**self._factor) for choice in self._choices]

    def learn(self, size: int) -> None:
        """The size at that factor."""
        self._known[self._factor] = size

    def _guess(self) -> float:
        low = max((factor for factor, size in self._known.items() if size > self._aim), default=None)  # too large: larger steps are needed
        high = min((factor for factor, size in self._known.items() if size <= self._aim), default=None)
        if low is None or high is None:
            factor = low if high is None else high
            assert factor is not None
            return factor + 1.1 * (self._aim - self._known[factor]) / self._slope
        if high <= low:  # the size is no monotone function at this scale
            return (low + high) / 2
        share = (self._known[low] - self._aim) / max(self._known[low] - self._known[high], 1)
        return low + float(np.clip(share, 0.1, 0.9)) * (high - low)


def _scaled(choice: Choice, factor: float) -> Choice:
    """The choice at a rate close by, where its technique has such and the technique still applies to the weight."""
    if not isinstance(choice.technique, Adjustable):
        return choice
    return replace(choice, technique=choice.technique.at(factor), instead=choice.technique)


def _smallest(market: Market, sizer: Sizer, target_bytes: int) -> Emitted:
    """The best file that fits after all, the predicted sizes being that wrong; else the error that says what stands in the way.

    Goes back from the smallest candidates to larger ones in halves of what is left.
    """
    options = market.options()
    numbers = [int(np.argmin(size)) for size, _ in options]
    found = sizer.emit(market.choices(numbers))
    if found[1] > target_bytes:
        raise _too_large(sizer, *found, target_bytes)
    least = market.bytes(numbers)
    low, high = least, max(least, target_bytes - (found[1] - least))
    for _ in range(FINE_ROUNDS):
        middle = (low + high) / 2
        tried = sizer.emit(market.choices(allocate(options, middle) or numbers))
        if tried[1] > target_bytes:
            high = middle
            continue
        low = middle
        found = max(found, tried, key=lambda one: one[1])
    return found[0]


def _too_large(sizer: Sizer, emitted: Emitted, size: int, target_bytes: int) -> TargetError:
    rest = size - sum(len(one.data) for one in emitted.payloads)
    return TargetError(
        f"{sizer.bytes_before / target_bytes:.4g} times smaller cannot be reached, {sizer.bytes_before / size:.4g} times can: the graph and what is not "
        f"compressed take {rest:,} of the {target_bytes:,} bytes allowed; ask for a lower ratio"
    )
