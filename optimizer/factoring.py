"""Low rank in the graph: where factors pay, one layer becomes two, whose weights then are weights like all others.

| layer | becomes |
|---|---|
| MatMul(x, w) | MatMul(MatMul(x, right), left) |
| Gemm(x, w, c) | Gemm(MatMul(x, right), left, c) |
| Conv(x, w, b), 1 x 1 | Conv(Conv(x, right), left, b), strides and padding with the first |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.constants import all_names, fresh_name
from ..passes.lowrank import Factors, worthwhile
from ..passes.technique import Context, Refusal
from .parallel import spread
from .plan import Layer
from .weights import Weight, weight_of

LEAST_VALUES = 4096
"""A smaller weight has no room for a second payload."""

LEAST_BITS = 0.1

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Factored:
    """All layers, still to be measured, some of them replaced by two; the names of these, and (name, reason) of those that stay whole."""

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    whole: tuple[tuple[str, str], ...]

    def notes(self, asked: bool) -> tuple[str, ...]:
        """For the report: what was factored, and where the user asked for it, what was not and why."""
        done = tuple(f"{name} is stored as two factors" for name in self.names)
        return done + tuple(f"{name} stays whole: {reason}" for name, reason in self.whole if asked)


def factor(model: ir.Model, layers: Sequence[Layer], untouchable: frozenset[str], left_bytes: int, threads: int) -> Factored:
    """Rewrites the model in place wherever factors pay at the average rate that `left_bytes` for all weights mean."""
    bits = max(LEAST_BITS, 8 * left_bytes / max(sum(layer.weight.view.size for layer in layers), 1))

    def tried(layer: Layer) -> Factors | Refusal:
        weight = layer.weight
        reason = hindrance(weight, model) if weight.name not in untouchable else "left out by --include or --exclude"
        if reason:
            return Refusal(reason)
        viewed = weight.viewed()
        found = worthwhile(viewed, layer.context, bits)
        return found if isinstance(found, Refusal) else found.apply(viewed, layer.context)

    results = spread(tried, layers, lambda layer: layer.weight.view.size, threads)
    taken = all_names(model)
    found: list[Layer] = []
    names, whole = [], []
    for layer, result in zip(layers, results, strict=True):
        if isinstance(result, Refusal):
            whole.append((layer.weight.name, result.reason))
            weights = [layer.weight]
        else:
            names.append(layer.weight.name)
            weights = _rewritten(model, layer.weight, result, taken)
        found += [Layer(weight, Context(seed=layer.context.seed), pool_values=layer.pool_values) for weight in weights]
    return Factored(tuple(found), tuple(names), tuple(whole))


def hindrance(weight: Weight, model: ir.Model) -> str:
    """Why a layer cannot become two; empty where it can."""
    kinds = {use.kind for use in weight.uses}
    if kinds - {"MatMul", "Gemm", "Conv"}:
        return "factors are for weights that are multiplied only, not for one that is looked up or decompressed, or of a recurrent layer"
    if len(weight.uses) != 1:
        return "several layers share it"
    use, view = weight.uses[0], weight.view
    if use.between or weight.dtype != ir.DataType.FLOAT:
        return "it is stored in 16 bits or transposed"
    if use.node.graph is not model.graph:
        return "it is used in a branch or loop body"
    if use.kind == "Conv" and (int(np.prod(view.dims[2:])) != 1 or use.node.attributes.get_int("group", 1) != 1):
        return "it is no 1 x 1 convolution"
    if view.batch != 1 or (use.kind == "Gemm" and use.node.attributes.get_int("transA", 0) != 0):
        return "it is no plain matrix"
    return f"it has fewer than {LEAST_VALUES} values" if view.size < LEAST_VALUES else ""


def _rewritten(model: ir.Model, weight: Weight, factors: Factors, taken: set[str]) -> list[Weight]:
    """Puts two layers in the place of one; gives their weights, the first one first."""
    use, graph = weight.uses[0], model.graph
    node = use.node
    by_columns = weight.view.permutation[0] == 1
    ones = (1,) * (len(weight.view.dims) - 2)
    right = factors.right.reshape(*factors.right.shape, *ones) if use.kind == "Conv" else factors.right.T
    left = factors.left.reshape(*factors.left.shape, *ones) if use.kind == "Conv" else factors.left.T if by_columns else factors.left
    first_weight, second_weight = (_initializer(graph, f"{weight.name}.{end}", array, taken) for end, array in (("right", right), ("left", left)))
    first = ir.Node("", "Conv" if use.kind == "Conv" else "MatMul", [node.inputs[0], first_weight], num_outputs=1)
    first.outputs[0].name = fresh_name(f"{weight.name}.between", taken)
    second = ir.Node("", node.op_type, [first.outputs[0], second_weight, *node.inputs[2:]], num_outputs=1)
    (first if use.kind == "Conv" else second).attributes.update(dict(node.attributes))
    ir.convenience.replace_nodes_and_values(graph, node, [node], [first, second], [node.outputs[0]], [second.outputs[0]])
    graph.initializers.pop(str(weight.value.name))
    made = [weight_of(value) for value in (first_weight, second_weight)]
    assert all(isinstance(one, Weight) for one in made), made
    return [one for one in made if isinstance(one, Weight)]


def _initializer(graph: ir.Graph, name: str, array: Floats, taken: set[str]) -> ir.Value:
    name = fresh_name(name, taken)
    tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value
