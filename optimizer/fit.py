"""Meets the target: allocation on predicted sizes, then bisection on the real ones until the file has the size that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.quantize import Quantize
from ..passes.technique import Adjustable, Technique
from .allocate import Options, Timed, allocate, allocate_timed, unfolded
from .coding import Coder
from .emit import Emitted, emit
from .errors import TargetError
from .layout import NO_LAYOUT, Layout
from .plan import Choice, Layer, Payload
from .preference import Pace
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

NEAR_ENOUGH = 0.004
"""A file further below than this is searched for once more, in smaller steps: a ratio of R is promised to become 1.005 R at most."""

FOLDING_BYTES = 900.0
"""What the first folded weight costs in nodes that all of them share; a guess that real sizes correct."""


@dataclass(frozen=True, slots=True, eq=False)
class Sizer:
    """Turns choices into the very file that would be written, to count its bytes; every external tensor repeats `data_name`.

    `in_bytes` names the small float tensors that get 8 bits a value (`small.py`).
    """

    model: ir.Model
    untouchable: frozenset[str]
    external: bool | None
    coder: Coder
    bytes_before: int
    data_name: str
    in_bytes: frozenset[str] = frozenset()

    def emit(self, choices: Sequence[Choice]) -> tuple[Emitted, int]:
        """(the compressed model, its bytes over all files)."""
        emitted = emit(self.model, self.coder.code(choices), self.untouchable, self.in_bytes)
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
    """What the allocator chooses from: layers with their candidates, integer weights, which have one each; the pace to keep, and what is reordered."""

    layers: Sequence[Layer]
    candidates: Sequence[Sequence[Scaled]]
    fixed: Sequence[Choice]
    pace: Pace | None = None
    layout: Layout = NO_LAYOUT

    def options(self) -> Options:
        """(bytes, predicted divergence) of all candidates."""
        return [(np.array([one.candidate.bytes for one in many]), np.array([one.predicted for one in many])) for many in self.candidates]

    def allocate(self, budget_bytes: float) -> list[int] | None:
        """The numbers of the best candidates within these bytes, at the pace; None where even the smallest ones exceed them."""
        if self.pace is None:
            return allocate(self.options(), budget_bytes)
        names = [layer.weight.name for layer in self.layers] if self.layout.borders else []
        dense = sum(many[0].times.folded for many in self.candidates) + self.layout.microseconds(dict.fromkeys(names, True))
        hot, folded = self._hot(self.pace), self.folded()
        barred = [out & (number not in hot) for number, out in enumerate(folded)]
        # Weights that cannot be folded pay no price of time: their forms differ by little, and would give up bits for it.
        microseconds = [np.array([one.microseconds if number in hot else many[0].times.fused for one in many]) for number, many in enumerate(self.candidates)]
        timed = Timed(microseconds, folded, self.pace.slowdown * dense, self.pace.worse, FOLDING_BYTES, names, self.layout)
        return allocate_timed(unfolded(self.options(), barred), budget_bytes, timed)

    def _hot(self, pace: Pace) -> frozenset[int]:
        """The weights that may be folded: those that gain most time for each of their values, as many as memory allows for."""
        gains = [(many[0].times.fused - many[0].times.folded) / layer.weight.view.size for layer, many in zip(self.layers, self.candidates, strict=True)]
        hot, left = set(), pace.values
        for number in sorted(range(len(gains)), key=lambda number: -gains[number]):
            if self.layers[number].weight.view.size <= left:
                hot.add(number)
                left -= self.layers[number].weight.view.size
        return frozenset(hot)

    def folded(self) -> list[NDArray[np.bool_]]:
        """Which candidates are folded."""
        return [np.array([one.candidate.is_folded for one in many]) for many in self.candidates]

    def chosen(self, numbers: Sequence[int]) -> list[Scaled]:
        """The candidates with these numbers."""
        return [many[number] for many, number in zip(self.candidates, numbers, strict=True)]

    def choices(self, numbers: Sequence[int]) -> list[Choice]:
        """The plan that these candidate numbers stand for."""
        mine = [
            Choice(layer, one.candidate.technique, one.candidate.family, one.predicted, times=one.times)
            for layer, one in zip(self.layers, self.chosen(numbers), strict=True)
        ]
        return [*mine, *self.fixed]

    def bytes(self, numbers: Sequence[int]) -> float:
        """The predicted bytes of these candidates."""
        chosen = self.chosen(numbers)
        return sum(one.candidate.bytes for one in chosen) + FOLDING_BYTES * any(one.candidate.is_folded for one in chosen)


def fit(market: Market, sizer: Sizer, target_bytes: int, tick: Callable[[float], None]) -> Emitted:
    """The compressed model with the least predicted divergence of at most `target_bytes`.

    Raises TargetError where even the smallest candidates are too large.
    """
    files = _Files(sizer, target_bytes, tick)
    last = _allocated(market, files)
    if last is not None and not files.close:
        _refine(files, _Refinement(*last, target_bytes, _all_grids(last[0])))
        smooth = None if files.near else _smoothed(market, files.choices or last[0])
        if smooth is not None:
            choices, largest = smooth
            _refine(files, _Refinement(choices, files.emit(choices), target_bytes, (largest,)))
    return files.best or _smallest(market, sizer, target_bytes)


class _Files:
    """Makes files, and keeps the largest one within the target."""

    def __init__(self, sizer: Sizer, target_bytes: int, tick: Callable[[float], None]) -> None:
        self._sizer, self.target_bytes, self._tick = sizer, target_bytes, tick
        self.best: Emitted | None = None
        self.choices: Sequence[Choice] = ()
        self._size, self._made = 0, 0

    def emit(self, choices: Sequence[Choice]) -> int:
        """The bytes of the file of these choices."""
        emitted, size = self._sizer.emit(choices)
        self._made += 1
        self._tick(min(self._made / (ALLOCATIONS + FINE_ROUNDS), 1.0))
        if size <= self.target_bytes and (self.best is None or size > self._size):
            self.best, self.choices, self._size = emitted, choices, size
        return size

    @property
    def close(self) -> bool:
        """Whether no further round is worth its time."""
        return self.best is not None and self._size >= self.target_bytes * (1 - CLOSE_ENOUGH)

    @property
    def near(self) -> bool:
        """Whether the ratio is within what is promised."""
        return self.best is not None and self._size >= self.target_bytes * (1 - NEAR_ENOUGH)


def _allocated(market: Market, files: _Files) -> tuple[list[Choice], int] | None:
    """Allocates until predicted and real sizes agree: (the last choices, their bytes); None where nothing fits any more."""
    fixed_bytes, found = 0.0, None
    for _ in range(ALLOCATIONS):
        numbers = market.allocate(files.target_bytes - fixed_bytes)
        if numbers is None:
            return None
        choices = market.choices(numbers)
        found = choices, files.emit(choices)
        if files.close:
            break
        fixed_bytes = found[1] - market.bytes(numbers)
    return found


def _refine(files: _Files, search: _Refinement) -> None:
    """Emits what the search asks for until the file is close, or the rounds are over."""
    for _ in range(FINE_ROUNDS):
        if files.close:
            return
        search.learn(files.emit(search.next()))


def _all_grids(choices: Sequence[Choice]) -> tuple[int, ...]:
    """The numbers of all choices that a factor can change."""
    return tuple(number for number, choice in enumerate(choices) if isinstance(choice.technique, Adjustable))


def _smoothed(market: Market, choices: Sequence[Choice]) -> tuple[list[Choice], int] | None:
    """The same with the weight of most values on a grid of one step, placed as it is, and its number; None where it is on one already, or none is offered.

    Steps by row are kept in eight bits, 4 % apart: where one weight dominates whose rows are few or alike, the size jumps with them. A single step
    has sixteen bits.
    """
    largest = max(range(len(market.layers)), key=lambda number: market.layers[number].weight.view.size, default=None)
    if largest is None or _is_smooth(choices[largest].technique):
        return None
    known = {one.candidate.technique: one.candidate.bytes for one in market.candidates[largest]}
    folded = choices[largest].is_folded
    smooth = [one for one in market.candidates[largest] if _is_smooth(one.candidate.technique) and one.candidate.is_folded == folded]
    if not smooth:
        return None
    technique = choices[largest].instead or choices[largest].technique
    size = known.get(technique, float(np.median([one.candidate.bytes for one in smooth]))) if technique is not None else 0.0
    nearest = min(smooth, key=lambda one: abs(one.candidate.bytes - size))
    changed = replace(choices[largest], technique=nearest.candidate.technique, family=nearest.candidate.family, predicted=nearest.predicted, instead=None, times=nearest.times)
    return [changed if number == largest else choice for number, choice in enumerate(choices)], largest


def _is_smooth(technique: Technique | None) -> bool:
    """Whether the size moves with every change of the step."""
    return isinstance(technique, Quantize) and technique.power == 0 and technique.rows == 0


class _Refinement:
    """One factor on the steps of some grids and their like, found by secants that stay between what is known to be too large and what fits."""

    def __init__(self, choices: Sequence[Choice], size: int, target_bytes: int, moved: Sequence[int]) -> None:
        self._choices, self._moved = choices, frozenset(moved)
        self._aim = target_bytes * (1 - CLOSE_ENOUGH / 2)
        grids = sum(choices[number].weight.view.size for number in moved)
        self._slope = -max(grids, 1) / 8  # bytes for one doubling of all steps, at one bit a weight
        self._known = {0.0: size}
        self._factor = 0.0

    def next(self) -> list[Choice]:
        """The choices at the next factor to try."""
        self._factor = float(np.clip(self._guess(), -FINE_REACH, FINE_REACH))
        return [scaled(choice, 2.0**self._factor) if number in self._moved else choice for number, choice in enumerate(self._choices)]

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


def scaled(choice: Choice, factor: float) -> Choice:
    """The choice at a rate close by, where its technique has such and the technique still applies to the weight; a grid's error goes with the square."""
    if not isinstance(choice.technique, Adjustable):
        return choice
    predicted = choice.predicted * (factor**2 if isinstance(choice.technique, Quantize) else 1.0)
    return replace(choice, technique=choice.technique.at(factor), instead=choice.technique, predicted=predicted)


def _smallest(market: Market, sizer: Sizer, target_bytes: int) -> Emitted:
    """The best file that fits after all, the predicted sizes being that wrong; else the error that says what stands in the way.

    Goes back from the smallest candidates to larger ones in halves of what is left.
    """
    numbers = [int(np.argmin(size)) for size, _ in unfolded(market.options(), market.folded())]
    found = sizer.emit(market.choices(numbers))
    if found[1] > target_bytes:
        raise _too_large(sizer, *found, target_bytes)
    least = market.bytes(numbers)
    low, high = least, max(least, target_bytes - (found[1] - least))
    for _ in range(FINE_ROUNDS):
        middle = (low + high) / 2
        tried = sizer.emit(market.choices(market.allocate(middle) or numbers))
        if tried[1] > target_bytes:
            high = middle
            continue
        low = middle
        found = max(found, tried, key=lambda one: one[1])
    return found[0]


def _too_large(sizer: Sizer, emitted: Emitted, size: int, target_bytes: int) -> TargetError:
    rest = size - sum(one.bytes for one in emitted.payloads)
    exact = sum(one.bytes for one in emitted.payloads if all(choice.technique is None for choice in one.choices))
    kept = f", weights that keep their bits (integers, --lossless-weights) {exact:,}" if exact else ""
    return TargetError(
        f"{sizer.bytes_before / target_bytes:.4g} times smaller cannot be reached, {sizer.bytes_before / size:.4g} times can: the graph and what is not "
        f"compressed take {rest:,} of the {target_bytes:,} bytes allowed{kept}; ask for a lower ratio"
    )
