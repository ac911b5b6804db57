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
        self._fronts = fronts(model.graph, sources)
        self._share = _bytes(*feeds) / max(_bytes(feeds[0]), 1)
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
        front = frozenset(begun[1][0]) if _bytes(*begun[1]) * self._share <= KEPT_BYTES else frozenset()
        rest = ahead(partial(both, front=front), range(1, len(self._feeds)), self._threads)
        for feed, (result, pair) in enumerate(chain([begun], rest)):
            if front:
                self._kept[feed] = pair
            yield result


def fronts(graph: ir.Graph, sources: Sequence[str]) -> list[frozenset[str]]:
    """For each source: what was computed for it or those before it, and is read on the ways to later ones."""
    makers = {str(value.name): node for node in graph for value in node.outputs}
    steps, done = list[set[ir.Node]](), set[ir.Node]()
    for source in sources:
        steps.append(_before(makers[source], makers, done))
        done |= steps[-1]
    found, needed = list[frozenset[str]](), set[str]()
    for source, step in zip(reversed(sources), reversed(steps), strict=True):
        found.append(frozenset(needed))
        needed |= {source} | {name for node in step for name in _reads(node) if name in makers}
        needed -= {str(value.name) for node in step for value in node.outputs}
    return found[::-1]


def _bytes(*feeds: Feed) -> int:
    return sum(array.nbytes for feed in feeds for array in feed.values())


def _before(last: ir.Node, makers: Mapping[str, ir.Node], done: set[ir.Node]) -> set[ir.Node]:
    """The nodes that a node is computed from, and itself, without those that are done."""
    found, left = set[ir.Node](), [last]
    while left:
        node = left.pop()
        if node not in found and node not in done:
            found.add(node)
            left += [makers[name] for name in _reads(node) if name in makers]
    return found


def _reads(node: ir.Node) -> Iterator[str]:
    """Names of what a node reads, in its subgraphs, too."""
    yield from (str(value.name) for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        bodies = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()
        for body in bodies:
            yield from (name for inner in body for name in _reads(inner))
            yield from (str(value.name) for value in body.outputs)
