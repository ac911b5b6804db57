"""Probes: how far the model's outputs move for one unit of a weight's layer error.

    sensitivity = divergence of the outputs with one weight replaced / layer error of that very replacement

One weight at a time, with the very error that its candidate makes; the bias correction that the candidate would get is part of the replacement. The
divergence of any other candidate of the weight is then predicted as sensitivity * layer error. Once with a candidate near the rate that the target
leaves, and once more with those that the allocator chose. One probe serves all families, since all count the error of the layer's output: with probes of
their own they win by what a probe flatters.

Over a wide range of rates a divergence is no multiple of the error (it saturates). Then each weight is probed at several rates, and between them the
sensitivity is interpolated in the logarithm of the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from .candidates import Offer
from .cost import times
from .parallel import spread
from .plan import Layer
from .probe import Prober
from .trial import Candidate
from .work import NO_TIMES, Times

LEAST = 1e-12
"""A divergence below this is numerical noise: such a weight counts as this sensitive, not as free."""

Tick = Callable[[float], None]

Keep: TypeAlias = Literal["all", "none", "mean"]


@dataclass(frozen=True, slots=True)
class Scaled:
    """A candidate with the divergence that its weight's probes predict for it, and with the times that the cost model gives it."""

    candidate: Candidate
    predicted: float
    times: Times = NO_TIMES

    @property
    def microseconds(self) -> float:
        """Of one run, where the candidate places the weight."""
        return self.times.folded if self.candidate.is_folded else self.times.fused


class Sensitivities:
    """By weight: {layer error: sensitivity}, one entry a probe."""

    def __init__(self, prober: Prober, threads: int) -> None:
        self._prober, self._threads = prober, threads
        self._found: dict[int, dict[float, float]] = {}

    def probe(self, jobs: Sequence[tuple[Layer, Candidate]], tick: Tick, keep: Keep = "all") -> list[float]:
        """Measures and keeps the sensitivity of each weight to its candidate; gives the divergences.

        What was found before stays (`all`), goes (`none`), or goes into the geometric mean with what is found now (`mean`): an allocation on one
        round of probes prefers what that round happened to flatter, so a further round alone is no better.
        """
        done: list[float] = []

        def divergence(job: tuple[Layer, Candidate]) -> float:
            found = self._prober.divergence(job[0].replacement(job[1].technique))
            done.append(found)
            tick(len(done) / len(jobs))
            return found

        measured = spread(divergence, jobs, lambda job: job[0].weight.view.size, self._threads)
        for (layer, candidate), found in zip(jobs, measured, strict=True):
            if candidate.error > 0:
                now = max(found, LEAST) / candidate.error
                if keep == "mean":
                    now = float(np.sqrt(now * self._sensitivity(layer, candidate.error)))
                kept = self._found.get(id(layer), {}) if keep == "all" else {}
                self._found[id(layer)] = kept | {candidate.error: now}
        self._tame()
        return measured

    def scaled(self, layer: Layer, candidate: Candidate) -> Scaled:
        """The candidate with the divergence that it is expected to cost on new inputs."""
        return Scaled(candidate, self._sensitivity(layer, candidate.error) * candidate.error * layer.optimism, times(layer.weight.view, layer.work, candidate.technique, layer.is_pooled))

    def _sensitivity(self, layer: Layer, error: float) -> float:
        known = self._found.get(id(layer), {})
        if len(known) < 2 or error <= 0:
            return next(iter(known.values()), LEAST)
        errors = np.array(sorted(known))
        divergences = np.maximum.accumulate([known[one] * one for one in errors])  # a larger error is never predicted to harm less
        return float(np.exp(np.interp(np.log(error), np.log(errors), np.log(divergences / errors))))

    def _tame(self) -> None:
        """A probe that broke the model: finer candidates must look better than coarser ones all the same."""
        finite = [value for known in self._found.values() for value in known.values() if np.isfinite(value)]
        worst = 10 * max(finite, default=1.0)
        for known in self._found.values():
            known.update({error: worst for error, value in known.items() if not np.isfinite(value)})


def reference(offer: Offer) -> Candidate:
    """The candidate in the middle of the rates of the first family."""
    candidates = sorted(next(iter(offer.families.values())), key=lambda one: one.bytes)
    return candidates[len(candidates) // 2]
