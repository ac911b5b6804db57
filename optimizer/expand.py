"""Expands operators of ours to standard ones with dense weights: how `restore` makes a plain model of a lossy file. Needs no library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
from numpy.typing import NDArray

from ..passes.constants import add_constant, all_names, fresh_name
from ..runtime import reader
from ..runtime.errors import FormatError
from ..runtime.evaluate import member_array
from ..runtime.form import Member, Payload
from ..runtime.header import FORMAT_KEY, LOSSLESS_VERSION
from . import fold
from .emit import FOLDED_KEY, NAMES_KEY, PACKAGE_KEY
from .epilogues import BIAS_INPUT, RESIDUAL_INPUT, Restoring, activated
from .errors import CompressError, UsageError
from .files import Workspace, load_graph, model_bytes
from .operators import DOMAIN, PARTS, PAYLOAD_INPUTS, Read, reads
from .save import IDENTITY_KEY, PROTOBUF_LIMIT_BYTES, check_identity

OWN_ATTRIBUTES = ("member", "members", "to", "activation", "activation_parameters")
"""Attributes that only our operators have."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was restored: bytes over all files before and after, and how many weights."""

    source: str
    target: str
    bytes_before: int
    bytes_after: int
    weights: int


def restore_lossy(source: Path, target: Path, force: bool) -> RestoreReport:
    """Writes the plain model of a file that is not lossless. Raises UsageError, CompressError."""
    with Workspace(source, target, force) as work:
        model = open_compressed(source)
        if model.metadata_props[FORMAT_KEY] == LOSSLESS_VERSION:
            raise CompressError(f"{source} was compressed without loss, but the record of its original is damaged: copy the file again or compress the original again")
        count = restore_model(model, str(source))
        large = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
        external = work.data.name if large >= PROTOBUF_LIMIT_BYTES else None
        ir.save(model, work.model, external_data=external)
        work.publish()
    return RestoreReport(str(source), str(target), model_bytes(source), model_bytes(target), count)


def open_compressed(path: Path) -> ir.Model:
    """Loads a compressed model. Raises UsageError for one that is not, CompressError for one that cannot be read."""
    model = load_graph(path)
    written = model.metadata_props.get(FORMAT_KEY)
    if written is None:
        raise UsageError(f"{path} was not written by onnx-compress: there is nothing to restore or inspect")
    if written not in (reader.FORMAT_VERSION, LOSSLESS_VERSION):
        raise CompressError(
            f"{path} has payload format {written}, this version reads {reader.FORMAT_VERSION} only: {model.metadata_props.get(PACKAGE_KEY, 'install the onnx-compress that wrote it')}"
        )
    check_identity(path, model)
    return model


def restore_model(model: ir.Model, where: str) -> int:
    """Replaces, in place, every operator of ours by standard ones; gives the number of weights. Raises CompressError."""
    weights = _Weights(model, where)
    for node in [node for node in model.graph.all_nodes() if node.domain == DOMAIN]:
        if node.op_type not in PAYLOAD_INPUTS:
            raise CompressError(
                f"{where}: operator {node.op_type} of {DOMAIN} is not known to this version: install the onnx-compress that wrote the file"
            )
        if PARTS in node.attributes:
            raise CompressError(f"{where}: a node makes parts of a payload, as only files without loss have it, but there is no record of an original: copy the file again")
        _Expansion(node, [weights.of(node, read) for read in reads(node)], weights).apply()
    weights.unfold(folded_values(model, where))
    for name in weights.payload_names:
        model.graph.initializers.pop(name, None)
    ir.passes.common.RemoveUnusedNodesPass()(model)  # the tensors that only gave our operators their types
    for key in (FORMAT_KEY, FOLDED_KEY, NAMES_KEY, PACKAGE_KEY, IDENTITY_KEY):
        model.metadata_props.pop(key, None)
    model.graph.opset_imports.pop(DOMAIN, None)
    return weights.count


def folded_values(model: ir.Model, where: str) -> list[ir.Value]:
    """The values that are folded weights. Raises CompressError where one is missing."""
    wanted = model.metadata_props.get(FOLDED_KEY, "").split()
    values = {str(output.name): output for node in model.graph for output in node.outputs} if wanted else {}
    if missing := [name for name in wanted if name not in values]:
        raise CompressError(f"{where}: folded weight {missing[0]!r} is missing: the file was changed after it was written; compress the original again")
    return [values[name] for name in wanted]


class _Weights:
    """Restored initializers, each made once."""

    def __init__(self, model: ir.Model, where: str) -> None:
        self._model, self._where = model, where
        self._names: dict[str, list[str]] = json.loads(model.metadata_props.get(NAMES_KEY, "{}"))
        self.taken = all_names(model)  # inner ones too: a weight's own name may by now be one of theirs
        self._payloads: dict[str, Payload] = {}
        self._values: dict[tuple[str, int], ir.Value] = {}
        self._scalars: dict[tuple[float, ir.DataType], ir.Value] = {}
        self.opset = model.graph.opset_imports.get("", 0)

    @property
    def payload_names(self) -> list[str]:
        """Initializers that nothing needs any more."""
        return list(self._payloads)

    @property
    def count(self) -> int:
        """How many weights were restored."""
        return len(self._values)

    def of(self, node: ir.Node, read: Read) -> _Restored:
        """A weight that a node reads."""
        name, number = "" if read.payload is None else str(read.payload.name), read.member
        payload = self._payload(name, read.payload, node)
        if not 0 <= number < len(payload.members):
            raise CompressError(
                f"{self._where}: node {node.op_type} asks for member {number} of payload {name!r}, which has {len(payload.members)}: the file is damaged"
            )
        if (name, number) not in self._values:
            self._values[name, number] = self._decoded(name, number, payload.members[number])
        return _Restored(self._values[name, number], payload.members[number])

    def scalar(self, number: float, dtype: ir.DataType) -> ir.Value:
        """A constant without axes, of the type of activations."""
        key = number, dtype
        if key not in self._scalars:
            name = fresh_name("scalar", self.taken)
            self._scalars[key] = add_constant(self._model.graph, name, np.array(number, dtype.numpy()))
        return self._scalars[key]

    def _payload(self, name: str, value: ir.Value | None, node: ir.Node) -> Payload:
        if name not in self._payloads:
            if value is None or value.const_value is None:
                raise CompressError(f"{self._where}: node {node.op_type} has no payload {name!r}: the file is damaged")
            try:
                self._payloads[name] = reader.read(np.ascontiguousarray(value.const_value.numpy()))
            except FormatError as error:
                raise CompressError(
                    f"{self._where}: payload {name!r}: {error}; copy the file again or compress the original again"
                ) from error
        return self._payloads[name]

    def unfold(self, values: Sequence[ir.Value]) -> None:
        """Puts initializers in the place of folded weights. Raises CompressError."""
        for value, folded in zip(values, fold.read(values), strict=True):
            dense = self._initializer(str(value.name), 0, folded.array(), ir.DataType(folded.dtype))
            self._values[str(value.name), 0] = dense
            ir.convenience.replace_all_uses_with(value, dense)

    def _decoded(self, payload: str, number: int, member: Member) -> ir.Value:
        dtype = ir.DataType(member.dtype)
        array: NDArray = member_array(member)
        if dtype == ir.DataType.BFLOAT16:
            array = array.view(ml_dtypes.bfloat16)
        elif dtype in (ir.DataType.INT4, ir.DataType.UINT4):
            array = array.astype(dtype.numpy())
        return self._initializer(payload, number, array, dtype)

    def _initializer(self, source: str, number: int, array: NDArray, dtype: ir.DataType) -> ir.Value:
        """An initializer under the name that the weight of this payload, or folded value, had; else under one made of that."""
        known = self._names.get(source, [])
        name = fresh_name(known[number] if number < len(known) else f"{source}.{number}", self.taken)
        tensor = ir.Tensor(array, dtype=dtype, name=name)
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self._model.graph.register_initializer(value)
        return value


@dataclass(frozen=True, slots=True, eq=False)
class _Restored:
    """A restored weight, and its payload's member."""

    value: ir.Value
    member: Member


class _Expansion:
    """One node of ours as standard nodes, in order."""

    def __init__(self, node: ir.Node, weights: Sequence[_Restored], graph: _Weights) -> None:
        self._node, self._weights, self._member, self._graph = node, weights, weights[0].member, graph
        self._new: list[ir.Node] = []

    def apply(self) -> None:
        """Puts the standard nodes in the place of the node."""
        weights = [self._add_cast(weight) for weight in self._weights]
        results = self._layer(weights) if len(weights) > 1 else [self._expand(weights[0])]
        node, graph = self._node, self._node.graph
        assert graph is not None
        if self._new:
            ir.convenience.replace_nodes_and_values(graph, node, [node], self._new, node.outputs, results)
            return
        ir.convenience.replace_all_uses_with(node.outputs[0], results[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)

    def _add_cast(self, weight: _Restored) -> ir.Value:
        cast_to = self._node.attributes.get_int("to", 0)
        return self._add("Cast", [weight.value], {"to": cast_to}) if cast_to and cast_to != weight.member.dtype else weight.value

    def _layer(self, weights: Sequence[ir.Value]) -> Sequence[ir.Value]:
        """LSTM or GRU."""
        node = self._node
        inputs = [node.inputs[0], *weights, *node.inputs[1 + len(weights) :]]
        self._new.append(ir.Node("", node.op_type.removeprefix("Compressed"), inputs, list(self._kept().values()), num_outputs=len(node.outputs)))
        return self._new[-1].outputs

    def _expand(self, weight: ir.Value) -> ir.Value:
        inputs = self._node.inputs
        match self._node.op_type:
            case "Decompress":
                return weight
            case "CompressedGather":
                return self._add("Gather", [weight, inputs[1]], {})
            case "CompressedMatMul":
                product = self._add("MatMul", [inputs[0], self._columns(weight)], {})
                return self._finish(product if (bias := self._optional(BIAS_INPUT)) is None else self._add("Add", [product, bias], {}))
            case "CompressedGemm":
                transposed = {"transB": 1} if self._rows_first() else {}
                return self._finish(self._add("Gemm", self._operands(weight), {**self._kept(), **transposed}))
            case "CompressedConv":
                return self._finish(self._add("Conv", self._operands(weight), self._kept()))
            case other:
                raise AssertionError(f"unreachable: {other} has passed the check against PAYLOAD_INPUTS")

    def _finish(self, product: ir.Value) -> ir.Value:
        """Residual and activation behind the multiply."""
        residual = self._optional(RESIDUAL_INPUT)
        product = product if residual is None else self._add("Add", [product, residual], {})
        dtype = ir.DataType(self._node.attributes.get_int("to", 0) or self._member.dtype)
        return activated(self._node, product, Restoring(self._add, lambda number: self._graph.scalar(number, dtype), self._graph.opset))

    def _operands(self, weight: ir.Value) -> list[ir.Value | None]:
        """Activations, weight and, where there is one, bias."""
        bias = self._optional(BIAS_INPUT)
        return [self._node.inputs[0], weight, *([] if bias is None else [bias])]

    def _optional(self, index: int) -> ir.Value | None:
        return self._node.inputs[index] if len(self._node.inputs) > index else None

    def _kept(self) -> dict[str, ir.Attr]:
        """The attributes that the standard operator has, too."""
        return {name: attribute for name, attribute in self._node.attributes.items() if name not in OWN_ATTRIBUTES}

    def _rows_first(self) -> bool:
        """Whether the stored matrix is [rows, k], the transpose of what MatMul multiplies with."""
        return self._member.view.permutation == tuple(range(len(self._member.view.dims)))

    def _columns(self, weight: ir.Value) -> ir.Value:
        """The weight as [k, rows]."""
        return self._add("Transpose", [weight], {"perm": [1, 0]}) if self._rows_first() else weight

    def _add(self, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, object]) -> ir.Value:
        made = [
            value if isinstance(value, ir.Attr) else ir.convenience.convert_attribute(name, value)  # type: ignore[arg-type]
            for name, value in attributes.items()
        ]
        self._new.append(ir.Node("", op_type, inputs, made, num_outputs=1))
        output = self._new[-1].outputs[0]
        output.name = fresh_name(f"{self._weights[0].value.name}.{op_type.lower()}", self._graph.taken)
        return output
