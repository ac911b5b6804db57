"""First and second moments of what each weight is multiplied with, summed up batch by batch.

For y = W x the squared error that a changed weight adds is, where inputs are uncorrelated, sum over k of E[x_k^2] (w_k - w'_k)^2.

| consumer | x, for weight [batch, rows, k] | shape of the moments |
|---|---|---|
| MatMul, Gemm | the last axis of the input (of the right matrix for a weight on the left) | [1 or batch, 1, k] |
| Conv | channel and kernel position: exactly the input values that this tap meets, padding included | [1, 1 or rows, k], [groups, 1, k] |
| ConvTranspose | input channel | [1, 1, k] |
| LSTM, GRU, RNN | the input for W, the outputs for R (each direction its own) | [1 or batch, 1, k] |
| Gather | nothing is multiplied: mean 0, square (1 + share of the row * rows) / 2 | [1, rows, 1] |

A Gather's rows that calibration never asked for keep half of the average importance: other texts will ask for them. Positions that a mask leaves
out do not count. Several consumers of one weight are pooled, those that multiply before those that look up. A weight whose input lies in a
branch or loop body, and any other consumer, has no moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .calibrate import Feed, masked
from .model import Use, Weight
from .rig import Rig
from .taps import Geometry, tap_sums

WATCHED = 32
"""Inner values that one session hands out: bounds the activations of a batch in memory; more take further passes over the data."""

RECURRENT = ("LSTM", "GRU", "RNN")

Array = NDArray[np.generic]
Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of what a weight's values are multiplied with, over all samples and positions; broadcasts against [batch, rows, k]."""

    mean: NDArray[np.float32]
    square: NDArray[np.float32]
    samples: int


@dataclass(slots=True)
class Total:
    """Sums of x and of x^2 over `count` vectors so far."""

    first: Sums | float = 0.0
    second: Sums | float = 0.0
    count: int = 0

    def add(self, first: Sums | float, second: Sums | float, count: int) -> None:
        """Adds one batch."""
        self.first, self.second, self.count = self.first + first, self.second + second, self.count + count


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """One place to measure: the graph value `source` is what `use` multiplies `weight` with."""

    weight: Weight
    use: Use
    source: str
    total: Total = field(default_factory=Total)


def measure(model: ir.Model, weights: Sequence[Weight], feeds: Sequence[Feed]) -> dict[str, Moments]:
    """Moments by weight name, for the weights that have some. Raises CompressError where the model does not run on the feeds."""
    taps = [tap for weight in weights if weight.is_float for tap in _taps(model, weight)]
    inputs = {str(value.name) for value in model.graph.inputs}
    sources = sorted({tap.source for tap in taps})
    inner = [name for name in sources if name not in inputs]
    groups = [inner[start : start + WATCHED] for start in range(0, len(inner), WATCHED)] or [[]]
    for number, group in enumerate(groups):
        rig = Rig(model, (weight.value for weight in weights if weight.is_float), group)
        ready = [tap for tap in taps if tap.source in group or (number == 0 and tap.source in inputs)]
        for feed in feeds:
            values = feed | rig.run(feed, group) if group else feed
            _collect(ready, values, masked(feed))
    return {
        weight.name: found for weight in weights if (found := _moments(weight, [tap for tap in taps if tap.weight is weight])) is not None
    }


def _collect(taps: Sequence[Tap], values: Mapping[str, Array], mask: NDArray[np.bool_] | None) -> None:
    for tap in taps:
        x = values[tap.source]
        if mask is not None and x.shape[: mask.ndim] == mask.shape and (x.ndim > mask.ndim or tap.use.node.op_type == "Gather"):
            x = x[mask]
        if x.size:
            with np.errstate(over="ignore", invalid="ignore"):  # infinite activations: no moments
                tap.total.add(*_sums(tap, x))


def _taps(model: ir.Model, weight: Weight) -> Iterator[Tap]:
    """Where the weight's multipliers can be seen; a constant operand (positions) is no less a multiplier, but is not data."""
    found = [(use, _multiplier(use)) for use in weight.uses]
    visible = [(use, value) for use, value in found if value is not None and _is_visible(model, value)]
    multiplies = [(use, value) for use, value in visible if use.node.op_type != "Gather"]
    for use, value in multiplies or visible:
        yield Tap(weight, use, str(value.name))


def _is_visible(model: ir.Model, value: ir.Value) -> bool:
    """A graph input, or made by a node of the main graph."""
    node = value.producer()
    return (value.is_graph_input() and value in model.graph.inputs) or (node is not None and node.graph is model.graph)


def _multiplier(use: Use) -> ir.Value | None:
    """The value that a use multiplies its weight with, or looks it up by."""
    node, index = use.node, use.index
    if node.domain not in ("", "ai.onnx"):
        return None
    match node.op_type, index:
        case (("MatMul" | "Gemm" | "Conv" | "ConvTranspose"), 1):
            return node.inputs[0]
        case "MatMul", 0:
            return node.inputs[1]
        case "Gather", 0 if use.kind == "Gather":
            return node.inputs[1]
        case (("LSTM" | "GRU" | "RNN"), 1):
            return node.inputs[0]
        case (("LSTM" | "GRU" | "RNN"), 2):
            return node.outputs[0] if node.outputs[0].name else None
    return None


def _sums(tap: Tap, x: Array) -> tuple[Sums, Sums, int]:
    """Sums of x and x^2 over all positions, shaped to broadcast against [batch, rows, k] (Gather: counts of rows in both)."""
    node, view = tap.use.node, tap.weight.view
    if node.op_type == "Gather":
        rows = x.astype(np.int64).reshape(-1)
        counts = np.bincount(np.where(rows < 0, rows + view.rows, rows), minlength=view.rows)
        return np.zeros((1, 1, 1)), counts.reshape(1, -1, 1).astype(np.float64), x.size
    values = x.astype(np.float32, copy=False)
    if node.op_type == "Conv":
        return tap_sums(values, Geometry.of(node, view))
    if node.op_type == "ConvTranspose":
        return _spread(values, int(np.prod(view.dims[2:], dtype=np.int64)))
    if node.op_type in RECURRENT and tap.use.index == 2:
        directions = np.moveaxis(values, 2 if _attribute(node, "layout") else 1, 0)
        return _vectors(directions.reshape(view.batch, -1, view.k))
    if node.op_type == "MatMul" and tap.use.index == 0:
        values = np.swapaxes(values, -1, -2)
    if node.op_type == "Gemm" and _attribute(node, "transA"):
        values = values.T
    own = view.batch > 1 and node.op_type == "MatMul" and values.shape[-len(view.dims) : -2] == view.dims[:-2]
    if own:  # every matrix of the stack meets inputs of its own
        stacked = values.reshape(-1, view.batch, values.shape[-2], values.shape[-1])
        return _vectors(np.moveaxis(stacked, 1, 0).reshape(view.batch, -1, values.shape[-1]))
    return _vectors(values.reshape(1, -1, values.shape[-1]))


def _attribute(node: ir.Node, name: str) -> int:
    return node.attributes.get_int(name, 0)


def _vectors(x: NDArray[np.float32]) -> tuple[Sums, Sums, int]:
    """x [batch, vectors, k]: sums [batch, 1, k]."""
    return x.sum(axis=1, dtype=np.float64)[:, None], np.einsum("bnk,bnk->bk", x, x).astype(np.float64)[:, None], x.shape[1]


def _spread(x: NDArray[np.float32], taps: int) -> tuple[Sums, Sums, int]:
    """x [samples, channels, ...]: sums [1, 1, channels * taps], the same for each tap of a channel."""
    flat = x.reshape(*x.shape[:2], -1)
    sums = flat.sum(axis=(0, 2), dtype=np.float64), np.einsum("ncp,ncp->c", flat, flat).astype(np.float64)
    first, second = (np.repeat(one, taps).reshape(1, 1, -1) for one in sums)
    return first, second, flat.shape[0] * flat.shape[2]


def _moments(weight: Weight, taps: Sequence[Tap]) -> Moments | None:
    """The pooled moments of a weight, or None where nothing usable was seen."""
    total, lookups = Total(), all(tap.use.node.op_type == "Gather" for tap in taps)
    for tap in taps:
        if tap.total.count:
            total.add(tap.total.first, tap.total.second, tap.total.count)
    if not total.count:
        return None
    mean, square = (np.asarray(one, dtype=np.float64) / total.count for one in (total.first, total.second))
    if lookups:
        square = 0.5 + 0.5 * square * weight.view.rows
    fits = all(have in (1, want) for have, want in zip(square.shape, weight.view.shape, strict=True))
    if not fits or not (np.isfinite(mean).all() and np.isfinite(square).all()):
        return None
    return Moments(mean.astype(np.float32), square.astype(np.float32), total.count)
