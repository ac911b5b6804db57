"""Folded weights: levels and scales in plain operators of ai.onnx, which onnxruntime evaluates once, when it creates a session (FORMAT.md, section 9).

All weights of one base are digits of one stream of words, which a chain of nodes takes apart; a weight is a piece of it, reshaped, times its scales. The
chain is constant, so that a dense weight is all that is left of it, and the runtime's own prepacked kernels multiply with it. `unfolded` is the inverse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.constants import add_constant
from ..passes.radix import packing
from ..runtime.evaluate import dense_values
from ..runtime.form import Grid, Member
from .errors import CompressError

SPLIT_INPUT_OPSET = 13
"""From here on Split takes its sizes as an input instead of an attribute."""

LEAST_OPSET = 7
"""Before, Div and Mul did not broadcast as they do now."""

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What is stored of a folded weight: `levels` int32 in its own dims, and `scales` (float16, or one float32) that broadcast against them."""

    base: int
    dtype: int
    levels: NDArray[np.int32]
    scales: Array

    @staticmethod
    def of(base: int, member: Member) -> Folded:
        """A Grid that `Radix` has made."""
        form, view = member.form, member.view
        assert isinstance(form, Grid)
        return Folded(base, member.dtype, view.unsee(form.levels.levels), _scales(member))

    @property
    def bytes(self) -> int:
        """Bytes of levels and scales; what the nodes take is part of the graph."""
        return packing(self.base).bytes(self.levels.size) + self.scales.nbytes

    def array(self) -> Array:
        """The dense weight, as a session sees it."""
        with np.errstate(over="ignore"):
            values = self.scales.astype(np.float32) * self.levels.astype(np.float32)
            return np.asarray(values.astype(ir.DataType(self.dtype).numpy()))


def _scales(member: Member) -> Array:
    """One scale, or one a row in dims that broadcast against those of the weight."""
    assert isinstance(member.form, Grid)
    dense, view = member.form.scale, member.view
    if len(dense.codes) == 1:
        return np.asarray(dense_values(dense)).reshape(())
    rows, axes = 1, 0
    while rows < view.batch * view.rows:
        rows *= view.dims[view.permutation[axes]]
        axes += 1
    dims = [view.dims[axis] if place < axes else 1 for place, axis in enumerate(view.permutation)]
    scales = dense.codes.view(np.float16).reshape(dims).transpose(np.argsort(view.permutation, kind="stable"))
    first = next((axis for axis, size in enumerate(scales.shape) if size > 1), len(scales.shape) - 1)
    return np.ascontiguousarray(scales.reshape(scales.shape[first:]))


def write(model: ir.Model, weights: Mapping[str, Folded], prefix: str) -> dict[str, ir.Value]:
    """Puts constant nodes in the place of the initializers of these names; gives the values that stand for them."""
    found: dict[str, ir.Value] = {}
    for _, same in groupby(sorted(weights.items(), key=lambda one: one[1].base), key=lambda one: one[1].base):
        group = list(same)
        writer = _Writer(model, f"{prefix}.base.{group[0][1].base}")
        pieces = writer.levels([folded for _, folded in group])
        scales = writer.scales([folded.scales for _, folded in group])
        for (name, folded), piece, scale in zip(group, pieces, scales, strict=True):
            found[name] = writer.weight(folded, piece, scale)
    for name, value in found.items():
        ir.convenience.replace_all_uses_with(model.graph.initializers[name], value)
    return found


class _Writer:
    """Adds constant nodes before all others, in the order in which they are asked for."""

    def __init__(self, model: ir.Model, prefix: str) -> None:
        self._graph, self._prefix, self._made = model.graph, prefix, 0
        self._before = next(iter(model.graph))

    def levels(self, folded: Sequence[Folded]) -> list[ir.Value]:
        """The levels of weights of one base, as floats, to be reshaped."""
        words, sizes = packing(folded[0].base), [one.levels.size for one in folded]
        stream = words.pack(np.concatenate([one.levels.reshape(-1) for one in folded]))
        value = self._constant(stream)
        if words.digits > 1:
            base = self._constant(np.array(words.levels, np.int64))
            upper = self._node("Div", [self._cast(value, ir.DataType.INT64), self._constant(words.powers)])
            value = self._node("Sub", [upper, self._node("Mul", [self._node("Div", [upper, base]), base])])
        value = self._node("Add", [self._cast(value, ir.DataType.FLOAT), self._constant(np.array(words.lowest, np.float32))])
        rest = stream.size * words.digits - sum(sizes)
        if len(sizes) == 1 and not rest:
            return [value]
        flat = self._node("Reshape", [value, self._constant(np.array([-1], np.int64))])
        return self._split(flat, [*sizes, rest] if rest else sizes)[: len(sizes)]

    def scales(self, scales: Sequence[Array]) -> list[ir.Value]:
        """Scales of one shape but for their first axis share an initializer; single ones have their own."""
        found: dict[int, ir.Value] = {}
        shared = [place for place, one in enumerate(scales) if one.ndim]
        for inner in sorted({scales[place].shape[1:] for place in shared}):
            places = [place for place in shared if scales[place].shape[1:] == inner]
            whole = self._cast(self._constant(np.concatenate([scales[place] for place in places])), ir.DataType.FLOAT)
            found |= dict(zip(places, self._split(whole, [len(scales[place]) for place in places]), strict=True))
        return [found[place] if place in found else self._constant(one.astype(np.float32)) for place, one in enumerate(scales)]

    def weight(self, folded: Folded, piece: ir.Value, scales: ir.Value) -> ir.Value:
        """The dense weight from its piece of the levels."""
        shaped = self._node("Reshape", [piece, self._constant(np.array(folded.levels.shape, np.int64))])
        value = self._node("Mul", [shaped, scales])
        return value if folded.dtype == ir.DataType.FLOAT else self._cast(value, ir.DataType(folded.dtype))

    def _split(self, value: ir.Value, sizes: list[int]) -> list[ir.Value]:
        if len(sizes) == 1:
            return [value]
        by_input = self._graph.opset_imports.get("", 1) >= SPLIT_INPUT_OPSET
        inputs = [value, self._constant(np.array(sizes, np.int64))] if by_input else [value]
        node = ir.node("Split", inputs, {"axis": 0} if by_input else {"axis": 0, "split": sizes}, num_outputs=len(sizes))
        return self._add(node)

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self._add(ir.node("Cast", [value], {"to": int(dtype)}))[0]

    def _node(self, op_type: str, inputs: Sequence[ir.Value]) -> ir.Value:
        return self._add(ir.node(op_type, inputs))[0]

    def _add(self, node: ir.Node) -> list[ir.Value]:
        self._graph.insert_before(self._before, node)
        for output in node.outputs:
            output.name = self._name()
        return list(node.outputs)

    def _constant(self, array: Array) -> ir.Value:
        return add_constant(self._graph, self._name(), array)

    def _name(self) -> str:
        self._made += 1
        return f"{self._prefix}.{self._made}"


def unfolded(value: ir.Value) -> Array:
    """The dense weight that a value of `write` stands for. Raises CompressError where what stands before it is something else."""
    return _evaluated(value, {})


def sources(value: ir.Value) -> Iterator[ir.Value]:
    """The initializers that a folded weight is made from, each once."""
    seen, stack = {value}, [value]
    while stack:
        one = stack.pop()
        node = one.producer()
        if node is None:
            yield one
            continue
        fresh = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(fresh)
        stack += fresh


def _evaluated(value: ir.Value, known: dict[ir.Value, Array]) -> Array:
    """The array of a value that depends on constants by the operators of `write` only."""
    if value not in known:
        node = value.producer()
        if node is None and value.const_value is not None:
            known[value] = np.asarray(value.const_value.numpy())
        elif node is not None and node.op_type in OPERATORS and not node.domain:
            inputs = [_evaluated(v, known) for v in node.inputs if v is not None]
            known.update(zip(node.outputs, OPERATORS[node.op_type](node, *inputs), strict=True))
        else:
            raise CompressError(f"folded weight {value.name!r} does not follow from constants as it did: the file was changed after it was written")
    return known[value]


def _cast_of(node: ir.Node, array: Array) -> list[Array]:
    dtype = ir.DataType(node.attributes["to"].as_int())
    with np.errstate(over="ignore"):
        return [array.astype(ml_dtypes.bfloat16 if dtype == ir.DataType.BFLOAT16 else dtype.numpy())]


def _split_of(node: ir.Node, array: Array, sizes: Array | None = None) -> list[Array]:
    lengths = node.attributes["split"].as_ints() if sizes is None else sizes
    return np.split(array, np.cumsum(lengths)[:-1], axis=node.attributes.get_int("axis", 0))


OPERATORS = {
    "Cast": _cast_of,
    "Split": _split_of,
    "Reshape": lambda _, array, dims: [array.reshape(dims)],
    "Div": lambda _, one, other: [one // other],
    "Mul": lambda _, one, other: [one * other],
    "Add": lambda _, one, other: [one + other],
    "Sub": lambda _, one, other: [one - other],
}
"""What the nodes of `write` do, Div on integers of 0 and more."""
