"""Writes a plan into a graph: payloads in place of weights, our operators in place of their consumers (FORMAT.md, section 8)."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from ..passes import names
from ..passes.byte_floats import store_in_bytes
from ..passes.constants import add_constant, all_names
from ..passes.halve import halve
from ..runtime.header import FORMAT_KEY, FORMAT_VERSION
from . import epilogues, fold, recurrent
from .bias import constant_behind, following_add
from .operators import DOMAIN
from .plan import Payload
from .version import how_to_install
from .weights import Use, Weight

PACKAGE_KEY = "onnx_compress.package"
NAMES_KEY = "onnx_compress.names"
FOLDED_KEY = "onnx_compress.folded"
"""The values that are folded weights, separated by spaces."""

LEAST_IR_VERSION = 8
NAMES_SHARE = 1 / 1000
"""The map from payloads to the weights' own names is written where it costs at most this share of the payloads."""

FUSED = {"MatMul": "CompressedMatMul", "Gemm": "CompressedGemm", "Conv": "CompressedConv", "Gather": "CompressedGather"}
KEPT_ATTRIBUTES = {
    "CompressedConv": ("auto_pad", "dilations", "group", "pads", "strides"),
    "CompressedGemm": ("alpha", "beta", "transA"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Emitted:
    """The compressed model, its payloads, the name in it of each payload or folded weight, and the initializers that are now float16, or int8 and scales."""

    model: ir.Model
    payloads: tuple[Payload, ...]
    names: tuple[str, ...]
    halved: tuple[str, ...]
    in_bytes: tuple[str, ...] = ()


def emit(model: ir.Model, payloads: Sequence[Payload], untouchable: Container[str], in_bytes: Container[str] = ()) -> Emitted:
    """A compressed copy of `model`, which stays as it is; initializers that `untouchable` names keep their bytes, those of `in_bytes` get 8 bits a value."""
    copy = model.clone()
    twins = dict(zip(model.graph.all_nodes(), copy.graph.all_nodes(), strict=True))
    for name, array in (item for payload in payloads for item in payload.biases.items()):
        value = copy.graph.initializers[name]
        dtype = value.const_value.dtype  # type: ignore[union-attr]
        value.const_value = ir.Tensor(array.astype(dtype.numpy()), name=name)
    prefix = _free_prefix(copy)
    folded = fold.write(copy, {payload.choices[0].weight.name: payload.folded for payload in payloads if payload.folded is not None}, prefix)
    values = [
        folded.get(payload.choices[0].weight.name) or add_constant(copy.graph, f"{prefix}.payload.{number}", np.frombuffer(payload.data, np.uint8)) for number, payload in enumerate(payloads)
    ]
    payload_names = [str(value.name) for value in values]
    sources = {
        choice.weight: _Source(copy, value, place, prefix)
        for value, payload in zip(values, payloads, strict=True)
        for place, choice in enumerate(payload.choices if payload.folded is None else ())
    }
    layers = recurrent.whole_layers(sources)
    for weight, source in sources.items():
        _rewrite(weight, source, _Twins(twins, layers))
    for layer in layers:
        recurrent.fuse(twins[layer], *(_half(layer, index, sources) for index in (recurrent.W_INPUT, recurrent.R_INPUT)))
    epilogues.fuse(copy, untouchable)
    stored, halved = store_in_bytes(copy, in_bytes), halve(copy, untouchable)
    common.RemoveUnusedNodesPass()(copy)  # Casts and Transposes of weights that nothing reads any more, then their initializers
    if any(payload.folded is None for payload in payloads):
        copy.graph.opset_imports[DOMAIN] = 1
    copy.ir_version = max(copy.ir_version or 0, LEAST_IR_VERSION)
    short = names.shorten(copy)
    final = tuple(short.get(name, name) for name in payload_names)
    _describe(copy, payloads, final)
    return Emitted(copy, tuple(payloads), final, halved, stored)


@dataclass(frozen=True, slots=True)
class _Twins:
    """For each node of the model, that of the copy; and the recurrent layers that become one operator each."""

    of: dict[ir.Node, ir.Node]
    layers: Container[ir.Node]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a weight is: a payload and a member number; `prefix` begins the names of new initializers."""

    model: ir.Model
    payload: ir.Value
    member: int
    prefix: str

    def attributes(self, cast_to: int) -> dict[str, int]:
        """The attributes that every operator of ours has, without defaults."""
        found = {"member": self.member} if self.member else {}
        return found | ({"to": cast_to} if cast_to else {})

    def like(self, dtype: int) -> list[ir.Value]:
        """The input that gives a Gather or Decompress its output type: none for float, else a tiny initializer shared by all."""
        if dtype == ir.DataType.FLOAT:
            return []
        name = f"{self.prefix}.like.{dtype}"
        if name not in self.model.graph.initializers:
            kind = ir.DataType(dtype)
            tensor = ir.Tensor(np.zeros(1, kind.numpy()), dtype=kind, name=name)
            value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape([1]), const_value=tensor)
            self.model.graph.register_initializer(value)
        return [self.model.graph.initializers[name]]


def _free_prefix(model: ir.Model) -> str:
    """With which no name of the model begins."""
    taken = all_names(model)
    prefix = DOMAIN
    while any(name.startswith(prefix) for name in taken):
        prefix += "_"
    return prefix


def _rewrite(weight: Weight, source: _Source, twins: _Twins) -> None:
    """Lets every consumer of a weight read the payload instead, but for recurrent layers, which need two."""
    others = [use for use in weight.uses if use.kind not in FUSED and use.node not in twins.layers]
    for use in weight.uses:
        if use.kind in FUSED:
            _fuse(weight, use, source, twins.of)
    if others:
        _decompress(weight, others, source, twins.of)


def _half(layer: ir.Node, index: int, sources: Mapping[Weight, _Source]) -> recurrent.Half:
    """The payload of one input of a recurrent layer."""
    return next(
        recurrent.Half(source.payload, source.member, use.cast_to)
        for weight, source in sources.items()
        for use in weight.uses
        if use.node is layer and use.index == index
    )


def _fuse(weight: Weight, use: Use, source: _Source, twins: dict[ir.Node, ir.Node]) -> None:
    """One consumer becomes one operator of ours; an Add of a vector behind a MatMul becomes its bias."""
    node, kind = twins[use.node], FUSED[use.kind]
    attributes = [ir.convenience.convert_attribute(name, value) for name, value in source.attributes(use.cast_to).items()]
    attributes += [node.attributes[name] for name in KEPT_ATTRIBUTES.get(kind, ()) if name in node.attributes]
    replaced = [node]
    if kind == "CompressedGather":
        inputs = [source.payload, node.inputs[1], *source.like(use.cast_to or weight.dtype)]
    else:
        inputs = [node.inputs[0], source.payload, *node.inputs[2:]]
        add = following_add(node) if kind == "CompressedMatMul" else None
        if add is not None and _adds_to_columns(add, node, use):
            inputs.append(next(value for value in add.inputs if value is not node.outputs[0]))
            replaced.append(add)
    graph = node.graph
    assert graph is not None
    new = ir.Node(DOMAIN, kind, inputs, attributes, num_outputs=1)
    last = replaced[-1]
    ir.convenience.replace_nodes_and_values(graph, last, replaced, [new], [last.outputs[0]], [new.outputs[0]])


def _adds_to_columns(add: ir.Node, node: ir.Node, use: Use) -> bool:
    """Whether the vector of an Add has exactly one value for each column of the product (a longer one would broadcast the product)."""
    vector = next(value for value in add.inputs if value is not node.outputs[0])
    constant = constant_behind(vector)
    return constant is not None and constant.size == _columns(use)


def _columns(use: Use) -> int:
    """Columns of the product that a MatMul makes with its weight."""
    root = use.between[0].inputs[0] if use.between else use.node.inputs[use.index]
    dims = list(root.const_value.shape.numpy())  # type: ignore[union-attr]
    transposed = any(node.op_type == "Transpose" for node in use.between)
    return int(dims[-2] if transposed else dims[-1])


def _decompress(weight: Weight, others: Sequence[Use], source: _Source, twins: dict[ir.Node, ir.Node]) -> None:
    """One Decompress node for all consumers without an operator of ours; it also does a Cast that all of them go through."""
    model = source.model
    value = model.graph.initializers[weight.name]
    casts = {use.cast_to if use.between and use.between[0].op_type == "Cast" else 0 for use in others}
    cast_to = casts.pop() if len(casts) == 1 else 0
    attributes = [ir.convenience.convert_attribute(name, number) for name, number in source.attributes(cast_to).items()]
    new = ir.Node(DOMAIN, "Decompress", [source.payload, *source.like(cast_to or weight.dtype)], attributes, num_outputs=1)
    new.outputs[0].type = ir.TensorType(ir.DataType(cast_to or weight.dtype))
    model.graph.insert_before(_first_node(model), new)
    if cast_to:
        for cast in {twins[use.between[0]] for use in others}:
            ir.convenience.replace_all_uses_with(cast.outputs[0], new.outputs[0])
    else:
        ir.convenience.replace_all_uses_with(value, new.outputs[0])


def _first_node(model: ir.Model) -> ir.Node:
    return next(iter(model.graph))


def _describe(model: ir.Model, payloads: Sequence[Payload], final: Sequence[str]) -> None:
    """Metadata: what wrote this file, which values are folded weights, and the weights' own names where they cost next to nothing."""
    model.metadata_props[FORMAT_KEY] = FORMAT_VERSION
    model.metadata_props[PACKAGE_KEY] = how_to_install()
    text = json.dumps(
        {name: [choice.weight.name for choice in payload.choices] for name, payload in zip(final, payloads, strict=True)},
        separators=(",", ":"),
    )
    folded = [name for name, payload in zip(final, payloads, strict=True) if payload.folded is not None]
    if folded:
        model.metadata_props[FOLDED_KEY] = " ".join(folded)
    if len(text) <= NAMES_SHARE * sum(payload.bytes for payload in payloads):
        model.metadata_props[NAMES_KEY] = text
