"""Where a run with one constant replaced can begin: behind all that the constant has no part in, with values of the original that are kept.

A probe of a late layer computes what lies before that layer again, as all probes do. So for a few places, evenly spread over the layers, the values
that lead on from there are kept, for all feeds, where they fit: those places together behind which the probes of all layers have least to compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import onnx_ir as ir

from .calibrate import Feed
from .fronts import Front, bytes_of, fronts
from .parallel import ahead
from .rig import Rig

PLACES = 8
"""Places that are looked at."""

KEPT_BYTES = 64 << 20
"""Of values that are kept, for all places and feeds; by the first feed, whose size against the others' tells."""


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """`rig` computes the outputs from what `kept` has for each feed; the constants that are `passed` are read before."""

    rig: Rig
    kept: Sequence[Feed]
    passed: frozenset[str]


def starts(model: ir.Model, fed: Mapping[str, ir.Value], outputs: Sequence[str], feeds: Sequence[Feed], threads: int) -> list[Start]:
    """In the order of the graph; `fed` are the constants that may be replaced. Raises CompressError where the model does not run."""
    made = {str(value.name) for node in model.graph for value in node.outputs}
    sources = list(_sources(model.graph, fed, made))
    places = sorted({number * len(sources) // PLACES for number in range(1, PLACES)} - {0})
    if not places or not feeds:
        return []
    found = fronts(model.graph, [*sources, *(name for name in outputs if name in made)])
    share = bytes_of(*feeds) / max(bytes_of(feeds[0]), 1)
    sizes = {place: _bytes(model, fed, found[place], feeds[0]) * share for place in places}
    chosen = [found[place] for place in _best(sizes, len(sources))]
    names = sorted(frozenset[str]().union(*(front.values for front in chosen)))
    if not names:
        return []
    rig = Rig(model, fed.values(), names, whole=False)
    seen = list(ahead(partial(rig.run, names=names), feeds, threads))
    kept = [[{name: values[name] for name in front.values} for values in seen] for front in chosen]
    return [Start(Rig(model, fed.values(), outputs, whole=False, given=many[0]), many, front.passed) for front, many in zip(chosen, kept, strict=True)]


def _sources(graph: ir.Graph, fed: Mapping[str, ir.Value], made: set[str]) -> Iterator[str]:
    """What constants that are replaced are combined with, in the order of the graph."""
    known = set[str]()
    for node in graph:
        names = [str(value.name) for value in node.inputs if value is not None]
        if any(name in fed for name in names):
            new = [name for name in names if name in made and name not in known]
            known |= {*new}
            yield from new


def _bytes(model: ir.Model, fed: Mapping[str, ir.Value], front: Front, feed: Feed) -> float:
    """Of the values of a front; infinite where some are of a type that numpy does not have."""
    rig = Rig(model, fed.values(), sorted(front.values), whole=False)
    return bytes_of(rig.run(feed, sorted(front.values))) if front.values <= rig.readable else float("inf")


def _best(sizes: Mapping[int, float], count: int) -> tuple[int, ...]:
    """The places, of `count`, that fit together and spare most."""
    sets = (places for number in range(len(sizes) + 1) for places in combinations(sorted(sizes), number))
    fitting = (places for places in sets if sum(sizes[place] for place in places) <= KEPT_BYTES)
    return max(fitting, key=lambda places: sum(max((place for place in places if place <= number), default=0) for number in range(count)))
