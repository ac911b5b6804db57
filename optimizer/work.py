"""How often a weight is used in one run: read off the shapes of what its consumers make of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .calibrate import Feed, samples
from .model import Use, Weight
from .rig import Rig, RunError

VECTORS = 4
"""Up to so many positions a matrix is read more than it is computed with."""


@dataclass(frozen=True, slots=True)
class Work:
    """One use: what multiplies ("matrix", "vector", "pointwise", "spatial", "depthwise"), or "lookup" or "other", and with how many vectors in a run."""

    kind: str
    positions: float


@dataclass(frozen=True, slots=True)
class Times:
    """Modelled microseconds a run: with the operators of ours, and with a dense weight."""

    fused: float = 0.0
    folded: float = 0.0


NO_TIMES = Times()
"""Of what is not timed."""


def measure(model: ir.Model, weights: Sequence[Weight], feeds: Sequence[Feed]) -> dict[str, tuple[Work, ...]]:
    """The work of each weight by name, for one sample: the first, alone where the model takes it alone. Uses in bodies count as one position."""
    outputs = {value.name: value for node in model.graph for value in node.outputs[:1] if value.name}
    seen = {str(use.node.outputs[0].name) for weight in weights for use in weight.uses} & outputs.keys()
    sizes = _sizes(model, weights, feeds[0], sorted(seen)) if feeds else {}
    return {weight.name: tuple(_work(weight, use, sizes.get(str(use.node.outputs[0].name))) for use in weight.uses) for weight in weights}


def _sizes(model: ir.Model, weights: Sequence[Weight], feed: Feed, names: Sequence[str]) -> dict[str, float]:
    """Values of one sample in each of the tensors called `names`."""
    if not names:
        return {}
    rig = Rig(model, (weight.value for weight in weights if weight.is_float), names)
    one = {name: array[:1] if array.ndim else array for name, array in feed.items()}
    try:
        found, count = rig.run(one, names), 1
    except RunError:  # a size that is fixed, or an input whose first axis is something else
        found, count = rig.run(feed, names), samples([feed])
    return {name: array.size / count for name, array in found.items()}


def _work(weight: Weight, use: Use, outputs: float | None) -> Work:
    view = weight.view
    if use.kind == "Gather":
        return Work("lookup", 1.0 if outputs is None else outputs / view.k)
    if use.kind == "Other":
        return Work("other", 1.0)
    positions = 1.0 if outputs is None else outputs / (view.batch * view.rows)
    return Work(_kind(view.dims, use, positions), positions)


def _kind(dims: Sequence[int], use: Use, positions: float) -> str:
    if use.kind != "Conv":
        return "matrix" if positions > VECTORS else "vector"
    if use.node.attributes.get_int("group", 1) > 1 and dims[1] == 1:
        return "depthwise"
    return "pointwise" if all(size == 1 for size in dims[2:]) else "spatial"
