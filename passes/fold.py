"""Constant folding that never inflates: a region of constant nodes is replaced by its results if the file does not grow."""

from __future__ import annotations

import onnx_ir as ir

from .constants import WEIGHT_ELEMENTS, add_constant, all_names, fresh_name, is_constant, is_untouchable, tensor_of
from .evaluate_nodes import evaluate, is_pure

# What a node takes in the file beside the name of its operator and its attributes: tags, lengths, three one-letter names.
_NODE_BYTES = 13
_ATTRIBUTE_BYTES = 12
# What an initializer takes beside its contents.
_TENSOR_BYTES = 10


class FoldConstants(ir.passes.InPlacePass):
    """Evaluate nodes that depend on constants alone; keep the results where they take no more bytes than what they replace.

    Looked through by those who compress, hence never folded on weights: Transpose, a Cast from 16 bits, DequantizeLinear.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        known = _evaluate_all(model)
        regions = _regions([n for n in ir.traversal.RecursiveGraphIterator(model.graph) if n.outputs[0] in known])
        taken = all_names(model)
        paying = [region for region in regions if _pays(region, known)]
        for region in paying:
            _replace(model.graph, region, known, taken)
        return ir.passes.PassResult(model, bool(paying))


def _evaluate_all(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    """All values that follow from constants, wave by wave: what a wave has found are inputs of the next."""
    known: dict[ir.Value, ir.TensorProtocol] = {}
    tried: set[ir.Node] = set()
    candidates = [n for n in ir.traversal.RecursiveGraphIterator(model.graph) if any(n.inputs) and is_pure(n) and not _is_kept(n)]
    while True:
        wave = [n for n in candidates if n not in tried and all(v is None or v in known or is_constant(v) for v in n.inputs)]
        if not wave:
            return known
        tried.update(wave)
        tensors = {v: known[v] if v in known else tensor_of(v) for n in wave for v in n.inputs if v is not None}
        known |= {v: ir.tensor(array) for v, array in evaluate(wave, tensors, model).items()}


def _is_kept(node: ir.Node) -> bool:
    """Nodes that stand between a weight and its consumer, or that read what must not change."""
    if any(is_untouchable(v) for v in node.inputs):
        return True
    source = node.inputs[0]
    if source is None or not is_constant(source) or tensor_of(source).size < WEIGHT_ELEMENTS:
        return False
    if node.op_type == "Cast":
        return tensor_of(source).dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return node.op_type in ("Transpose", "DequantizeLinear")


def _regions(nodes: list[ir.Node]) -> list[list[ir.Node]]:
    """Nodes that feed each other or read the same large constant: what is freed is only known for all of them together."""
    parent = {node: node for node in nodes}

    def root(node: ir.Node) -> ir.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    readers: dict[ir.Value, ir.Node] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None:
                continue
            producer = value.producer()
            if producer in parent:
                parent[root(node)] = root(producer)
            elif is_constant(value) and tensor_of(value).size >= WEIGHT_ELEMENTS:
                parent[root(node)] = root(readers.setdefault(value, node))
    regions: dict[ir.Node, list[ir.Node]] = {}
    for node in nodes:
        regions.setdefault(root(node), []).append(node)
    return list(regions.values())


def _results(region: list[ir.Node]) -> list[ir.Value]:
    """What the rest of the graph reads of a region."""
    inside = set(region)
    return [v for n in region for v in n.outputs if v.is_graph_output() or any(use.node not in inside for use in v.uses())]


def _freed(region: list[ir.Node]) -> list[ir.Value]:
    """Initializers that nobody else reads."""
    inside = set(region)
    read = dict.fromkeys(v for n in region for v in n.inputs if v is not None and is_constant(v))
    return [v for v in read if not v.is_graph_output() and all(use.node in inside for use in v.uses())]


def _pays(region: list[ir.Node], known: dict[ir.Value, ir.TensorProtocol]) -> bool:
    results = _results(region)
    if any(v.is_graph_output() for v in results):
        return False
    before = sum(_NODE_BYTES + len(n.op_type) + _ATTRIBUTE_BYTES * len(n.attributes) for n in region)
    before += sum(_TENSOR_BYTES + tensor_of(v).nbytes for v in _freed(region))
    return sum(_TENSOR_BYTES + known[v].nbytes for v in results) <= before


def _replace(graph: ir.Graph, region: list[ir.Node], known: dict[ir.Value, ir.TensorProtocol], taken: set[str]) -> None:
    """Put initializers in the place of a region."""
    freed, results = _freed(region), _results(region)
    names = _names(freed, results, known)
    consumers = {v: [use for use in v.uses() if use.node not in set(region)] for v in results}
    placeholder = ir.Value(name="folded")
    for uses in consumers.values():
        for node, index in uses:
            node.replace_input_with(index, placeholder)
    for node in reversed(region):
        if node.graph is not None:
            taken.difference_update(v.name for v in node.outputs if v.name)
            node.graph.remove(node, safe=True)
    for value in freed:
        if value.name and value.name in graph.initializers:
            taken.discard(value.name)
            del graph.initializers[value.name]
    for value, uses in consumers.items():
        new = add_constant(graph, fresh_name(names[value], taken), known[value].numpy(), known[value].dtype)
        for node, index in uses:
            node.replace_input_with(index, new)


def _names(freed: list[ir.Value], results: list[ir.Value], known: dict[ir.Value, ir.TensorProtocol]) -> dict[ir.Value, str]:
    """The largest result takes the name of the largest weight that goes, so that users find it again."""
    names = {v: v.name or "constant" for v in results}
    largest = max(freed, key=lambda v: tensor_of(v).size, default=None)
    heir = max(results, key=lambda v: known[v].size, default=None)
    if largest is None or heir is None or not largest.name:
        return names
    if min(tensor_of(largest).size, known[heir].size) >= WEIGHT_ELEMENTS:
        names[heir] = largest.name
    return names
