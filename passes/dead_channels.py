"""Channels that carry nothing: constant whatever the inputs are, or read by nobody. They are removed, their constants folded into biases.

Proved from weights and the ranges of activations (ranges.py). Where a layer pads, or is a transposed convolution, an output at the border meets fewer
taps, so only channels that are 0 go there. As many as make up a multiple of `Chain.step` stay, all zero, which costs next to no bytes: an odd number of
channels would make the model slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from .channels import CONVOLVED_STEP, Chain, Reader, Slot, find_chains, is_private, stored
from .constants import add_constant, all_names, fresh_name, set_constant, tensor_of
from .fold_shapes import InferShapes
from .ranges import ANYTHING, Range, find_ranges


@dataclass(slots=True)
class Removed:
    """What went: channels, names of the weights that lost some, bytes; `silenced` channels stay, but nobody reads them any more."""

    channels: int = 0
    silenced: int = 0
    weights: set[str] = field(default_factory=set)
    bytes: int = 0

    @property
    def total(self) -> int:
        """Channels that carry nothing any more."""
        return self.channels + self.silenced


def remove_dead_channels(model: ir.Model) -> Removed:
    """In place; infers shapes. Goes on while anything goes: one channel may leave another unread."""
    removed, count = Removed(), -1
    while removed.total != count:
        count = removed.total
        InferShapes()(model)
        found = find_chains(model)
        ranges = find_ranges(model, found.layouts) if found.chains else {}
        stale: set[ir.Node] = set()
        for chain in reversed(found.chains):
            if stale.isdisjoint(chain.makers):
                stale.update(_remove_dead(model, chain, ranges, removed))
        if removed.total != count:
            common.RemoveUnusedNodesPass()(model)
    return removed


def dead_channels_note(removed: Removed) -> list[str]:
    """A sentence for the report, if anything went."""
    if not removed.total:
        return []
    note = f"{removed.channels} dead channels were removed from {len(removed.weights)} weights ({removed.bytes:,} bytes)"
    more = f", {removed.silenced} more are all zero: onnxruntime is faster with multiples of {CONVOLVED_STEP}"
    return [note + more * bool(removed.silenced)]


def cut(chain: Chain, kept: NDArray[np.intp], removed: Removed) -> None:
    """Leaves those channels alone, everywhere: whatever the others carried is lost."""
    slots = [*chain.slots, *(reader.slot for reader in chain.readers)]
    removed.channels += chain.channels - len(kept)
    for slot in slots:
        before = tensor_of(slot.value).nbytes
        set_constant(slot.value, slot.take(kept))
        freed = before - tensor_of(slot.value).nbytes
        removed.bytes += freed
        if freed and len(tensor_of(slot.value).shape) > 1:
            removed.weights.add(str(slot.value.name))
    for node in chain.grouped:
        node.attributes["group"] = ir.AttrInt64("group", len(kept))


def add_to_bias(model: ir.Model, reader: Reader, shift: NDArray[np.float64]) -> tuple[ir.Node, ...]:
    """Adds to what a layer adds to its rows; a layer without a bias gets one, a MatMul an Add behind it. Gives the nodes that have a new constant."""
    node = reader.node
    if not shift.any():
        return ()
    scale = node.attributes.get_float("alpha", 1.0) / node.attributes.get_float("beta", 1.0) if node.op_type == "Gemm" else 1.0
    place = _bias_place(node, len(shift))
    bias = stored(place[0].inputs[place[1]]) if place is not None and len(place[0].inputs) > place[1] else None
    old = np.zeros(len(shift)) if bias is None else np.asarray(tensor_of(bias).numpy(), np.float64).reshape(-1)
    new = old + scale * shift
    if place is not None and bias is not None and bias is place[0].inputs[place[1]] and is_private(bias) and old.size == new.size:
        set_constant(bias, new.reshape(tensor_of(bias).shape.numpy()).astype(tensor_of(bias).dtype.numpy()))
        return ()
    name = fresh_name(str(bias.name) if bias is not None else f"{reader.slot.value.name}.bias", all_names(model))
    dtype = _computed(reader)
    value = add_constant(model.graph, name, new.astype(dtype.numpy()), dtype)
    if place is None:
        _insert_add(model, node, value)
        return (node,)
    place[0].resize_inputs(max(len(place[0].inputs), place[1] + 1))
    place[0].replace_input_with(place[1], value)
    return (place[0],)


def _bias_place(node: ir.Node, rows: int) -> tuple[ir.Node, int] | None:
    """Where the bias of a layer is: an input of its own, or of the Add behind a MatMul."""
    if node.op_type != "MatMul":
        return node, 2
    uses = list(node.outputs[0].uses())
    if node.outputs[0].is_graph_output() or len(uses) != 1 or uses[0].node.op_type != "Add" or uses[0].node.graph is not node.graph:
        return None
    add, index = uses[0].node, 1 - uses[0].idx
    kept = stored(add.inputs[index])
    return (add, index) if kept is not None and tuple(tensor_of(kept).shape.numpy()) == (rows,) else None


def _insert_add(model: ir.Model, node: ir.Node, bias: ir.Value) -> None:
    result = node.outputs[0]
    add = ir.node("Add", [result, bias])
    added = add.outputs[0]
    added.name, added.shape, added.type = fresh_name(f"{result.name}.biased", all_names(model)), result.shape, result.type
    model.graph.insert_after(node, add)
    result.replace_all_uses_with(added, replace_graph_outputs=True)
    add.replace_input_with(0, result)
    if added.is_graph_output():
        result.name, added.name = added.name, result.name


def _computed(reader: Reader) -> ir.DataType:
    """The type that a layer multiplies in: that of its weight, or what the weight is cast to."""
    weight = reader.node.inputs[1]
    cast = weight.producer() if weight is not None else None
    return ir.DataType(cast.attributes.get_int("to", 1)) if cast is not None else tensor_of(reader.slot.value).dtype


def _remove_dead(model: ir.Model, chain: Chain, ranges: dict[ir.Value, Range], removed: Removed) -> list[ir.Node]:
    """Removes the dead channels of a chain; gives the nodes that have a new constant, with which what was found of their own chain is out of date."""
    constants = [ranges.get(reader.source, ANYTHING).along(reader.slot.block * chain.channels).constant for reader in chain.readers]
    alive = np.zeros(chain.channels, np.bool_)
    for reader, constant in zip(chain.readers, constants, strict=True):
        alive |= _alive(reader, constant)
    kept = _rounded_up(alive, chain.step)
    silenced = _nonzero(chain, kept & ~alive)
    if kept.all() and not silenced.any():
        return []
    changed: list[ir.Node] = []
    for reader, constant in zip(chain.readers, constants, strict=True):
        changed += add_to_bias(model, reader, _folded(reader, constant, alive))
    for slot in _silenceable(chain) if silenced.any() else ():
        set_constant(slot.value, _zeroed(slot, kept & ~alive))
    removed.silenced += int(silenced.sum())
    cut(chain, np.flatnonzero(kept), removed)
    return changed


def _rounded_up(alive: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """With the first of the dead ones, up to a multiple of `step` that is not 0."""
    missing = -int(alive.sum()) % step if alive.any() else step
    kept = alive.copy()
    kept[np.flatnonzero(~alive)[:missing]] = True
    return kept


def _silenceable(chain: Chain) -> list[Slot]:
    """Where zeros may stand for a channel that nobody reads: not where it is made, if a division might meet them."""
    divides = any(node.op_type in ("Div", "Pow") for node in chain.makers)
    return [*(() if divides else chain.slots), *(reader.slot for reader in chain.readers)]


def _nonzero(chain: Chain, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of some channels that are not all zero yet."""
    found = np.zeros(len(which), np.bool_)
    for slot in _silenceable(chain) if which.any() else ():
        along = np.moveaxis(np.asarray(tensor_of(slot.value).numpy()), slot.axis, 0)
        found |= (along.reshape(len(which), -1) != 0).any(axis=1)
    return found & which


def _zeroed(slot: Slot, which: NDArray[np.bool_]) -> NDArray[np.generic]:
    array = np.array(tensor_of(slot.value).numpy())
    np.moveaxis(array, slot.axis, 0)[np.repeat(which, slot.block)] = 0
    return array


def _alive(reader: Reader, constant: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Channels that this layer reads and that may vary."""
    varies = np.isnan(constant) | ((constant != 0) & reader.pads)
    return np.asarray((reader.columns() != 0).any(axis=(0, 2)) & varies.reshape(-1, reader.slot.block).any(axis=1))


def _folded(reader: Reader, constant: NDArray[np.float64], alive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the channels that are not alive add to the rows: W x."""
    dead = ~alive
    values = np.nan_to_num(constant).reshape(len(alive), reader.slot.block)[dead]
    columns = reader.columns()[:, dead].astype(np.float64)
    if reader.slot.block == 1:
        return np.asarray(columns.sum(axis=2) @ values[:, 0])
    return np.asarray(np.einsum("rct,ct->r", columns, values))
