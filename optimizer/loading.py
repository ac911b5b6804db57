"""A model file as the optimizer reads it: weights in memory once, external ones mapped; what cannot be compressed is refused here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from ..runtime.header import FORMAT_KEY
from .errors import CompressError, UsageError
from .files import check_source, load_graph
from .protos import no_tensors
from .views import FLOATS
from .wire import mapped

NAMES_KEY = "onnx_compress.names"
"""In `Model.meta`, never in the file: the constants' names as they were in the file."""

OWN_BYTES = 4096
"""A float tensor of at least this many bytes is an array from the beginning."""


def load(path: str | os.PathLike[str]) -> ir.Model:
    """The model; external tensors are mapped when they are first read.

    Raises UsageError where `path` is no file, or a model that is compressed already; CompressError where it holds no usable ONNX model.
    """
    path = Path(path)
    check_source(path)
    _refuse_no_tensors(path)
    model = load_graph(path)
    _check(path, model)
    _detach(model)
    model.meta[NAMES_KEY] = frozenset(_constant_names(model))
    return model


def _refuse_no_tensors(path: Path) -> None:
    with mapped(path) as data:
        for what, kind in no_tensors(data):
            remedy = "make it dense" if what.startswith("weight") else "export the model without it (from scikit-learn with zipmap=False)"
            raise CompressError(f"{what} of {path} is {kind}, and only dense tensors can be compressed with loss and compared: {remedy}, or compress with --lossless")


def _check(path: Path, model: ir.Model) -> None:
    if FORMAT_KEY in model.metadata_props:
        raise UsageError(f"{path} is compressed already ({FORMAT_KEY} = {model.metadata_props[FORMAT_KEY]}): give the original model, or restore this one first")
    for tensor in _external_tensors(model):
        file = Path(tensor.path)
        if not file.is_file():
            raise CompressError(f"{path} keeps {tensor.name} in {file}, which is missing: put that file beside the model")
        end = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
        if file.stat().st_size < end:
            raise CompressError(
                f"{file} has {file.stat().st_size:,} bytes, but {tensor.name} of {path} ends at byte {end:,}: it is truncated or belongs "
                "to another model; copy it again"
            )


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in _graphs(model):
        values = [value.const_value for value in graph.initializers.values()]
        values += [a.value for node in graph for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR and not a.is_ref()]
        yield from (tensor for tensor in values if isinstance(tensor, ir.ExternalTensor))


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield from model.graphs()
    for function in model.functions.values():
        yield function.graph
        yield from function.subgraphs()


def _constant_names(model: ir.Model) -> Iterator[str]:
    for graph in _graphs(model):
        yield from graph.initializers
        yield from (node.outputs[0].name or "" for node in graph if node.op_type == "Constant")


def _detach(model: ir.Model) -> None:
    """No tensor refers to the file's protobuf any more: that stays in memory as long as one does, and copies values at every look."""
    for graph in _graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.serde.TensorProtoTensor):
                value.const_value = _detached(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if isinstance(attribute.value, ir.serde.TensorProtoTensor):
                    node.attributes[name] = ir.AttrTensor(name, _detached(attribute.value), doc_string=attribute.doc_string)


def _detached(tensor: ir.serde.TensorProtoTensor) -> ir.TensorProtocol:
    """Large raw floats as an array; the others, which are written back as they were read, as a protobuf of their own."""
    if tensor.dtype in FLOATS and tensor.nbytes >= OWN_BYTES and tensor.raw.HasField("raw_data"):
        return ir.Tensor(tensor.numpy(), tensor.dtype, name=tensor.name, doc_string=tensor.doc_string, metadata_props=tensor.metadata_props)
    return ir.serde.TensorProtoTensor(ir.serde.serialize_tensor(tensor))
