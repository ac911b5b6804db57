"""First and second moments of what each weight is multiplied with, summed up batch by batch.

For y = W x the squared error that a changed row w' adds is (w - w') E[x x^T] (w - w')^T: the whole matrix drives error feedback
(`passes/feedback.py`), its diagonal weighs everything else. Where a bias takes up the mean error, the covariance takes the matrix's place.

Sample matrices are wrong where they are made of few samples: off the diagonal they are shrunk, as far as cross-validation tells (`shrinkage.py`); so the
sums over every second batch are kept apart.

A Gather multiplies nothing: mean 0, square (1 + share of the row * rows) / 2. Rows that calibration never asked for keep half of the average importance:
other texts will ask for them. Positions that a mask leaves out do not count. Several consumers of one weight are pooled, those that
multiply before those that look up. A weight whose input lies in a branch or loop body, and any other consumer, has no moments.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .calibrate import Feed, masked
from .rig import Rig
from .shrinkage import cross_validated, shrunk
from .sums import Half, Sums, Total
from .vectors import cut, vectors
from .weights import Use, Weight

WATCHED = 32
"""Inner values that one session hands out: bounds the activations of a batch in memory; more take further passes over the data."""

MATRIX_BYTES = 192 << 20
"""Matrices that are summed up in one pass over the data; one weight's at least."""

LEAST_VECTORS, VECTORS_PER_COLUMN = 16384, 8
"""Vectors that a matrix of k columns is made of, at most: max(16384, 8 k), spread evenly over batches and positions."""

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Of what a weight's values are multiplied with, over all samples and positions.

    `mean` and `square` broadcast against [batch, rows, k]. `covariance` is E[x x^T] - E[x] E[x]^T, float32 [m, k, k] (m equal parts of the rows,
    one after the other), shrunk by `shrinkage`, where it was asked for. Its k columns are those of `apart` vectors, interleaved, which are never
    multiplied together: one for each kernel position of a ConvTranspose. `optimism` is how many times larger an error is on unseen inputs.
    """

    mean: NDArray[np.float32]
    square: NDArray[np.float32]
    samples: int
    covariance: NDArray[np.float32] | None = None
    shrinkage: float = 1.0
    apart: int = 1
    optimism: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """One place to measure: the graph value `source` is what `use` multiplies `weight` with."""

    weight: Weight
    use: Use
    source: str

    @property
    def met(self) -> Hashable:
        """What it meets; places that meet the same share their sums."""
        rows = self.weight.view.rows if self.use.node.op_type == "Gather" else 0
        return self.source, cut(self.use, self.weight.view), rows


Take = Callable[[Weight, Moments], None]
"""Gets the moments of one weight, as soon as they are complete."""


def measure(model: ir.Model, weights: Sequence[Weight], feeds: Sequence[Feed], take: Take, matrices: bool, tick: Callable[[float], None] = lambda _: None) -> None:
    """Measures the weights that have moments, some at a time so that memory is bounded; `matrices` asks for E[x x^T].

    Raises CompressError where the model does not run on the feeds.
    """
    sought = [(weight, list(_taps(model, weight))) for weight in weights if weight.is_float]
    sought = [(weight, taps) for weight, taps in sought if taps]
    inputs = {str(value.name) for value in model.graph.inputs}
    groups = list(_groups(sought, inputs, matrices))
    for number, group in enumerate(groups):
        sums = {tap.met: (tap, Total()) for _, taps in group for tap in taps}
        inner = sorted({tap.source for tap, _ in sums.values()} - inputs)
        for position, (feed, values) in enumerate(_runs(model, weights, feeds, inner)):
            for tap, total in sums.values():
                _collect(tap, total, values[tap.source], masked(feed), len(feeds) if matrices else 0)
            tick((number + (position + 1) / len(feeds)) / len(groups))
        last = {tap.met: weight for weight, taps in group for tap in taps}
        for weight, taps in group:
            found = _moments(weight, taps, [sums[tap.met][1] for tap in taps])
            for met in {tap.met for tap in taps if last[tap.met] is weight}:
                del sums[met]
            if found is not None:
                take(weight, found)


def _runs(model: ir.Model, weights: Sequence[Weight], feeds: Sequence[Feed], inner: Sequence[str]) -> Iterator[tuple[Feed, Feed]]:
    """Each feed, and it again with the inner values; the session is gone before that of the next group is made: both hold all weights."""
    rig = Rig(model, (weight.value for weight in weights if weight.is_float), inner, whole=False) if inner else None
    for feed in feeds:
        yield feed, feed | rig.run(feed, inner) if rig else feed


def _groups(sought: Sequence[tuple[Weight, list[Tap]]], inputs: set[str], matrices: bool) -> Iterator[list[tuple[Weight, list[Tap]]]]:
    """Weights that are measured in one pass: bounded in watched values and in matrices."""
    group: list[tuple[Weight, list[Tap]]] = []
    watched: set[str] = set()
    sizes: dict[Hashable, int] = {}
    for weight, taps in sought:
        more = {tap.source for tap in taps} - inputs
        matrix = {tap.met: 8 * weight.view.batch * weight.view.k**2 if matrices else 0 for tap in taps}
        if group and (len(watched | more) > WATCHED or sum((sizes | matrix).values()) > MATRIX_BYTES):
            yield group
            group, watched, sizes = [], set(), {}
        group.append((weight, taps))
        watched |= more
        sizes |= matrix
    if group:
        yield group


def _taps(model: ir.Model, weight: Weight) -> Iterator[Tap]:
    """Where the weight's multipliers can be seen; a constant operand (positions) is no less a multiplier, but is not data."""
    found = [(use, multiplier(use)) for use in weight.uses]
    visible = [(use, value) for use, value in found if value is not None and _is_visible(model, value)]
    multiplies = [(use, value) for use, value in visible if use.node.op_type != "Gather"]
    for use, value in multiplies or visible:
        yield Tap(weight, use, str(value.name))


def _is_visible(model: ir.Model, value: ir.Value) -> bool:
    """A graph input, or made by a node of the main graph."""
    node = value.producer()
    return (value.is_graph_input() and value in model.graph.inputs) or (node is not None and node.graph is model.graph)


def multiplier(use: Use) -> ir.Value | None:
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


def counted(x: Array, mask: NDArray[np.bool_] | None, are_ids: bool = False) -> Array:
    """What a mask leaves of the positions of x, where it speaks of them: the axes that x has beyond it are one vector, unless positions are ids."""
    speaks = mask is not None and x.shape[: mask.ndim] == mask.shape and (x.ndim > mask.ndim or are_ids)
    return x[mask] if speaks else x


def each(k: int, batches: int) -> int:
    """Vectors of k values that one of so many batches adds, at most."""
    return max(max(LEAST_VECTORS, VECTORS_PER_COLUMN * k) // max(batches, 1), 64)


def _collect(tap: Tap, total: Total, x: Array, mask: NDArray[np.bool_] | None, batches: int) -> None:
    """Adds one batch; `batches` is how many there are where matrices are wanted, 0 where not."""
    x = counted(x, mask, tap.use.node.op_type == "Gather")
    if not x.size:
        return
    view = tap.weight.view
    if tap.use.node.op_type == "Gather":
        rows = x.astype(np.int64).reshape(-1)
        total.second = total.second + np.bincount(np.where(rows < 0, rows + view.rows, rows), minlength=view.rows).astype(np.float64)
        total.count += x.size
        return
    with np.errstate(over="ignore", invalid="ignore"):  # infinite activations: no moments
        found = vectors(tap.use, view, x.astype(np.float32, copy=False), each(view.k, batches))
        if not found.shape[1]:
            return
        total.first = total.first + found.sum(axis=1, dtype=np.float64)
        total.second = total.second + np.einsum("mnk,mnk->mk", found, found).astype(np.float64)
        total.count += found.shape[1]
        if batches == 1:  # all samples at once
            middle = found.shape[1] // 2
            total.halves[0].add(found[:, :middle])
            total.halves[1].add(found[:, middle:])
        elif batches:
            total.halves[total.batches % 2].add(found)
        total.batches += 1


def _moments(weight: Weight, taps: Sequence[Tap], totals: Sequence[Total]) -> Moments | None:
    """The pooled moments of a weight, or None where nothing usable was seen."""
    seen = [total for total in totals if total.count]
    if not seen:
        return None
    count = sum(total.count for total in seen)
    second = np.asarray(sum(total.second for total in seen)) / count
    if all(tap.use.node.op_type == "Gather" for tap in taps):
        asked = 0.5 + 0.5 * second * weight.view.rows
        return Moments(np.zeros((1, 1, 1), np.float32), asked.reshape(1, -1, 1).astype(np.float32), count)
    first = np.asarray(sum(total.first for total in seen)) / count
    repeats = weight.view.k // first.shape[1]  # the kernel positions of a ConvTranspose
    mean, square = (arranged(np.repeat(one, repeats, axis=1), weight) for one in (first, second))
    if mean is None or square is None or not (np.isfinite(mean).all() and np.isfinite(square).all()):
        return None
    moments = Moments(mean.astype(np.float32), square.astype(np.float32), count, apart=repeats)
    halves = [_pooled([total.halves[number] for total in seen]) for number in range(2)]
    return _with_covariance(moments, halves[0], halves[1], weight)


def arranged(values: Sums, weight: Weight) -> Sums | None:
    """[m, k] to what broadcasts against [batch, rows, k]; None where the rows are no multiple of m."""
    many, view = len(values), weight.view
    if many in (1, view.batch):
        return values[:, None]
    if view.batch > 1 or view.rows % many or values.shape[1] != view.k:
        return None
    return np.repeat(values, view.rows // many, axis=0)[None]


def _pooled(halves: Sequence[Half]) -> Half | None:
    """One half of the data over all consumers; None where nothing was summed up, or one of them has other parts."""
    matrices = [half.matrix for half in halves if half.matrix is not None and half.count]
    if not matrices or any(matrix.shape != matrices[0].shape for matrix in matrices):
        return None
    whole = matrices[0] if len(matrices) == 1 else np.add(matrices[0], matrices[1])
    for matrix in matrices[2:]:
        whole += matrix
    return Half(np.asarray(sum(half.first for half in halves)), whole, sum(half.count for half in halves))


def _with_covariance(moments: Moments, one: Half | None, other: Half | None, weight: Weight) -> Moments:
    """The moments with the shrunk covariance of both halves together."""
    if one is None or other is None or one.matrix is None or other.matrix is None or one.matrix.shape != other.matrix.shape:
        return moments
    halves = [half.covariance() for half in (one, other)]
    repeats = moments.apart
    values = weight.viewed() if repeats == 1 else weight.viewed()[..., ::repeats].copy()
    share, optimism = cross_validated(halves, values)
    del halves
    whole = shrunk(one.plus(other).covariance(), share)
    if repeats > 1:  # each kernel position has the inputs for itself
        whole = np.kron(whole, np.eye(repeats, dtype=np.float32)[None])
    return replace(moments, covariance=whole, shrinkage=share, optimism=optimism)
