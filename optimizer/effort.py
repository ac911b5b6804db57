"""Levels of effort: what is spent in time to get more out of the same bytes. Plain data, read by the command line too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """What a level of effort controls.

    `feedback`: whole second-moment matrices are measured, so that errors can be fed back; only ever on calibration data. `trellises`: how many plain
    grids of each weight, the best first, are tried with a trellis too. `rounds`: rounds of probes; all but the first are where the allocator put each
    weight. `probes`: times the usual number of samples in each probe. `refined`: factors on the step of each chosen grid that are tried in those rounds. `follows`: the
    weights of the file are rounded once more, in the order of the graph, for what they meet in it (`drift.py`); only ever on calibration data.
    """

    name: str
    feedback: bool
    trellises: int
    rounds: int
    probes: int
    refined: tuple[float, ...]
    follows: bool = False


FAST = Effort("fast", feedback=False, trellises=0, rounds=1, probes=1, refined=())

BALANCED = Effort("balanced", feedback=True, trellises=1, rounds=2, probes=1, refined=tuple(2.0 ** (n / 8) for n in (-3, -2, -1, 1, 2, 3)), follows=True)

BEST = Effort("best", feedback=True, trellises=3, rounds=3, probes=4, refined=tuple(2.0 ** (n / 16) for n in range(-6, 7) if n), follows=True)

EFFORTS = {effort.name: effort for effort in (FAST, BALANCED, BEST)}


def effort_of(name: str | None, calibrated: bool) -> Effort:
    """The level of this name; by itself fast without data, balanced with data. Raises KeyError."""
    if name is None:
        return BALANCED if calibrated else FAST
    return EFFORTS[name]
