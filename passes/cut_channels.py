"""Takes channels out of a graph: rows of what makes them, columns of what reads them, and what they carried into the readers' biases."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .channels import Chain, Reader
from .constants import add_constant, all_names, fresh_name, is_private, set_constant, stored, tensor_of


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
