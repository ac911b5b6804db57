"""What follows a product and can be its end: the addition of a residual, and an activation.

    act(product + bias + residual)

onnxruntime fuses these into its own products, and cannot into ours. `mark` finds, before anything is changed, the additions that broadcast nothing;
`fuse` puts what follows the products of a compressed model into them; `activated` gives the standard nodes back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .operators import DOMAIN

PRODUCTS = ("CompressedMatMul", "CompressedGemm", "CompressedConv")
BIAS_INPUT, RESIDUAL_INPUT = 2, 3
EVEN_KEY = "onnx_compress.even"
"""In `Node.meta`, never in the file: an Add of two values of the same shape."""

PLAIN = ("Relu", "Sigmoid", "Tanh", "HardSwish")
"""Activations without parameters."""

PARAMETERS = {"LeakyRelu": (("alpha", 0.01),), "HardSigmoid": (("alpha", 0.2), ("beta", 0.5))}
"""Attributes and their defaults."""

GATES = {"Sigmoid": "MulSigmoid", "HardSigmoid": "MulHardSigmoid"}
"""x * gate(x), and what it is called."""

CLIP_INPUTS_SINCE = 11
"""The opset from which on the bounds of Clip are inputs."""


def mark(model: ir.Model) -> None:
    """Marks the additions of two values of one shape, as far as shapes can be inferred: our operators broadcast no residual."""
    shaped = model.clone()
    twins = zip(model.graph.all_nodes(), shaped.graph.all_nodes(), strict=True)
    ShapeInferencePass(check_type=False, strict_mode=False)(shaped)
    for node, twin in twins:
        if node.op_type == "Add" and not node.domain and _is_even(twin):
            node.meta[EVEN_KEY] = True


def _is_even(add: ir.Node) -> bool:
    shapes = [value.shape for value in (*add.inputs, *add.outputs) if value is not None and value.shape is not None]
    known = len(shapes) == 3 and all(isinstance(dim, int) or dim.value is not None for shape in shapes for dim in shape)
    return known and shapes[0] == shapes[1] == shapes[2]


@dataclass(frozen=True, slots=True)
class _End:
    """What follows a product: the nodes, the last value, and what they are as attributes and inputs of the product."""

    value: ir.Value
    nodes: tuple[ir.Node, ...] = ()
    residual: ir.Value | None = None
    activation: str = ""
    parameters: tuple[float, ...] = ()


def fuse(model: ir.Model, untouchable: Container[str]) -> None:
    """Puts residuals and activations behind our products into them; a Clip with a bound that `untouchable` names stays."""
    for node in list(model.graph.all_nodes()):
        if node.domain == DOMAIN and node.op_type in PRODUCTS:
            end = _residual(_End(node.outputs[0]))
            end = _activation(end, untouchable) or end
            if end.nodes:
                _replace(node, end)


def _replace(node: ir.Node, end: _End) -> None:
    """The product, in the place of the last node that it takes up: there, the residual is known."""
    inputs = [*node.inputs, None, None][: RESIDUAL_INPUT if end.residual is None else RESIDUAL_INPUT + 1]
    if end.residual is not None:
        inputs[RESIDUAL_INPUT] = end.residual
    while inputs[-1] is None:
        inputs.pop()
    attributes = list(node.attributes.values())
    if end.activation:
        attributes.append(ir.AttrString("activation", end.activation))
    if end.parameters:
        attributes.append(ir.AttrFloat32s("activation_parameters", end.parameters))
    new = ir.Node(DOMAIN, node.op_type, inputs, attributes, num_outputs=1)
    graph, last = node.graph, end.nodes[-1]
    assert graph is not None
    ir.convenience.replace_nodes_and_values(graph, last, [node, *end.nodes], [new], [last.outputs[0]], [new.outputs[0]])


def _consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, if all are in its own graph and it is no output; else none."""
    producer = value.producer()
    nodes = [use.node for use in value.uses()]
    apart = value.is_graph_output() or producer is None or any(node.graph is not producer.graph or node.domain for node in nodes)
    return [] if apart else nodes


def _residual(end: _End) -> _End:
    """With the Add that alone reads a product."""
    match _consumers(end.value):
        case [node] if node.op_type == "Add" and node.meta.get(EVEN_KEY):
            other = next((value for value in node.inputs if value is not end.value), None)
            return end if other is None else replace(end, value=node.outputs[0], nodes=(*end.nodes, node), residual=other)
    return end


def _activation(end: _End, untouchable: Container[str]) -> _End | None:
    """With the activation that alone reads it, or None."""
    match _consumers(end.value):
        case [node] if node.op_type in (*PLAIN, *PARAMETERS):
            return replace(end, nodes=(*end.nodes, node), activation=node.op_type, parameters=_parameters(node))
        case [node] if node.op_type == "Clip" and node.inputs[0] is end.value:
            bounds = _bounds(node, untouchable)
            return None if bounds is None else replace(end, nodes=(*end.nodes, node), activation="Clip", parameters=bounds)
        case [one, other]:
            gate, product = (one, other) if other.op_type == "Mul" else (other, one)
            inner = gate.op_type in GATES and product.op_type == "Mul" and {*product.inputs} == {end.value, gate.outputs[0]}
            if inner and _consumers(gate.outputs[0]) == [product]:
                return replace(end, nodes=(*end.nodes, gate, product), activation=GATES[gate.op_type], parameters=_parameters(gate))
    return None


def _parameters(node: ir.Node) -> tuple[float, ...]:
    return tuple(node.attributes.get_float(name, default) for name, default in PARAMETERS.get(node.op_type, ()))


def _bounds(node: ir.Node, untouchable: Container[str]) -> tuple[float, ...] | None:
    """Of a Clip whose bounds are constants, which may be given up; None for others."""
    found = [node.attributes.get_float(name, limit) for name, limit in (("min", -math.inf), ("max", math.inf))]
    for place, value in enumerate(node.inputs[1:]):
        if value is None:
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or tensor.size != 1 or value.name in untouchable:
            return None
        found[place] = float(tensor.numpy().reshape(()))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Restoring:
    """How to add to a restored graph: a node, and a scalar constant; and the model's opset."""

    add: Callable[[str, Sequence[ir.Value | None], dict[str, float]], ir.Value]
    scalar: Callable[[float], ir.Value]
    opset: int


def activated(node: ir.Node, value: ir.Value, restoring: Restoring) -> ir.Value:
    """`value` with the activation of a product of ours, by standard nodes."""
    name = node.attributes.get_string("activation", "")
    given = node.attributes.get_floats("activation_parameters", ())
    gates = {joint: gate for gate, joint in GATES.items()}
    if not name:
        return value
    if name == "Clip":
        return _clipped(value, given, restoring)
    operator = gates.get(name, name)
    attributes = {attribute: number for (attribute, _), number in zip(PARAMETERS.get(operator, ()), given, strict=True)}
    result = restoring.add(operator, [value], attributes)
    return restoring.add("Mul", [value, result], {}) if name in gates else result


def _clipped(value: ir.Value, bounds: Sequence[float], restoring: Restoring) -> ir.Value:
    if restoring.opset < CLIP_INPUTS_SINCE:
        return restoring.add("Clip", [value], {name: bound for name, bound in zip(("min", "max"), bounds, strict=True) if math.isfinite(bound)})
    inputs = [restoring.scalar(bound) if math.isfinite(bound) else None for bound in bounds]
    while inputs and inputs[-1] is None:
        inputs.pop()
    return restoring.add("Clip", [value, *inputs], {})
