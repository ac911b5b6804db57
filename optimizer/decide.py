"""Decides where every byte goes: candidates, probes, allocation, probes of what was allocated, and the size of the real file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .allocate import allocate
from .candidates import CALIBRATED_ONLY, TECHNIQUES, Offer, offers, refined
from .coding import Coder
from .emit import Emitted
from .evidence import Evidence
from .fit import Market, Sizer, fit
from .parallel import spread
from .plan import Choice, Layer
from .probe import Prober
from .report import Request
from .sensitivity import Scaled, Sensitivities, reference

LEAST_BITS = 0.05
"""Candidates are made around this rate where the target leaves less."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The compressed model, and (name, reason, bytes) of weights that no technique took."""

    emitted: Emitted
    refused: tuple[tuple[str, str, int], ...]


def decide(task: Task, evidence: Evidence, request: Request, start: Start) -> Decision:
    """The best file within the target. Raises TargetError."""
    sizer = Sizer(task.model, task.untouchable, request.external_data, Coder(task.threads), task.bytes_before, task.data_name)
    skeleton_bytes = sizer.skeleton_bytes(evidence.layers, task.fixed)
    families = [name for name in TECHNIQUES[request.technique] if request.calibration or name not in CALIBRATED_ONLY]
    bits = _average_bits(evidence.layers, task.target_bytes - skeleton_bytes)
    offered = offers(evidence.layers, families, bits, task.threads, start("making candidates"))
    usable = [offer for offer in offered if offer.families]
    market = _market(usable, task, evidence, task.target_bytes - skeleton_bytes, start)
    refused = tuple((offer.layer.weight.name, offer.refusal, stored_bytes(offer.layer)) for offer in offered if not offer.families)
    return Decision(fit(market, sizer, task.target_bytes, start("fitting the size")), refused)


def _market(usable: Sequence[Offer], task: Task, evidence: Evidence, budget_bytes: float, start: Start) -> Market:
    """All candidates with their predicted divergence: probed near the average rate, and again where the allocator put each weight."""
    layers = [offer.layer for offer in usable]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    prober = Prober(task.model, [*(layer.weight for layer in layers), *biases], evidence.probes, task.threads)
    sensitivities = Sensitivities(prober, task.threads)
    sensitivities.probe([(offer.layer, reference(offer)) for offer in usable], start("probing"))
    market = Market(layers, _scaled(usable, sensitivities), task.fixed)
    numbers = allocate(market.options(), budget_bytes)
    if numbers is None:
        return market
    chosen = [one.candidate for one in market.chosen(numbers)]
    sensitivities.probe(list(zip(layers, chosen, strict=True)), start("probing again"))
    closer = spread(lambda job: refined(*job), list(zip(layers, chosen, strict=True)), lambda job: job[0].weight.view.size, task.threads)
    return Market(layers, [
        [*many, *(sensitivities.scaled(layer, one) for one in more)]
        for layer, many, more in zip(layers, _scaled(usable, sensitivities), closer, strict=True)
    ], task.fixed)


def _scaled(usable: Sequence[Offer], sensitivities: Sensitivities) -> list[list[Scaled]]:
    return [[sensitivities.scaled(offer.layer, one) for many in offer.families.values() for one in many] for offer in usable]


def _average_bits(layers: Sequence[Layer], left_bytes: int) -> float:
    """Bits a weight that the target leaves beside the graph; where it leaves none, few enough to find out what the smallest file is."""
    count = sum(layer.weight.view.size for layer in layers)
    return max(LEAST_BITS, 8 * left_bytes / max(count, 1))


def stored_bytes(layer: Layer) -> int:
    """Bytes of a weight in the input."""
    tensor = layer.weight.value.const_value
    return 0 if tensor is None else tensor.nbytes
