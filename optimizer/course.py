"""Runs all feeds through a model and its compressed self, up to one inner value after another.

A stage goes on from what an earlier one kept: the values that the ways to all later stages lead through. So a stage takes the time of its own layers,
not of all before them. What would take more than KEPT_BYTES is not kept (a network for images is wide where it begins, and little lies before it there):
then the next stage, too, starts where this one did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from .calibrate import Feed
from .fronts import bytes_of, fronts
from .parallel import ahead
from .rig import Rig

KEPT_BYTES = 64 << 20
"""Of values that are kept, for all feeds, original and compressed; by the first feed, whose size against the others' tells."""

Array = NDArray[np.generic]
Result = TypeVar("Result")
Pair = tuple[Feed, Feed]
"""Values by name: the original's, the compressed model's."""


class Course:
    """`Course(model, fed, sources, feeds, threads)`: `fed` are the initializers that are replaced, `sources` the values to look at, in the order of the graph."""

    def __init__(self, model: ir.Model, fed: Sequence[ir.Value], sources: Sequence[str], feeds: Sequence[Feed], threads: int) -> None:
        self._model, self._fed, self._sources, self._feeds, self._threads = model, fed, sources, feeds, threads
        self._fronts = [front.values for front in fronts(model.graph, sources)]
        self._share = bytes_of(*feeds) / max(bytes_of(feeds[0]), 1)
        self._kept: list[Pair] = [({}, {}) for _ in feeds]

    def stage(self, number: int, replaced: Mapping[str, ort.OrtValue], work: Callable[[int, Array, Array], Result]) -> Iterator[Result]:
        """`work(feed, x, x')` for each feed's number, in their order, as many at a time as there are threads.

        x is the source of this number in the original, x' where `replaced` stand for constants of their names: as they will for good, as far as it meets them.
        """
        source, given = self._sources[number], self._kept[0][0]
        rig = Rig(self._model, self._fed, [source, *self._fronts[number]], whole=False, given=given)

        def both(feed: int, front: frozenset[str]) -> tuple[Result, Pair]:
            names = [source, *sorted(front - given.keys() - {source})]
            known = [before | rig.run(self._feeds[feed] | before, names, constants) for before, constants in zip(self._kept[feed], (None, replaced), strict=True)]
            result = work(feed, *(values[source] for values in known))
            return result, ({name: known[0][name] for name in front}, {name: known[1][name] for name in front})

        front = self._fronts[number]
        begun = both(0, front if front <= rig.readable else frozenset())
        front = frozenset(begun[1][0]) if bytes_of(*begun[1]) * self._share <= KEPT_BYTES else frozenset()
        rest = ahead(partial(both, front=front), range(1, len(self._feeds)), self._threads)
        for feed, (result, pair) in enumerate(chain([begun], rest)):
            if front:
                self._kept[feed] = pair
            yield result
