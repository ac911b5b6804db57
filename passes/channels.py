"""Channels that live and die together: chains of values through which the channels of a layer run, from what makes them to what reads them.

    Conv (makes) -> Relu, depthwise Conv, Add of two values, pooling, ... (carry) -> Conv, Gemm, MatMul (read)

A chain may lose a channel: the producers their row, carriers their per-channel constants, readers their column. It is left alone as a whole where
anything unknown touches it, or a constant that is shared, excluded or an output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .carriers import Layout, moved
from .constants import dims_of, is_private, is_stored, is_untouchable, stored, tensor_of

ELEMENTWISE = (
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Erf", "Gelu", "Mish"),
    *("Clip", "Abs", "Neg", "Exp", "Sqrt", "Identity", "Cast", "Dropout", "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum"),
)

CONVOLVED_STEP = 4
"""onnxruntime's blocked convolutions take channels in multiples of 4; others fall back to a path that takes 1.4 times as long (mobilenet_v1_075)."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """A constant (the stored tensor, where a Cast follows) in which channels lie along `axis`, `block` entries each."""

    value: ir.Value
    axis: int
    block: int = 1

    def take(self, kept: NDArray[np.intp]) -> NDArray[np.generic]:
        """The constant with those channels alone."""
        positions = (kept[:, None] * self.block + np.arange(self.block)).reshape(-1)
        return np.take(np.asarray(tensor_of(self.value).numpy()), positions, axis=self.axis)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A layer that multiplies the channels of `source`: the weight's columns are in `slot`, its outputs along axis `rows`.

    `pads`: an output may meet only some of the taps (padding, transposed convolution), so a constant other than 0 gives no constant.
    """

    node: ir.Node
    source: ir.Value
    slot: Slot
    rows: int
    pads: bool

    def columns(self) -> NDArray[np.generic]:
        """The weight as [rows, channels, taps], taps being the kernel positions or the entries of a block."""
        weight = np.moveaxis(np.asarray(tensor_of(self.slot.value).numpy()), (self.rows, self.slot.axis), (0, 1))
        return weight.reshape(weight.shape[0], weight.shape[1] // self.slot.block, -1)

    def uncolumns(self, columns: NDArray[np.generic]) -> NDArray[np.generic]:
        """The inverse of `columns`, also for another number of channels."""
        dims = tensor_of(self.slot.value).shape.numpy()
        rest = [size for axis, size in enumerate(dims) if axis not in (self.rows, self.slot.axis)]
        weight = columns.reshape(columns.shape[0], columns.shape[1] * self.slot.block, *rest)
        return np.ascontiguousarray(np.moveaxis(weight, (0, 1), (self.rows, self.slot.axis)))


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """`channels` channels that run through the same values; `slots` are the constants of the `makers` (producers and carriers), `grouped` depthwise convolutions."""

    channels: int
    makers: tuple[ir.Node, ...]
    slots: tuple[Slot, ...]
    grouped: tuple[ir.Node, ...]
    readers: tuple[Reader, ...]

    @property
    def step(self) -> int:
        """Of how many channels what is left should be a multiple."""
        nodes = (*self.makers, *(reader.node for reader in self.readers))
        is_convolved = any(node.op_type in ("Conv", "ConvTranspose") for node in nodes)
        return CONVOLVED_STEP if is_convolved and self.channels % CONVOLVED_STEP == 0 else 1


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The chains that may lose channels, and how the channels of all values lie."""

    chains: tuple[Chain, ...]
    layouts: Mapping[ir.Value, Layout]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """What a node is to channels: the output's layout, the inputs whose channels are the output's, what shrinks with them, what it reads."""

    layout: Layout | None = None
    joins: tuple[ir.Value, ...] = ()
    slots: tuple[Slot, ...] = ()
    reader: Reader | None = None
    is_grouped: bool = False


@dataclass(slots=True, eq=False)
class _Links:
    """Values joined into chains; `bound` are roots of chains that stay as they are."""

    parent: dict[ir.Value, ir.Value] = field(default_factory=dict)
    bound: set[ir.Value] = field(default_factory=set)

    def root(self, value: ir.Value) -> ir.Value:
        while (above := self.parent.setdefault(value, value)) is not value:
            self.parent[value] = self.parent[above]
            value = above
        return value

    def join(self, one: ir.Value, other: ir.Value) -> None:
        first, second = self.root(one), self.root(other)
        self.parent[second] = first
        if second in self.bound:
            self.bound.add(first)

    def bind(self, value: ir.Value) -> None:
        self.bound.add(self.root(value))


def find_chains(model: ir.Model) -> Found:
    """Reads off the main graph; needs InferShapes."""
    layouts: dict[ir.Value, Layout] = {}
    links, parts = _Links(), []
    for node in model.graph:
        if is_stored(node.outputs[0]):
            continue  # the Cast of a constant belongs to its consumer
        part = _part(node, layouts)
        parts.append((node, part))
        _link(node, part, links, layouts)
    return Found(tuple(_chains(parts, links, layouts)), layouts)


def _link(node: ir.Node, part: _Part | None, links: _Links, layouts: dict[ir.Value, Layout]) -> None:
    """Joins what a node keeps together and binds what must stay as it is."""
    result = node.outputs[0]
    if part is not None and part.layout is not None:
        layouts[result] = part.layout
    if part is None or part.layout is None or not _may_change(part, node):
        for value in (*_variable(node), *node.outputs):
            links.bind(value)
        return
    for value in part.joins:
        links.join(value, result)
    if result.is_graph_output() or any(use.node.graph is not node.graph for use in result.uses()):
        links.bind(result)


def _may_change(part: _Part, node: ir.Node) -> bool:
    """Whether every input is accounted for, no constant is excluded, and those that would change belong to this node alone."""
    if any(is_untouchable(stored(value)) for value in node.inputs):
        return False
    read = part.reader.source if part.reader is not None else None
    slots = [*part.slots, *([part.reader.slot] if part.reader is not None else [])]
    return all(value in part.joins or value is read for value in _variable(node)) and all(is_private(slot.value) for slot in slots)


def _chains(parts: list[tuple[ir.Node, _Part | None]], links: _Links, layouts: Mapping[ir.Value, Layout]) -> Iterator[Chain]:
    makers: dict[ir.Value, list[tuple[ir.Node, _Part]]] = {}
    readers: dict[ir.Value, list[Reader]] = {}
    for node, part in parts:
        if part is not None and part.layout is not None:
            makers.setdefault(links.root(node.outputs[0]), []).append((node, part))
            if part.reader is not None and part.reader.source in layouts:
                readers.setdefault(links.root(part.reader.source), []).append(part.reader)
    for root, members in makers.items():
        if root not in links.bound and root in readers:
            slots = tuple(slot for _, part in members for slot in part.slots)
            grouped = tuple(node for node, part in members if part.is_grouped)
            yield Chain(layouts[root].channels, tuple(node for node, _ in members), slots, grouped, tuple(readers[root]))


def _variable(node: ir.Node) -> tuple[ir.Value, ...]:
    return tuple(v for v in node.inputs if v is not None and not is_stored(v))


def _part(node: ir.Node, layouts: Mapping[ir.Value, Layout]) -> _Part | None:
    if node.domain not in ("", "ai.onnx") or any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        return None
    match node.op_type:
        case "Conv":
            return _conv(node, layouts)
        case "ConvTranspose":
            return _layer(node, layouts, 1, 0) if node.attributes.get_int("group", 1) == 1 else None
        case "Gemm":
            transposed = node.attributes.get_int("transB", 0)
            return _layer(node, layouts, 1 - transposed, transposed) if not node.attributes.get_int("transA", 0) else None
        case "MatMul":
            return _layer(node, layouts, 1, 0)
        case "BatchNormalization" if len(node.outputs) == 1 or not node.attributes.get_int("training_mode", 0):
            return _carrier(node, layouts, tuple((v, 0) for v in node.inputs[1:]))
        case operator if operator in ELEMENTWISE:
            return _elementwise(node, layouts)
    source = node.inputs[0] if node.inputs else None
    before = layouts.get(source) if source is not None else None
    after = moved(node, before) if before is not None else None
    return None if after is None or source is None else _Part(after, (source,))


def _conv(node: ir.Node, layouts: Mapping[ir.Value, Layout]) -> _Part | None:
    dims, group = dims_of(node.inputs[1]), node.attributes.get_int("group", 1)
    if group == 1:
        return _layer(node, layouts, 0, 1)
    before = layouts.get(node.inputs[0]) if node.inputs[0] is not None else None
    if dims is None or before is None or not dims[0] == group == before.channels or before.block != 1:
        return None
    part = _carrier(node, layouts, tuple((v, 0) for v in node.inputs[1:]))
    return None if part is None else _Part(part.layout, part.joins, part.slots, is_grouped=True)


def _layer(node: ir.Node, layouts: Mapping[ir.Value, Layout], rows: int, columns: int) -> _Part | None:
    """A layer that reads its first input and makes the channels of its output."""
    weight, source, dims = stored(node.inputs[1]), node.inputs[0], dims_of(node.inputs[1])
    if weight is None or source is None or dims is None or is_stored(source) or (node.op_type == "MatMul" and len(dims) != 2):
        return None
    slots = [Slot(weight, rows)]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        kept, size = stored(bias), dims_of(bias)
        if kept is None or size not in ((), (1,), (dims[rows],), (1, dims[rows])):
            return None
        slots += [Slot(kept, len(size) - 1)] if size and size[-1] == dims[rows] != 1 else []
    before = layouts.get(source)
    reader = Reader(node, source, Slot(weight, columns, before.block if before else 1), rows, _pads(node))
    fits = before is None or (before.axis == (before.rank - 1 if node.op_type in ("Gemm", "MatMul") else 1) and before.size == dims[columns])
    return _Part(moved(node, Layout(1, len(dims), dims[rows])), (), tuple(slots), reader if fits else None)


def _pads(node: ir.Node) -> bool:
    attributes = node.attributes
    if node.op_type == "Conv":
        return attributes.get_string("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER") or any(attributes.get_ints("pads", ()))
    return node.op_type == "ConvTranspose" or attributes.get_float("beta", 1.0) != 1.0


def _elementwise(node: ir.Node, layouts: Mapping[ir.Value, Layout]) -> _Part | None:
    variable = tuple(dict.fromkeys(_variable(node)))
    before = layouts.get(variable[0]) if variable else None
    if before is None or any(layouts.get(v) != before for v in variable):
        return None
    along = []
    for value in node.inputs:
        dims = dims_of(value)
        if value is None or dims is None:
            continue
        axis = before.axis - (before.rank - len(dims))
        if len(dims) > before.rank:
            return None
        along += [(value, axis)] if axis >= 0 and dims[axis] != 1 else []
    return _carrier(node, layouts, tuple(along))


def _carrier(node: ir.Node, layouts: Mapping[ir.Value, Layout], along: tuple[tuple[ir.Value | None, int], ...]) -> _Part | None:
    """A node that keeps channels apart; `along` are its constants that have an entry for each channel, and on which axis."""
    variable = _variable(node)
    before = layouts.get(variable[0]) if variable else None
    if before is None:
        return None
    slots = []
    for value, axis in along:
        kept, dims = stored(value), dims_of(value)
        if value is not None and (kept is None or dims is None or dims[axis] != before.size):
            return None
        slots += [Slot(kept, axis, before.block)] if kept is not None else []
    return _Part(before, tuple(dict.fromkeys(variable)), tuple(slots))
