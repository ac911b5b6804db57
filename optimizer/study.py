"""What is known of a model while it is decided about: candidates around one rate or several, probes, and what whole files would do to the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ..passes.byte_floats import eligible, rounded
from ..passes.quantize import Quantize
from . import drift
from .candidates import CALIBRATED_ONLY, GRIDS, TECHNIQUES, Wanted, offers, refined
from .coding import Coder, decoded
from .cost import times
from .distortion import Kind
from .emit import Emitted
from .evidence import Evidence
from .fit import NEAR_ENOUGH, Market, Sizer
from .fold import LEAST_OPSET
from .gates import weighed
from .layout import Layout
from .parallel import spread
from .plan import Choice, Layer
from .preference import Pace
from .probe import Prober
from .report import Request
from .sensitivity import Keep, Sensitivities, reference
from .small import SmallFloats
from .trial import Candidate

LEAST_BITS = 0.05
"""Candidates are made around this rate where the target leaves less."""

FOLLOWINGS = 3
"""Rounds of following the drift; all but the first are rare, where the file came out too large or much too small."""

SPARED = 0.0005
"""Of the bits: what a file that follows may come out larger than it was meant to."""

PRICED_SHARE = 0.05
"""The price of a byte is that of a budget this share smaller and larger."""

Start = Callable[[str], Callable[[float], None]]
"""Begins a phase of this name; gives what to tell its progress."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What is to be decided for a slimmed model: `fixed` are weights that are coded as they are, `target_bytes` what the file may have."""

    model: ir.Model
    untouchable: frozenset[str]
    fixed: Sequence[Choice]
    bytes_before: int
    target_bytes: int
    data_name: str
    threads: int


class Study:
    """`Study(task, evidence, request, start)`; `extend` it to a rate before anything else is asked of it."""

    def __init__(self, task: Task, evidence: Evidence, request: Request, start: Start) -> None:
        self._task, self._start, self._effort = task, start, request.level
        self._calibration = evidence.calibration
        self._families = [name for name in TECHNIQUES[request.technique] if request.calibration or name not in CALIBRATED_ONLY]
        self.sizer = Sizer(task.model, task.untouchable, request.external_data, Coder(task.threads), task.bytes_before, task.data_name)
        self.skeleton_bytes = self.sizer.skeleton_bytes(evidence.layers, task.fixed)
        self._layout = Layout.of(evidence.layers)
        # Folded weights are grids: who asks for codebooks is not given them.
        self._pace = request.pace if {*GRIDS} & {*self._families} and _may_fold(task, evidence.layers, request.pace, self._layout) else None
        self._reasons: dict[int, str] = {}
        biases = [layer.bias for layer in evidence.layers if layer.bias is not None]
        weights = {layer.weight.name for layer in evidence.layers} | {choice.weight.name for choice in task.fixed}
        small = [value for value in eligible(task.model, task.untouchable) if value.name not in weights]
        self._prober = Prober(task.model, [*(layer.weight for layer in evidence.layers), *biases, *small], evidence.probes, task.threads)
        # Made-up tokens say nothing of gates.
        self._layers = weighed(evidence.layers, self._prober, task.threads) if request.calibration else tuple(evidence.layers)
        self._candidates: dict[int, list[Candidate]] = {id(layer): [] for layer in self._layers}
        self._sensitivities = Sensitivities(self._prober, task.threads)
        self._small = SmallFloats(small, self._prober, task.threads)

    @property
    def kind(self) -> Kind:
        """What divergences are measured in: see distortion.py."""
        return self._prober.kind

    def bits(self, size_bytes: float) -> float:
        """Bits a weight in a file of this size, beside the graph; where the graph leaves none, few enough to find out what the smallest file is."""
        return max(LEAST_BITS, 8 * (size_bytes - self.skeleton_bytes) / max(self.values, 1))

    @property
    def values(self) -> int:
        """Values in all weights."""
        return sum(layer.weight.view.size for layer in self._layers)

    def extend(self, bits: float) -> None:
        """Makes candidates around this rate, and probes each weight near it."""
        wanted = Wanted(self._families, bits, self._effort.trellises, self._pace is not None)
        found = offers(self._layers, wanted, self._task.threads, self._start("making candidates"))
        for offer in found:
            self._reasons.setdefault(id(offer.layer), offer.refusal)
            self._add(offer.layer, [one for many in offer.families.values() for one in many])
        self._sensitivities.probe([(offer.layer, reference(offer)) for offer in found if offer.families], self._start("probing"))

    def market(self) -> Market:
        """All candidates so far with their predicted divergence."""
        many = [[self._sensitivities.scaled(layer, one) for one in self._candidates[id(layer)]] for layer in self._usable()]
        return Market(self._usable(), many, self._task.fixed, self._pace, self._layout)

    def sharpen(self, budget_bytes: float) -> None:
        """Probes each weight again where the allocator puts it under this budget for all weights, and makes candidates close by; as the effort says."""
        for number in range(self._effort.rounds - 1):
            tick = self._start("probing again")
            jobs = self._probe_at(budget_bytes, lambda done, tick=tick: tick(done / 2), "mean" if number else "none")  # type: ignore[misc]
            self._refine(jobs, lambda done, tick=tick: tick(0.5 + done / 2))  # type: ignore[misc]

    def settle(self, budget_bytes: float) -> None:
        """Decides which small float tensors get 8 bits, where this is the budget for all weights: the sizer's files then have them."""
        market = self.market()
        less, more = (_predicted(market, budget_bytes * share) for share in (1 - PRICED_SHARE, 1 + PRICED_SHARE))
        price = (less - more) / (2 * PRICED_SHARE * budget_bytes) if math.isfinite(less) else 0.0
        self.sizer = replace(self.sizer, in_bytes=self._small.chosen(price))

    def probe_along(self, budgets_bytes: Sequence[float]) -> None:
        """Probes each weight where the allocator puts it under each of these budgets, beside what was found before; where the effort allows for it."""
        if self._effort.rounds > 1:
            tick = self._start("probing again")
            for number, budget in enumerate(budgets_bytes):
                self._probe_at(budget, lambda done, at=number: tick((at + done) / len(budgets_bytes)), "all")  # type: ignore[misc]

    def _probe_at(self, budget_bytes: float, tick: Callable[[float], None], keep: Keep) -> list[tuple[Layer, Candidate]]:
        """Probes what the allocator chooses; nothing where nothing fits."""
        market = self.market()
        numbers = market.allocate(budget_bytes)
        if numbers is None:
            return []
        jobs = list(zip(market.layers, (one.candidate for one in market.chosen(numbers)), strict=True))
        self._sensitivities.probe(jobs, tick, keep)
        return jobs

    def _refine(self, jobs: Sequence[tuple[Layer, Candidate]], tick: Callable[[float], None]) -> None:
        done: list[Layer] = []

        def closer(job: tuple[Layer, Candidate]) -> list[Candidate]:
            made = refined(*job, self._effort.refined)
            done.append(job[0])
            tick(len(done) / len(jobs))
            return made

        for (layer, _), more in zip(jobs, spread(closer, jobs, lambda job: job[0].weight.view.size, self._task.threads), strict=True):
            self._add(layer, more)

    def divergence(self, emitted: Emitted) -> float:
        """How far the outputs move under a compressed model: its payloads are decoded, nothing is predicted."""
        return self._moved(emitted, self._arrays(emitted))

    def _moved(self, emitted: Emitted, weights: dict) -> float:
        """The same, where what its payloads decode to is known."""
        small = {name: weights.get(name, array) for name, array in self._small.arrays(emitted.in_bytes).items()}
        return self._prober.divergence(weights | {name: rounded(array) for name, array in small.items()})

    def followed(self, emitted: Emitted, most_bytes: int) -> Emitted:
        """A file of about these bytes whose weights make up for what those before them do (drift.py), where the effort asks for it and the outputs move less."""
        if not self._effort.follows or len(self._calibration) < 2:
            return emitted
        choices, share = [choice for payload in emitted.payloads for choice in payload.choices], 1 - SPARED
        road = drift.Road(self._task.model, self._calibration, self._task.untouchable, self._task.threads)
        arrays = self._arrays(emitted)
        best: tuple[int, Emitted] | None = None
        for _ in range(FOLLOWINGS):
            found = drift.followed(choices, arrays, road, share, self._start("following the drift"))
            anew, size = replace(self.sizer, coder=Coder(self._task.threads)).emit(found)
            if size <= most_bytes and (best is None or size > best[0]):
                best = size, anew
            if most_bytes * (1 - NEAR_ENOUGH) <= size <= most_bytes:
                break
            share *= 1 - 1.1 * (size - most_bytes * (1 - SPARED)) / sum(payload.bytes for payload in anew.payloads)
        return emitted if best is None or self.divergence(best[1]) >= self._moved(emitted, arrays) else best[1]

    def divergences_alone(self, emitted: Emitted) -> dict[str, float]:
        """The same for each weight alone, by name: the others are the original's."""
        tick, done = self._start("probing each weight"), []
        names = [choice.weight.name for payload in emitted.payloads for choice in payload.choices if choice.technique is not None]

        def alone(arrays: dict) -> float:
            done.append(self._prober.divergence(arrays))
            tick(len(done) / len(names))
            return done[-1]

        measured = spread(alone, self._decoded(emitted), lambda arrays: max(array.size for array in arrays.values()), self._task.threads)
        return dict(zip(names, measured, strict=True))

    def _arrays(self, emitted: Emitted) -> dict:
        """What all payloads decode to, by the names of initializers."""
        return {name: array for one in self._decoded(emitted) for name, array in one.items()}

    def _decoded(self, emitted: Emitted) -> list[dict]:
        each = spread(decoded, emitted.payloads, lambda payload: sum(choice.weight.view.size for choice in payload.choices), self._task.threads)
        return [arrays for many in each for arrays in many]

    def refused(self) -> tuple[tuple[str, str, int], ...]:
        """(name, reason, bytes) of weights that no technique took."""
        return tuple(
            (layer.weight.name, self._reasons[id(layer)], stored_bytes(layer)) for layer in self._layers if not self._candidates[id(layer)]
        )

    def _usable(self) -> list[Layer]:
        return [layer for layer in self._layers if self._candidates[id(layer)]]

    def _add(self, layer: Layer, more: Sequence[Candidate]) -> None:
        """Keeps candidates whose technique is new."""
        known = {one.technique for one in self._candidates[id(layer)]}
        self._candidates[id(layer)] += [one for one in more if one.technique not in known]


def _predicted(market: Market, budget_bytes: float) -> float:
    """The divergence predicted for this budget; infinite where nothing fits."""
    numbers = market.allocate(budget_bytes)
    return math.inf if numbers is None else sum(one.predicted for one in market.chosen(numbers))


def _may_fold(task: Task, layers: Sequence[Layer], pace: Pace | None, layout: Layout) -> bool:
    """Whether plain grids are too slow when fused, and the model's opset has what folded weights need."""
    if pace is None or (task.model.graph.opset_imports.get("") or 0) < LEAST_OPSET:
        return False
    each = [times(layer.weight.view, layer.work, Quantize(1.0), layer.is_pooled) for layer in layers]
    reordered = layout.microseconds({layer.weight.name: True for layer in layers})
    return sum(one.fused for one in each) > pace.slowdown * (sum(one.folded for one in each) + reordered)


def stored_bytes(layer: Layer) -> int:
    """Bytes of a weight in the input."""
    tensor = layer.weight.value.const_value
    return 0 if tensor is None else tensor.nbytes
