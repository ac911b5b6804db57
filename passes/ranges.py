"""Between which values every channel of every inner value must lie, whatever the inputs of the model are: interval arithmetic over the graph.

    y = W x + b, x_i in [lo_i, hi_i]:  y in [b + sum min(w_i lo_i, w_i hi_i), b + sum max(w_i lo_i, w_i hi_i)]

Inputs are unbounded, activations bound: Relu, Clip, Sigmoid, Softmax. A channel is constant where both ends are equal. Intervals that are not
points are widened by what sums in floating point may be off, so that a runtime's own order of summing cannot leave them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .activations import activated
from .carriers import Layout, padded_axes
from .constants import FLOATS, dims_of, is_stored, small_array, stored, tensor_of

Floats = NDArray[np.float64]

MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Expand", "Identity", "Dropout", "Concat", "Gather")
AVERAGING = ("GlobalAveragePool", "GlobalMaxPool", "MaxPool", "AveragePool", "ReduceMean", "ReduceMax", "ReduceMin")
ROUNDING = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7, ir.DataType.DOUBLE: 2.0**-52}
"""Relative error of one operation by the type that is computed in; float otherwise."""

COARSE = 2.0**-6
"""The same, for a few operations in any of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """`low` and `high` for each entry along the channel axis, or one of each for all. float64 [size] or [1]."""

    low: Floats
    high: Floats

    @property
    def constant(self) -> Floats:
        """The value where it can only be one, NaN elsewhere."""
        return np.where((self.low == self.high) & np.isfinite(self.low), self.low, np.nan)

    def along(self, size: int) -> Range:
        """One entry for each of `size`."""
        return Range(np.broadcast_to(self.low, (size,)), np.broadcast_to(self.high, (size,)))

    def hull(self) -> Range:
        """One entry for all."""
        return Range(self.low.min(keepdims=True, initial=np.inf), self.high.max(keepdims=True, initial=-np.inf))

    def joined(self, value: float) -> Range:
        """With one more value that may be met."""
        return Range(np.minimum(self.low, value), np.maximum(self.high, value))

    def widened(self, relative: float, low: Floats, high: Floats) -> Range:
        """By a relative error of what the ends are sums of, where it is no constant.

        Rounding never reorders, so a sum in floating point is extreme where the sum is: the other end's size is of no account.
        """
        free = self.low != self.high
        return Range(np.where(free, self.low - relative * low, self.low), np.where(free, self.high + relative * high, self.high))

    def rounded(self, relative: float) -> Range:
        """By a relative error of the ends."""
        return self.widened(relative, np.abs(self.low), np.abs(self.high))


ANYTHING = Range(np.array([-np.inf]), np.array([np.inf]))


def find_ranges(model: ir.Model, layouts: Mapping[ir.Value, Layout]) -> dict[ir.Value, Range]:
    """Ranges of the values of the main graph about which anything is known."""
    ranges: dict[ir.Value, Range] = {}
    for node in model.graph:
        if node.domain not in ("", "ai.onnx") or not node.inputs or is_stored(node.outputs[0]):
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            found = _range(node, ranges, layouts)
        for value in node.outputs if node.op_type == "Split" else node.outputs[:1]:
            layout = layouts.get(value)
            if found is not None and (np.isfinite(found.low) | np.isfinite(found.high)).any():
                ranges[value] = _sound(found if layout is not None and found.low.size in (1, layout.size) else found.hull())
    return ranges


def _sound(found: Range) -> Range:
    """What came out undefined (0 times infinity) may be anything."""
    return Range(np.where(np.isnan(found.low), -np.inf, found.low), np.where(np.isnan(found.high), np.inf, found.high))


def _range(node: ir.Node, ranges: Mapping[ir.Value, Range], layouts: Mapping[ir.Value, Layout]) -> Range | None:
    operator = node.op_type
    before = [_of(value, node, ranges, layouts) for value in node.inputs]
    first = before[0]
    if operator in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return _layer(node, first, layouts)
    if operator == "BatchNormalization":
        return _normalized(node, first)
    if operator in AVERAGING:
        return _averaged(node, first)
    if operator in MOVING:
        return _moved(node, before, layouts)
    if operator == "Pad":
        return _padded(node, first, layouts)
    if operator in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"):
        return _combined(operator, before)
    if operator == "PRelu":
        return _prelu(first, before[1]) if len(before) == 2 else None
    limits = [None if (array := small_array(stored(value))) is None or array.size != 1 else float(array.reshape(-1)[0]) for value in node.inputs[1:]]
    ends = activated(node, first.low, first.high, limits)
    return None if ends is None else Range(*ends)


def _of(value: ir.Value | None, node: ir.Node, ranges: Mapping[ir.Value, Range], layouts: Mapping[ir.Value, Layout]) -> Range:
    """The range of an input; that of a constant by channel, where it has an entry for each channel of the output, and no other axis."""
    if value is None:
        return ANYTHING
    kept = stored(value)
    if kept is None:
        return ranges.get(value, ANYTHING)
    if tensor_of(kept).dtype not in FLOATS or not tensor_of(kept).size:
        return ANYTHING
    array, layout = _array(kept), layouts.get(node.outputs[0])
    if layout is not None and array.size == layout.size and array.ndim <= layout.rank:
        axis = layout.axis - (layout.rank - array.ndim)
        if axis >= 0 and array.shape[axis] == layout.size:
            return Range(array.reshape(-1), array.reshape(-1))
    return Range(array.min(keepdims=True).reshape(1), array.max(keepdims=True).reshape(1))


def _array(value: ir.Value) -> Floats:
    return np.asarray(tensor_of(value).numpy(), np.float64)


def _layer(node: ir.Node, x: Range, layouts: Mapping[ir.Value, Layout]) -> Range | None:
    """Interval arithmetic, with the taps of a filter summed first: positive and negative parts [rows, channels]."""
    weight, dims, layout = stored(node.inputs[1]), dims_of(node.inputs[1]), layouts.get(node.outputs[0])
    if weight is None or dims is None or layout is None or tensor_of(weight).dtype not in FLOATS:
        return None
    axes = {"Conv": (0, 1), "ConvTranspose": (1, 0), "MatMul": (1, 0)}.get(node.op_type)
    rows, columns = axes or ((0, 1) if node.attributes.get_int("transB", 0) == 1 else (1, 0))
    group = node.attributes.get_int("group", 1)
    if node.op_type in ("Conv", "ConvTranspose") and _meets_borders(node):
        x = x.joined(0.0)
    if group > 1 and not (node.op_type == "Conv" and dims[1] == 1 and dims[0] == group):
        return None
    array = np.moveaxis(np.asarray(tensor_of(weight).numpy()), (rows, columns), (0, 1)).reshape(dims[rows], dims[columns], -1).astype(np.float32, copy=False)
    terms = array[0].size + 2
    positive, negative = (np.asarray(part.sum(axis=2, dtype=np.float64)) for part in (np.maximum(array, 0), np.minimum(array, 0)))
    if group > 1:
        return _biased(node, _extremes(positive.reshape(-1), negative.reshape(-1), x.along(group), _zero_times), terms)
    x = x.along(dims[columns]) if x.low.size in (1, dims[columns]) else x.hull().along(dims[columns])
    return _biased(node, _extremes(positive, negative, x, _product), terms)


def _extremes(positive: Floats, negative: Floats, x: Range, times: Callable[[Floats, Floats], Floats]) -> tuple[Range, Range]:
    """(the range of W x, the sums of the absolute terms at its ends)."""
    low, high = times(positive, x.low) + times(negative, x.high), times(positive, x.high) + times(negative, x.low)
    below, above = np.abs(x.low), np.abs(x.high)
    return Range(low, high), Range(times(positive, below) - times(negative, above), times(positive, above) - times(negative, below))


def _biased(node: ir.Node, y: tuple[Range, Range], terms: int) -> Range | None:
    """alpha y + beta b, widened by the rounding of that many terms."""
    found, sizes = y
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    bias = stored(node.inputs[2]) if len(node.inputs) > 2 else None
    shift = np.zeros(1) if bias is None else beta * _array(bias).reshape(-1)
    is_unknown = len(node.inputs) > 2 and node.inputs[2] is not None and bias is None
    if is_unknown or alpha < 0 or shift.size not in (1, found.low.size):
        return None
    sums = Range(alpha * found.low + shift, alpha * found.high + shift)
    return sums.widened(_rounding(node) * terms, alpha * sizes.low + np.abs(shift), alpha * sizes.high + np.abs(shift))


def _rounding(node: ir.Node) -> float:
    """By the type of the weight as it is multiplied."""
    weight, kept = node.inputs[1], stored(node.inputs[1])
    cast = weight.producer() if weight is not None and weight is not kept else None
    dtype = ir.DataType(cast.attributes.get_int("to", 1)) if cast is not None else (tensor_of(kept).dtype if kept is not None else None)
    return ROUNDING.get(dtype, 2.0**-22) if dtype is not None else 2.0**-22


def _meets_borders(node: ir.Node) -> bool:
    attributes = node.attributes
    return node.op_type == "ConvTranspose" or attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or any(attributes.get_ints("pads", ()))


def _zero_times(weights: Floats, ends: Floats) -> Floats:
    """Where a weight is 0, the product is 0, also of what has no bound."""
    return np.where(weights != 0, weights * ends, 0.0)


def _product(weights: Floats, ends: Floats) -> Floats:
    """weights [rows, k] times ends [k], of one sign or zero each; infinite where a weight meets an infinite end. Without temporaries of the weight's size."""
    infinite = np.isinf(ends)
    result = np.asarray(np.einsum("rk,k->r", weights, np.where(infinite, 0.0, ends)))
    if infinite.any():
        meets = weights[:, infinite] * np.sign(ends[infinite])
        result = np.where((meets > 0).any(axis=1), np.inf, result)
        result = np.where((meets < 0).any(axis=1), np.where(np.isinf(result), np.nan, -np.inf), result)
    return result


def _normalized(node: ir.Node, x: Range) -> Range | None:
    """(x - mean) / sqrt(variance + epsilon) * scale + shift."""
    kept = [one for value in node.inputs[1:] if (one := stored(value)) is not None]
    if len(kept) != 4 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    scale, shift, mean, variance = (_array(value) for value in kept)
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    ends = np.sort([_zero_times(factor, x.low), _zero_times(factor, x.high)], axis=0)
    parts = np.abs(shift) + np.abs(mean * factor)
    found = Range(ends[0] + shift - mean * factor, ends[1] + shift - mean * factor)
    return found.widened(COARSE, np.abs(ends[0]) + parts, np.abs(ends[1]) + parts)


def _averaged(node: ir.Node, x: Range) -> Range:
    """Means and extremes stay between the ends; averages that count padding meet zeros."""
    is_counted = node.attributes.get_int("count_include_pad", 0) == 1
    if node.op_type == "AveragePool" and is_counted and (_meets_borders(node) or node.attributes.get_int("ceil_mode", 0) == 1):
        x = x.joined(0.0)
    if node.op_type in ("GlobalAveragePool", "AveragePool", "ReduceMean"):
        x = x.rounded(COARSE)
    return x


def _moved(node: ir.Node, before: Sequence[Range], layouts: Mapping[ir.Value, Layout]) -> Range:
    """By channel where the layout goes along, else one range for all."""
    if node.op_type == "Concat":
        return Range(np.concatenate([one.low for one in before]), np.concatenate([one.high for one in before])).hull()
    layout, source = layouts.get(node.outputs[0]), node.inputs[0]
    old = layouts.get(source) if source is not None else None
    x = before[0]
    if layout is None or old is None or x.low.size != old.size:
        return x.hull()
    repeats = layout.size // old.size
    return Range(np.repeat(x.low, repeats), np.repeat(x.high, repeats))


def _padded(node: ir.Node, x: Range, layouts: Mapping[ir.Value, Layout]) -> Range | None:
    """Constant padding: its value is met."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return x.hull()
    value = node.attributes.get_float("value", 0.0)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        array = small_array(node.inputs[2])
        if array is None or array.size != 1:
            return None
        value = float(array.reshape(-1)[0])
    layout = layouts.get(node.outputs[0])
    stays = layout is not None and layout.axis not in padded_axes(node, layout.rank)
    return (x if stays else x.hull()).joined(value)


def _combined(operator: str, before: Sequence[Range]) -> Range:
    """Elementwise operators of several values."""
    result = before[0]
    for other in before[1:]:
        fits = result.low.size == other.low.size or 1 in (result.low.size, other.low.size)
        result = _pair(operator, result, other) if fits else _pair(operator, result.hull(), other.hull())
    return result


def _pair(operator: str, x: Range, y: Range) -> Range:
    match operator:
        case "Add" | "Sum":
            found = Range(x.low + y.low, x.high + y.high)
        case "Sub":
            found = Range(x.low - y.high, x.high - y.low)
        case "Max":
            return Range(np.maximum(x.low, y.low), np.maximum(x.high, y.high))
        case "Min":
            return Range(np.minimum(x.low, y.low), np.minimum(x.high, y.high))
        case "Mul":
            found = _times(x, y)
        case _:
            safe = (y.low > 0) | (y.high < 0)
            inverse = Range(np.where(safe, 1 / np.where(safe, y.high, 1), -np.inf), np.where(safe, 1 / np.where(safe, y.low, 1), np.inf))
            found = _times(x, inverse)
    return found.rounded(COARSE)


def _times(x: Range, y: Range) -> Range:
    ends = np.array([_zero_times(a, b) for a in np.broadcast_arrays(x.low, x.high) for b in np.broadcast_arrays(y.low, y.high)])
    ends = np.where(np.isnan(ends), 0.0, ends)  # an end at 0 times one at infinity
    return Range(ends.min(axis=0), ends.max(axis=0))


def _prelu(x: Range, slope: Range) -> Range:
    """Monotone where the slope is not negative; else nothing is known."""
    falls = slope.low < 0
    low, high = np.where(x.low < 0, _zero_times(slope.high, x.low), x.low), np.where(x.high < 0, _zero_times(slope.low, x.high), x.high)
    return Range(np.where(falls, -np.inf, low), np.where(falls, np.inf, high)).rounded(COARSE)
