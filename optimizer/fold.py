"""Folded weights: levels and scales in plain operators of ai.onnx, which onnxruntime evaluates once, when it creates a session (FORMAT.md, section 9).

Golomb codes (`passes/golomb.py`) of all folded weights are one stream of bits, and a stream of words for each modulus. A chain of nodes takes them apart;
a weight is a piece of it, reshaped, times its scales. The chain is constant, so that a dense weight is all that is left of it, and the runtime's own
prepacked kernels multiply with it. `read` is the inverse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes import golomb
from ..passes.constants import add_constant
from ..runtime.evaluate import dense_values
from ..runtime.form import Grid, Member
from .errors import CompressError

SPLIT_INPUT_OPSET = 13
"""From here on Split takes its sizes as an input instead of an attribute."""

TOP_K_INPUT_OPSET = 10
"""The same of TopK and its count."""

LEAST_OPSET = 7
"""Before, Div and Mul did not broadcast as they do now."""

WORDS_RANK = 2
"""Streams are [words, 1], so that digits can be taken out of them side by side; no other constant of a chain is an integer matrix."""

Array = NDArray[np.generic]


MODULUS_BITS = 8 * 300.0
"""What each modulus costs in nodes and constants."""


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """What is stored of a folded weight: `levels` int32 in its own dims, and `scales` (float16, or one float32) that broadcast against them."""

    dtype: int
    levels: NDArray[np.int32]
    scales: Array

    @staticmethod
    def of(member: Member) -> Folded:
        """A Grid of a folded `Quantize`."""
        form, view = member.form, member.view
        assert isinstance(form, Grid)
        return Folded(member.dtype, view.unsee(form.levels.levels), _scales(member))

    @property
    def bytes(self) -> int:
        """Bytes of levels and scales; what the nodes take is part of the graph."""
        return math.ceil(float(golomb.coded_bits(self.levels).min()) / 8) + self.scales.nbytes

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
    if not weights:
        return {}
    moduli = golomb.moduli(np.stack([golomb.coded_bits(one.levels) for one in weights.values()]), MODULUS_BITS)
    names = [name for _, name in sorted(zip(moduli, weights, strict=True))]
    folded, writer = [weights[name] for name in names], _Writer(model, prefix)
    pieces, scales = writer.levels([one.levels for one in folded], sorted(moduli)), writer.scales([one.scales for one in folded])
    found = {name: writer.weight(one, piece, scale) for name, one, piece, scale in zip(names, folded, pieces, scales, strict=True)}
    for name, value in found.items():
        ir.convenience.replace_all_uses_with(model.graph.initializers[name], value)
    return found


class _Writer:
    """Adds constant nodes before all others, in the order in which they are asked for."""

    def __init__(self, model: ir.Model, prefix: str) -> None:
        self._graph, self._prefix, self._made = model.graph, f"{prefix}.fold", 0
        self._before = next(iter(model.graph))
        self._two = self._constant(np.array(2, np.int32))

    def levels(self, levels: Sequence[NDArray[np.int32]], moduli: Sequence[int]) -> list[ir.Value]:
        """The levels of weights in the ascending order of their moduli, each flat, as floats."""
        groups = {modulus: np.concatenate([golomb.unsigned(one).reshape(-1) for one, m in zip(levels, moduli, strict=True) if m == modulus]) for modulus in dict.fromkeys(moduli)}
        runs = self._runs(np.concatenate([values // modulus for modulus, values in groups.items()]))
        parts = self._split(runs, [len(values) for values in groups.values()])
        whole = [self._joined(part, modulus, values) for part, (modulus, values) in zip(parts, groups.items(), strict=True)]
        u = whole[0] if len(whole) == 1 else self._add(ir.node("Concat", whole, {"axis": 0}))[0]
        return self._split(self._cast(self._signed(u), ir.DataType.FLOAT), [one.size for one in levels])

    def _runs(self, quotients: NDArray[np.int64]) -> ir.Value:
        """Each quotient + 1: how far each one in the stream of bits is from the one before it."""
        bits = self._flat(self._digits(golomb.unary(quotients), golomb.BITS))
        floats = self._cast(bits, ir.DataType.FLOAT)
        count = len(quotients)
        if self._opset >= TOP_K_INPUT_OPSET:
            ones = self._add(ir.node("TopK", [floats, self._constant(np.array([count], np.int64))], num_outputs=2))[1]
        else:
            ones = self._add(ir.node("TopK", [floats], {"k": count}, num_outputs=2))[1]
        ones = self._cast(ones, ir.DataType.INT32)
        before = [self._constant(np.array([-1], np.int32)), self._split(ones, [count - 1, 1])[0]]
        return self._node("Sub", [ones, self._add(ir.node("Concat", before, {"axis": 0}))[0]])

    def _joined(self, runs: ir.Value, modulus: int, values: NDArray[np.int64]) -> ir.Value:
        """u = (run - 1) * modulus + remainder."""
        shift = self._constant(np.array(-modulus, np.int32))
        if modulus == 1:
            return self._node("Add", [runs, shift])
        packing = golomb.packing(modulus)
        words = packing.pack(values % modulus)
        digits = self._flat(self._digits(words, packing))
        rest = words.size * packing.digits - values.size
        remainders = self._split(digits, [values.size, rest])[0] if rest else digits
        product = self._node("Mul", [runs, self._constant(np.array(modulus, np.int32))])
        return self._node("Add", [product, self._node("Add", [remainders, shift])])

    def _digits(self, words: Array, packing: golomb.Packing) -> ir.Value:
        """The digits of words [words, 1]: [words, digits]."""
        base = self._two if packing.base == 2 else self._constant(np.array(packing.base, np.int32))
        upper = self._node("Div", [self._cast(self._constant(words), ir.DataType.INT32), self._constant(packing.powers)])
        return self._node("Sub", [upper, self._node("Mul", [self._node("Div", [upper, base]), base])])

    def _signed(self, u: ir.Value) -> ir.Value:
        """The level of each u: (h - e) * u - e with e = u / 2 and h = (u + 1) / 2, which is -e where u is even, else h."""
        half = self._node("Div", [u, self._two])
        upper = self._node("Div", [self._node("Add", [u, self._constant(np.array(1, np.int32))]), self._two])
        return self._node("Sub", [self._node("Mul", [self._node("Sub", [upper, half]), u]), half])

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

    @property
    def _opset(self) -> int:
        return self._graph.opset_imports.get("", 1)

    def _flat(self, value: ir.Value) -> ir.Value:
        return self._node("Reshape", [value, self._constant(np.array([-1], np.int64))])

    def _split(self, value: ir.Value, sizes: list[int]) -> list[ir.Value]:
        if len(sizes) == 1:
            return [value]
        by_input = self._opset >= SPLIT_INPUT_OPSET
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


def read(values: Sequence[ir.Value]) -> list[Folded]:
    """The folded weights that values of `write` stand for. Raises CompressError where what stands before them is something else."""
    known: dict[ir.Value, Array] = {}
    try:
        with np.errstate(divide="raise"):
            return [_read(value, known) for value in values]
    # Shapes that do not fit, a node without its inputs or attributes, an empty count, a chain without end, a divisor of 0.
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, FloatingPointError) as error:
        raise CompressError(f"folded weights cannot be evaluated ({error}): the file was changed after it was written") from error


def streams(values: Sequence[ir.Value]) -> set[ir.Value]:
    """The initializers that hold the levels of folded weights."""
    seen, stack = set(values), list(values)
    while stack:
        node = stack.pop().producer()
        fresh = [value for value in node.inputs if value is not None and value not in seen] if node else []
        seen.update(fresh)
        stack += fresh
    tensors = [(value, value.const_value) for value in seen if value.producer() is None]
    return {value for value, tensor in tensors if tensor is not None and not tensor.dtype.is_floating_point() and len(tensor.shape) == WORDS_RANK}


def _read(value: ir.Value, known: dict[ir.Value, Array]) -> Folded:
    """The parts of the last product."""
    node, dtype = value.producer(), int(ir.DataType.FLOAT)
    if node is not None and node.op_type == "Cast" and node.inputs[0] is not None:
        dtype, node = node.attributes["to"].as_int(), node.inputs[0].producer()
    if node is None or node.op_type != "Mul":
        raise _changed(value)
    levels, scales = (_evaluated(one, known) for one in node.inputs if one is not None)
    return Folded(dtype, levels.astype(np.int32), scales.astype(np.float16) if scales.ndim else scales)


def _changed(value: ir.Value) -> CompressError:
    return CompressError(f"folded weight {value.name!r} does not follow from constants as it did: the file was changed after it was written")


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
            raise _changed(value)
    return known[value]


def _cast_of(node: ir.Node, array: Array) -> list[Array]:
    dtype = ir.DataType(node.attributes["to"].as_int())
    with np.errstate(over="ignore"):
        return [array.astype(ml_dtypes.bfloat16 if dtype == ir.DataType.BFLOAT16 else dtype.numpy())]


def _split_of(node: ir.Node, array: Array, sizes: Array | None = None) -> list[Array]:
    axis, lengths = node.attributes.get_int("axis", 0), node.attributes.get_ints("split") if sizes is None else sizes
    # Scales may have come to stand with other small floats, in parts of equal sizes, which need not be named.
    return np.split(array, len(node.outputs) if lengths is None else np.cumsum(lengths)[:-1], axis=axis)


def _top_k_of(node: ir.Node, array: Array, count: Array | None = None) -> list[Array]:
    most = node.attributes["k"].as_int() if count is None else int(count.reshape(-1)[0])
    order = np.argsort(-array.astype(np.float32), kind="stable")[:most]
    return [array[order], order.astype(np.int64)]


OPERATORS: dict[str, Callable[..., list[Array]]] = {
    "Cast": _cast_of,
    "Split": _split_of,
    "TopK": _top_k_of,
    "Concat": lambda node, *arrays: [np.concatenate(arrays, axis=node.attributes.get_int("axis", 0))],
    "Reshape": lambda _, array, dims: [array.reshape(dims)],
    "Div": lambda _, one, other: [one // other],
    "Mul": lambda _, one, other: [one * other],
    "Add": lambda _, one, other: [one + other],
    "Sub": lambda _, one, other: [one - other],
}
"""What the nodes of `write` do, Div on integers of 0 and more."""
