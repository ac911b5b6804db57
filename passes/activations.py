"""What elementwise functions make of an interval: monotone ones map its ends, others are known where they are constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ends = tuple[Floats, Floats]

SLACK = 2.0**-7
"""What an approximation of a smooth function in 16 bits may be off, relative to the value; ends at 0 and limits are exact."""

BOUNDED = {"Sigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0), "Softsign": (-1.0, 1.0), "Erf": (-1.0, 1.0)}
"""Functions that never leave these limits."""

NOT_BELOW = {"Exp": 0.0, "Softplus": 0.0, "Abs": 0.0, "Sqrt": 0.0, "HardSwish": -0.375, "Mish": -0.31, "Gelu": -0.171}
"""Lower bounds, with what they may be off."""


def activated(node: ir.Node, low: Floats, high: Floats, limits: Sequence[float | None]) -> Ends | None:
    """The ends of f(x) for x in [low, high]; `limits` are the node's further inputs where they are known numbers. None for a function that is not known."""
    function = _monotone(node, limits)
    if function is not None:
        return function(low), function(high)
    if node.op_type in BOUNDED:
        below, above = (np.full_like(low, limit) for limit in BOUNDED[node.op_type])
    elif node.op_type in NOT_BELOW:
        below, above = np.full_like(low, NOT_BELOW[node.op_type] * (1 + SLACK)), np.full_like(high, np.inf)
    else:
        return None
    is_dead = high < _zero_up_to(node)
    below, above = np.where(is_dead, 0.0, below), np.where(is_dead, 0.0, above)
    return _at_points(node, low, high, (below, above))


def _zero_up_to(node: ir.Node) -> float:
    """Below which the function is 0, whatever the rounding."""
    if node.op_type == "HardSwish":
        return -3.0 * (1 + SLACK)
    slope = node.attributes.get_float("alpha", 0.2)
    if node.op_type == "HardSigmoid" and slope > 0:
        return (-node.attributes.get_float("beta", 0.5) - SLACK) / slope
    return -math.inf


def _at_points(node: ir.Node, low: Floats, high: Floats, ends: Ends) -> Ends:
    """Constants to constants."""
    function = _smooth(node)
    points = (low == high) & np.isfinite(low)
    if function is None or not points.any():
        return ends
    values = np.array([function(float(x)) if point else 0.0 for x, point in zip(low, points, strict=True)])
    return np.where(points, values, ends[0]), np.where(points, values, ends[1])


def _smooth(node: ir.Node) -> Callable[[float], float] | None:
    """The function itself, for a constant."""
    match node.op_type:
        case "Sigmoid":
            return lambda x: 0.5 * (1 + math.tanh(x / 2))
        case "Tanh":
            return math.tanh
        case "Erf":
            return math.erf
        case "Abs":
            return abs
        case "Exp":
            return lambda x: math.exp(min(x, 700.0))
        case "HardSwish":
            return lambda x: x * min(max(x / 6 + 0.5, 0.0), 1.0)
        case "HardSigmoid":
            slope, shift = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
            return lambda x: min(max(slope * x + shift, 0.0), 1.0)
    return None


def _monotone(node: ir.Node, limits: Sequence[float | None]) -> Callable[[Floats], Floats] | None:
    """Functions that never fall, and that every runtime computes to the last bit or nearly so."""
    attributes = node.attributes
    match node.op_type:
        case "Relu":
            return lambda x: np.maximum(x, 0.0)
        case "Clip":
            return _clip(node, limits)
        case "LeakyRelu":
            slope = attributes.get_float("alpha", 0.01)
            return (lambda x: np.where(x < 0, slope * x, x)) if slope >= 0 else None
        case "Cast":
            return _cast(attributes.get_int("to", 0))
    return None


def _clip(node: ir.Node, limits: Sequence[float | None]) -> Callable[[Floats], Floats] | None:
    """Limits are attributes in old operator sets, else inputs; one that is computed says nothing."""
    given = [value is not None for value in node.inputs[1:]]
    if any(there and limit is None for there, limit in zip(given, limits, strict=True)):
        return None
    bounds = [*limits, None, None][:2]
    lowest = bounds[0] if bounds[0] is not None else node.attributes.get_float("min", -math.inf)
    highest = bounds[1] if bounds[1] is not None else node.attributes.get_float("max", math.inf)
    return lambda x: np.minimum(np.maximum(x, lowest), highest)


def _cast(to: int) -> Callable[[Floats], Floats] | None:
    """Rounding never reorders."""
    if to not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
        return None
    dtype = ir.DataType(to).numpy()
    return lambda x: np.asarray(x.astype(dtype), np.float64)
