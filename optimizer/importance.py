"""How much each output channel of a layer matters to what comes after it: squared errors carried backwards through the graph.

An error of variance v in channel i of a layer's input adds v * sum over o of importance[o] * W[o, i]^2 to what its outputs cost; so importance goes
from the outputs of the model to its inputs, through whatever acts channel by channel, and is added up where a value has several consumers. Only ratios
within one layer count: a probe says how much the layer matters as a whole. Where a path leads through something that mixes channels in another
way (attention, shuffles, recurrent layers), all channels of a value count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .bias import constant_behind
from .model import Weight

Channels = NDArray[np.float64]

SAME = frozenset({
    "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Elu", "Selu", "Celu", "Softplus",
    "Mish", "Swish", "Identity", "Cast", "Dropout", "Sqrt", "Pow", "Abs", "Neg", "Exp", "Log",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "Resize", "Upsample", "Pad", "InstanceNormalization",
    "ReduceMean", "ReduceSum", "ReduceMax",
    "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Add", "Sub", "Mul", "Div", "BatchNormalization", "LayerNormalization", "Softmax",
    "LogSoftmax",
})
"""Operators whose output channel c depends on input channel c, apart from a common factor."""

SCALING = frozenset({"Mul", "Div", "BatchNormalization", "LayerNormalization"})

RANGE = 64.0
"""Importances within a layer differ by this factor from their mean at most: what is carried through many layers is an estimate."""


def row_importance(model: ir.Model, weights: Sequence[Weight]) -> dict[str, NDArray[np.float32]]:
    """For each weight that is multiplied in the main graph, float32 [rows] with mean 1, where its rows differ in importance."""
    found: dict[int, Channels | None] = {}
    order = list(model.graph)
    outputs = {id(value) for value in model.graph.outputs}
    for node in reversed(order):
        for value in node.outputs:
            found[id(value)] = _of(value, found, id(value) in outputs)
    rows = {}
    for weight in weights:
        uses = [use for use in weight.uses if use.kind in ("MatMul", "Gemm", "Conv") and use.node.graph is model.graph]
        each = [_after(use.node, found) for use in uses]
        if not each or len(uses) != len(weight.uses) or any(one is None or len(one) != weight.view.batch * weight.view.rows for one in each):
            continue
        total = np.sum([one for one in each if one is not None], axis=0)
        mean = total.mean()
        if np.isfinite(mean) and mean > 0 and weight.view.batch == 1:
            clipped = np.clip(total / mean, 1 / RANGE, RANGE)
            rows[weight.name] = (clipped / clipped.mean()).astype(np.float32)
    return rows


def _after(node: ir.Node, found: Mapping[int, Channels | None]) -> Channels | None:
    return found.get(id(node.outputs[0]))


def _of(value: ir.Value, found: Mapping[int, Channels | None], is_output: bool) -> Channels | None:
    """The importance of a value's channels; None where nothing is known of their differences."""
    if is_output:
        return None
    total: Channels | None = None
    for use in value.uses():
        one = _through(use.node, use.idx, found)
        if one is None or (total is not None and len(one) != len(total)):
            return None
        total = one if total is None else total + one
    return total


def _through(node: ir.Node, index: int, found: Mapping[int, Channels | None]) -> Channels | None:
    """What one consumer makes of the importance of its outputs."""
    after = _after(node, found)
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Conv", "Gemm", "MatMul") and index == 0:
        return _multiplied(node, after)
    if node.op_type not in SAME or after is None:
        return None
    if node.op_type in SCALING:
        return _rescaled(node, index, after)
    return after


def _multiplied(node: ir.Node, after: Channels | None) -> Channels | None:
    """sum over o of importance[o] * W[o, i]^2."""
    tensor = constant_behind(node.inputs[1])
    if tensor is None:
        return None
    squared = np.asarray(tensor.numpy()).astype(np.float32).astype(np.float64) ** 2
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        squared = squared.reshape(groups, squared.shape[0] // groups, squared.shape[1], -1).sum(-1)
        weights = np.ones(squared.shape[:2]) if after is None or after.size != squared.shape[0] * squared.shape[1] else after.reshape(squared.shape[:2])
        return np.einsum("go,goi->gi", weights, squared).reshape(-1)
    if squared.ndim != 2:
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1:
        return None
    by_output = squared if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1 else squared.T
    weights = np.ones(len(by_output)) if after is None or len(after) != len(by_output) else after
    return weights @ by_output


def _rescaled(node: ir.Node, index: int, after: Channels) -> Channels | None:
    """Through a factor for each channel; another activation as the factor counts as a common one."""
    factor = np.ones(1)
    if node.op_type in ("Mul", "Div"):
        tensor = constant_behind(node.inputs[1 - index])
        if tensor is None:
            return after
        factor = np.asarray(tensor.numpy()).astype(np.float64).reshape(-1)
        factor = 1 / np.maximum(np.abs(factor), 1e-30) if node.op_type == "Div" else factor
    elif index == 0:
        scale = constant_behind(node.inputs[1])
        if scale is None:
            return None
        factor = np.asarray(scale.numpy()).astype(np.float64).reshape(-1)
        if node.op_type == "BatchNormalization":
            variance = constant_behind(node.inputs[4])
            if variance is None:
                return None
            factor = factor / np.sqrt(np.asarray(variance.numpy()).astype(np.float64) + node.attributes.get_float("epsilon", 1e-5))
    return after * factor**2 if factor.size in (1, after.size) else None
