"""Where folded and fused convolutions meet: onnxruntime keeps values in blocks of channels between its own convolutions, ours read and write plain ones.

A value is reordered where one of its ends has blocks and the other has not, so a folded convolution between fused ones pays twice for what it gains.
Ends are convolutions, which have blocks where their weight is folded; operators that take either (`PASSING`); and all others, which are plain. What is
best for all of them is a minimum cut: Greig, Porteous and Seheult 1989, found by paths of Edmonds and Karp 1972.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from .cost import is_blocked, reordering
from .plan import Layer
from .work import Work, strides

PASSING = frozenset({
    "Add", "Sum", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "HardSigmoid", "Sigmoid", "Tanh", "BatchNormalization", "Identity", "Conv",
    "MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool",
})  # fmt: skip
"""Operators of onnxruntime that work on blocks where their inputs have some; Conv is one whose weight stays as it is."""

LEAST_CHANNELS = 16
"""A convolution of blocks with fewer channels in reads them plain."""

End: TypeAlias = str | ir.Node | None
"""A weight's name, an operator that passes blocks on, or None for all that is plain."""

SOURCE = ""
"""Of a cut, on the side of blocks; its sink is None."""

Rooms: TypeAlias = dict[End, dict[End, float]]
"""What can flow from one end to another."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The values of a model that may have to be reordered: (end, other end, microseconds)."""

    borders: tuple[tuple[End, End, float], ...] = ()

    @staticmethod
    def of(layers: Sequence[Layer]) -> Layout:
        """The layout of the model whose weights these are."""
        works = ((layer, use, work) for layer in layers for use, work in zip(layer.weight.uses, layer.work, strict=False))
        known = {use.node: _Conv(layer, work) for layer, use, work in works if use.kind == "Conv"}
        graphs = dict.fromkeys(node.graph for node in known)
        return Layout(tuple(border for graph in graphs if graph is not None for border in _borders(graph, known)))

    def microseconds(self, folded: Mapping[str, bool]) -> float:
        """What reordering takes in a run, with these weights folded or not."""
        return self._cut({name: math.inf if one else -math.inf for name, one in folded.items()}, 1.0)[0]

    def best(self, gains: Mapping[str, float], price: float) -> dict[str, bool]:
        """Which weights to fold, where that gains so much for each alone, and reordering costs `price` a microsecond."""
        blocked = self._cut(gains, price)[1]
        return {name: name in blocked for name in gains}

    def _cut(self, gains: Mapping[str, float], price: float) -> tuple[float, frozenset[End]]:
        rooms: Rooms = {SOURCE: {}, None: {}}
        rooms.update((name, {}) for name in gains)
        for one, other, microseconds in self.borders:
            for end, far in ((one, other), (other, one)):
                there = rooms.setdefault(end, {})
                there[far] = there.get(far, 0.0) + price * microseconds
        for name, gain in gains.items():
            end, far = (SOURCE, name) if gain > 0 else (name, None)
            rooms[end][far] = rooms[end].get(far, 0.0) + abs(gain)
        return _minimum_cut(rooms)


NO_LAYOUT = Layout()
"""Nothing is ever reordered."""


@dataclass(frozen=True, slots=True, eq=False)
class _Conv:
    """A weight, and one use of it."""

    layer: Layer
    work: Work

    @property
    def end(self) -> End:
        """What it is in a layout."""
        return self.layer.weight.name if is_blocked(self.layer.weight.view.dims) else None

    @property
    def outputs(self) -> float:
        """Values that come out."""
        return self.work.positions * self.layer.weight.view.dims[0]

    def inputs(self, node: ir.Node) -> float:
        """Values that go in, those that are in no layout left out."""
        channels = self.layer.weight.view.dims[1] * node.attributes.get_int("group", 1)
        return self.work.positions * self.work.stride * channels if channels >= LEAST_CHANNELS else 0.0


def _borders(graph: ir.Graph | ir.Function, known: Mapping[ir.Node, _Conv]) -> Iterator[tuple[End, End, float]]:
    """Those of one graph, in its order."""
    ends: dict[ir.Value, tuple[End, float]] = {}
    for node in graph:
        conv, sources = known.get(node), [value for value in node.inputs if value is not None]
        end: End = conv.end if conv else node if node.op_type in PASSING and not node.domain else None
        if conv:
            sources = sources[:1]
        for value in sources:
            near, size = ends.get(value, (None, conv.inputs(node) if conv else 0.0))
            if near is not end and size:
                yield near, end, reordering(size) / len(value.uses())
        size = conv.outputs if conv else max((ends[value][1] for value in sources if value in ends), default=0.0) / strides(node)
        if end is not None:
            ends.update((value, (end, size)) for value in node.outputs)
    for value in graph.outputs:
        if value in ends:
            yield ends[value][0], None, reordering(ends[value][1])


def _minimum_cut(rooms: Rooms) -> tuple[float, frozenset[End]]:
    """(the least sum of rooms whose removal parts source and sink, the ends on the side of the source then); uses `rooms` up."""
    total = 0.0
    while True:
        before = _reached(rooms)
        if None not in before:
            return total, frozenset(before)
        path: list[End] = [None]
        while path[-1] != SOURCE:
            path.append(before[path[-1]])
        steps = list(zip(path[1:], path, strict=False))
        room = min(rooms[one][other] for one, other in steps)
        for one, other in steps:
            rooms[one][other] -= room
            rooms[other][one] = rooms[other].get(one, 0.0) + room
        total += room


def _reached(rooms: Rooms) -> dict[End, End]:
    """Every end that something can flow to from the source, by fewest steps, with the end before it."""
    before: dict[End, End] = {SOURCE: SOURCE}
    queue: list[End] = [SOURCE]
    for end in queue:
        for far, room in rooms[end].items():
            if room > 0 and far not in before:
                before[far] = end
                queue.append(far)
    return before
