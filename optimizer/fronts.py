"""What leads on from one place of a graph to later ones: the values with which a run can go on from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .calibrate import Feed


@dataclass(frozen=True, slots=True)
class Front:
    """Inner `values` that are computed before a place and read behind it, and what is `passed`: the constants, and whatever else is no inner value, that are read before it."""

    values: frozenset[str]
    passed: frozenset[str]


def fronts(graph: ir.Graph, sources: Sequence[str]) -> list[Front]:
    """The front behind each source, an inner value, in the order of the graph: of what was computed for it or those before it, what the ways to later ones read."""
    makers = {str(value.name): node for node in graph for value in node.outputs}
    steps, done, passed = list[set[ir.Node]](), set[ir.Node](), list[frozenset[str]]()
    for source in sources:
        steps.append(_before(makers[source], makers, done))
        done |= steps[-1]
        passed.append((passed[-1] if passed else frozenset()) | {name for node in steps[-1] for name in _reads(node) if name not in makers})
    found, needed = list[Front](), set[str]()
    for source, step, before in zip(reversed(sources), reversed(steps), reversed(passed), strict=True):
        found.append(Front(frozenset(needed), before))
        needed |= {source} | {name for node in step for name in _reads(node) if name in makers}
        needed -= {str(value.name) for node in step for value in node.outputs}
    return found[::-1]


def bytes_of(*feeds: Feed) -> int:
    """Of all values."""
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
