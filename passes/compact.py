"""Small tensors in the shortest of protobuf's encodings, with nothing but name, type, dims and contents."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .constants import WEIGHT_ELEMENTS, is_constant, tensor_of

# Protobuf fields whose integers are varints: one byte up to 127, against four or eight as raw data.
_INT32_DATA = frozenset({ir.DataType.INT32, ir.DataType.INT16, ir.DataType.UINT16})


class CompactTensors(ir.passes.InPlacePass):
    """Re-encode small initializers: shapes and axes as varints, everything else as raw bytes."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for graph in model.graphs():
            for value in graph.initializers.values():
                if is_constant(value) and tensor_of(value).size < WEIGHT_ELEMENTS and tensor_of(value).dtype != ir.DataType.STRING:
                    value.const_value = _compact(tensor_of(value))
                    count += 1
        return ir.passes.PassResult(model, bool(count))


def _compact(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    dims = tuple(tensor.shape.numpy())
    raw = onnx.TensorProto(name=tensor.name, data_type=tensor.dtype.value, dims=dims, raw_data=tensor.tobytes())
    varint = onnx.TensorProto(name=tensor.name, data_type=tensor.dtype.value, dims=dims)
    if tensor.dtype == ir.DataType.INT64:
        varint.int64_data.extend(tensor.numpy().reshape(-1).tolist())
    elif tensor.dtype in _INT32_DATA:
        varint.int32_data.extend(tensor.numpy().reshape(-1).tolist())
    else:
        return ir.serde.TensorProtoTensor(raw)
    return ir.serde.TensorProtoTensor(min(raw, varint, key=lambda proto: proto.ByteSize()))
