"""What `--prefer` shifts: how much a plan may be slower than the dense model, and what that may cost. Plain data, read by the command line too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Weights are folded until the modelled time of all weights is at most `slowdown` times that of the dense ones, as long as the predicted divergence of
    a file of the same size grows to at most `worse` times what it would be without. At most `values` values are folded: while it creates a session,
    onnxruntime needs some 200 bytes for each.
    """

    slowdown: float
    worse: float
    values: int


POOL_VALUES = {"memory": 16383, "balanced": 65536, "speed": 65536}
"""Weights of up to so many values share pools. That makes their part of a file 2 % smaller and is faster, but a session keeps 2 bytes a value of them."""

PREFERENCES: dict[str, Pace | None] = {"memory": None, "balanced": Pace(1.3, 1.1, 300_000), "speed": Pace(1.05, 1.2, 2_500_000)}
"""The paces by name; with `memory` nothing is folded."""
