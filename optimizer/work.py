"""How often a weight is used in one run: read off the sizes of values while one sample runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .calibrate import Feed, samples
from .rig import Rig, RunError
from .weights import Use, Weight

VECTORS = 4
"""Up to so many positions a matrix is read more than it is computed with."""


@dataclass(frozen=True, slots=True)
class Work:
    """One use: what multiplies ("matrix", "vector", "pointwise", "spatial", "depthwise"), or "lookup" or "other", and with how many vectors in a run.

    A convolution reads `stride` positions for each that it makes, all axes together; a Clip follows it for `clipped` values.
    """

    kind: str
    positions: float
    stride: int = 1
    clipped: float = 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """Modelled microseconds a run: with the operators of ours, and with a dense weight."""

    fused: float = 0.0
    folded: float = 0.0


NO_TIMES = Times()
"""Of what is not timed."""


def measure(model: ir.Model, weights: Sequence[Weight], feeds: Sequence[Feed]) -> dict[str, tuple[Work, ...]]:
    """The work of each weight by name, for one sample: the first, alone where the model takes it alone. Uses in bodies count as one position."""
    visible = {value.name for node in model.graph for value in node.outputs} | {value.name for value in model.graph.inputs}
    seen = {_watched(use) for weight in weights for use in weight.uses if use.kind != "Other"} & visible
    sizes = _sizes(model, weights, feeds[0], sorted(str(name) for name in seen)) if feeds else {}
    return {weight.name: tuple(_work(weight, use, sizes.get(_watched(use))) for use in weight.uses) for weight in weights}


def _watched(use: Use) -> str:
    """The value whose size tells how often a weight is used: of a Conv what comes out, of all others what goes in."""
    match use.kind:
        case "Conv":
            return str(use.node.outputs[0].name)
        case "Gather":
            return str(use.node.inputs[1].name)  # type: ignore[union-attr]
        case _:
            return str(use.node.inputs[0].name)  # type: ignore[union-attr]


def _sizes(model: ir.Model, weights: Sequence[Weight], feed: Feed, names: Sequence[str]) -> dict[str, float]:
    """Values of one sample in each of the tensors called `names`."""
    if not names:
        return {}
    inputs = {str(value.name) for value in model.graph.inputs}
    inner = [name for name in names if name not in inputs]
    one = {name: array[:1] if array.ndim else array for name, array in feed.items()}
    if not inner:
        return {name: float(one[name].size) for name in names if name in one}
    rig = Rig(model, (weight.value for weight in weights if weight.is_float), inner)
    try:
        found, count = one | rig.run(one, inner), 1
    except RunError:  # a size that is fixed, or an input whose first axis is something else
        found, count = dict(feed) | rig.run(feed, inner), samples([feed])
    return {name: found[name].size / count for name in names if name in found}


def _work(weight: Weight, use: Use, values: float | None) -> Work:
    view = weight.view
    match use.kind:
        case "Other":
            return Work("other", 1.0)
        case "Gather":
            return Work("lookup", values or 1.0)
        case "LSTM" | "GRU":  # each direction meets all steps; a recurrent matrix counts as if it were as wide as the input
            vectors = view.k
        case "Conv":
            vectors = view.batch * view.rows
        case _:
            vectors = view.batch * view.k
    positions = 1.0 if values is None else max(values / vectors, 1.0)
    return Work(_kind(view.dims, use, positions), positions, strides(use.node), positions * vectors if use.kind == "Conv" and _is_clipped(use.node) else 0.0)


def _is_clipped(node: ir.Node) -> bool:
    """Whether all that a node makes goes through a Clip."""
    return [use.node.op_type for use in node.outputs[0].uses()] == ["Clip"]


def strides(node: ir.Node) -> int:
    """By how much fewer values come out of a convolution or a pool than go in, a channel: 1 for all other operators."""
    return math.prod([int(one) for one in node.attributes.get_ints("strides") or (1,)])


def _kind(dims: Sequence[int], use: Use, positions: float) -> str:
    if use.kind != "Conv":
        return "matrix" if positions > VECTORS else "vector"
    if use.node.attributes.get_int("group", 1) > 1 and dims[1] == 1:
        return "depthwise"
    return "pointwise" if all(size == 1 for size in dims[2:]) else "spatial"
