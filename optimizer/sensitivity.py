"""Probes: how far the model's outputs move for one unit of a weight's layer error.

    sensitivity = divergence of the outputs with one weight replaced / layer error of that very replacement

One weight at a time, once for each family, with a candidate near the rate that the target leaves; the bias correction that the candidate
would get is part of the replacement. The divergence of any other candidate of the family is then predicted as sensitivity * layer error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .candidates import Candidate, Offer
from .parallel import spread
from .probe import Prober

LEAST = 1e-12
"""A divergence below this is numerical noise: such a weight counts as this sensitive, not as free."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A candidate with the divergence that its weight's probe predicts for it."""

    candidate: Candidate
    predicted: float


def predict(offers: Sequence[Offer], prober: Prober, threads: int, tick: Callable[[float], None]) -> list[list[Scaled]]:
    """All candidates of every weight, over all families, with their predicted divergence."""
    jobs = [(offer, family) for offer in offers for family in offer.families]
    done: list[float] = []

    def sensitivity(job: tuple[Offer, str]) -> float:
        offer, family = job
        reference = _reference(offer.families[family])
        divergence = prober.divergence(offer.layer.replacement(reference.technique))
        done.append(divergence)
        tick(len(done) / len(jobs))
        return max(divergence, LEAST) / reference.error if reference.error > 0 else LEAST

    found = spread(sensitivity, jobs, lambda job: job[0].layer.weight.view.size, threads)
    finite = [value for value in found if np.isfinite(value)]
    worst = 10 * max(finite, default=1.0)  # a probe that broke the model: finer candidates must look better than coarser ones
    scaled: dict[int, list[Scaled]] = {id(offer): [] for offer in offers}
    for (offer, family), value in zip(jobs, found, strict=True):
        factor = value if np.isfinite(value) else worst
        scaled[id(offer)].extend(Scaled(one, factor * one.error) for one in offer.families[family])
    return [scaled[id(offer)] for offer in offers]


def _reference(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate in the middle of the family's rates."""
    return sorted(candidates, key=lambda one: one.bytes)[len(candidates) // 2]
