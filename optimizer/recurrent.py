"""LSTM and GRU layers whose two matrices are both compressed become one operator of ours each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from .operators import DOMAIN
from .weights import Weight

LAYERS = ("LSTM", "GRU")
W_INPUT, R_INPUT = 1, 2
KEPT_ATTRIBUTES = ("clip", "direction", "hidden_size", "input_forget", "linear_before_reset")
ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}


def has_usual_settings(node: ir.Node) -> bool:
    """Whether our operator does what this LSTM or GRU does: the activations that are the default, and time as the first axis."""
    usual = ACTIVATIONS[node.op_type]
    named = tuple(node.attributes.get_strings("activations", usual))
    same = all(name.lower() == usual[place % len(usual)].lower() for place, name in enumerate(named))
    return same and node.attributes.get_int("layout", 0) == 0


def whole_layers(weights: Iterable[Weight]) -> tuple[ir.Node, ...]:
    """The layers that our operators know and that read both matrices, cast alike, from payloads."""
    halves: dict[ir.Node, dict[int, int]] = {}
    for weight in weights:
        for use in weight.uses:
            if use.kind in LAYERS:
                halves.setdefault(use.node, {})[use.index] = use.cast_to
    return tuple(
        node
        for node, casts in halves.items()
        if casts.keys() == {W_INPUT, R_INPUT} and len(set(casts.values())) == 1 and has_usual_settings(node)
    )


@dataclass(frozen=True, slots=True)
class Half:
    """One matrix of a layer: the payload, its member, and the dtype that it is cast to (0: none)."""

    payload: ir.Value
    member: int
    cast_to: int


def fuse(node: ir.Node, w: Half, r: Half) -> None:
    """Puts our operator in the place of an LSTM or GRU."""
    attributes = [node.attributes[name] for name in KEPT_ATTRIBUTES if name in node.attributes]
    if w.member or r.member:
        attributes.append(ir.AttrInt64s("members", [w.member, r.member]))
    if w.cast_to:
        attributes.append(ir.AttrInt64("to", w.cast_to))
    inputs = [node.inputs[0], w.payload, r.payload, *node.inputs[R_INPUT + 1 :]]
    new = ir.Node(DOMAIN, f"Compressed{node.op_type}", inputs, attributes, num_outputs=len(node.outputs))
    graph = node.graph
    assert graph is not None
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)

