"""Names of values: unique over all scopes, and at last as short as can be."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from .constants import fresh_name


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value once, in the order of the file: all initializers and inputs of the main graph first."""
    yield from model.graph.inputs
    yield from (v for v in model.graph.initializers.values() if not v.is_graph_input())
    for graph in model.graphs():
        if graph is not model.graph:
            yield from graph.inputs
            yield from (v for v in graph.initializers.values() if not v.is_graph_input())
        for node in graph:
            yield from (v for v in node.outputs if v.name)


class UniqueNames(ir.passes.InPlacePass):
    """Rename values that share a name with another one, so that lifting and inlining can neither clash nor shadow.

    Inputs and outputs of the main graph keep theirs, then its initializers; node outputs and values inside subgraphs give way.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        outputs = set(model.graph.outputs)
        taken = {v.name for v in outputs if v.name} | {v.name for v in model.graph.inputs if v.name}
        taken |= set(model.graph.initializers)
        fixed = outputs | set(model.graph.inputs) | set(model.graph.initializers.values())
        count = 0
        for value in _values(model):
            if value in fixed or not value.name:
                continue
            name = fresh_name(value.name, taken)
            if name != value.name:
                value.name = name
                count += 1
        return ir.passes.PassResult(model, bool(count))


def short_names(taken: frozenset[str]) -> Iterator[str]:
    """a, b, ..., Z, 0, ..., 9, aa, ab, ...: base 62, without the names in `taken`."""
    digits = string.ascii_letters + string.digits
    number = 0
    while True:
        rest, name = number, ""
        while rest >= 0:
            name, rest = digits[rest % 62] + name, rest // 62 - 1
        if name not in taken:
            yield name
        number += 1


def _references(model: ir.Model) -> Counter[ir.Value]:
    """How often the file writes the name of each value: where it is made, and where it is used."""
    count = Counter(_values(model))
    for graph in model.graphs():
        count.update(graph.outputs)
        for node in graph:
            count.update(v for v in node.inputs if v is not None)
    return count


def shorten(model: ir.Model) -> dict[str, str]:
    """Give every value the shortest name, the most referenced first; empty all node names. The last edit before saving.

    Inputs and outputs of the main graph keep their names; model-local functions are scopes of their own and are left alone.
    Initializers lose `type` and `shape` of their values (their tensors keep them). Names are unique over the whole file, so that no subgraph
    hides a value of an outer one. Returns {old name: new name} of all that were renamed.
    """
    for graph in model.graphs():
        graph.name = "g"  # the checker wants one
        for node in graph:
            node.name = None
    fixed = set(model.graph.inputs) | set(model.graph.outputs)
    names = short_names(frozenset(v.name for v in fixed if v.name))
    order = [v for v, _ in _references(model).most_common() if v not in fixed]
    renamed = {value.name: next(names) for value in order if value.name}
    initializers = list(model.graph.initializers.values())
    _rename(order, renamed)
    _restore_order(model.graph, initializers)
    _forget_types(model)
    return renamed


def _rename(values: list[ir.Value], renamed: dict[str, str]) -> None:
    targets = [(value, renamed[value.name]) for value in values if value.name]
    for number, (value, _) in enumerate(targets):
        value.name = f"\0{number}"  # in two steps: the new name may still be another one's old name
    for value, name in targets:
        value.name = name


def _forget_types(model: ir.Model) -> None:
    """onnx_ir writes value_info for every initializer whose value has a type, 24 bytes each; its tensor says the same."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None and not value.is_graph_input() and not value.is_graph_output():
                value.shape, value.type = None, None


def _restore_order(graph: ir.Graph, initializers: list[ir.Value]) -> None:
    """Renaming an initializer moves it to the end; files should not depend on that."""
    graph.initializers.clear()
    for value in initializers:
        graph.initializers.add(value)
