"""Decides where every byte goes: for a target, the most faithful file within it (`fit.py`); for a largest divergence, the smallest file within that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .emit import Emitted
from .evidence import Evidence
from .fit import fit
from .limit import smallest_within
from .report import Request
from .study import Start, Study, Task

COARSE_BITS = 2.5
"""Candidates around this rate reach down to the smallest that there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The compressed model, (name, reason, bytes) of weights that no technique took, and where asked for the divergence of each weight alone."""

    emitted: Emitted
    refused: tuple[tuple[str, str, int], ...]
    measured: Mapping[str, float]


def decide(task: Task, evidence: Evidence, request: Request, confirm: Callable[[Emitted], float], start: Start) -> Decision:
    """The best file for the request; `confirm` writes a file and measures its divergence. Raises TargetError."""
    study = Study(task, evidence, request, start)
    if request.has_target:
        budget = task.target_bytes - study.skeleton_bytes
        _extend(study, study.bits(task.target_bytes), budget)
        study.sharpen(budget)
        study.settle(budget)
        emitted = fit(study.market(), study.sizer, task.target_bytes, start("fitting the size"))
        measured = study.divergences_alone(emitted) if request.per_weight else {}
        return Decision(study.followed(emitted, task.target_bytes), study.refused(), measured)
    assert request.max_divergence is not None
    emitted = smallest_within(study, request.max_divergence, confirm, start)
    return Decision(emitted, study.refused(), study.divergences_alone(emitted) if request.per_weight else {})


def _extend(study: Study, bits: float, budget_bytes: int) -> None:
    """Candidates around the rate that the target leaves; and around a low one where those are all too large, for their sizes are not what rates suggest."""
    study.extend(bits)
    if bits > COARSE_BITS and study.market().allocate(budget_bytes) is None:
        study.extend(COARSE_BITS)
