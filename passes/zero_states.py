"""Recurrent layers start from zero by default: initial states of zeros are left out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .constants import is_constant, is_untouchable, tensor_of

# LSTM, GRU and RNN: inputs initial_h and initial_c.
_STATES = (5, 6)
# Reading larger initial states only to see whether they are zero is not worth it.
_LARGEST_BYTES = 1 << 20
# Operators that only move or repeat the values of their first input.
_MOVES = frozenset({"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"})


class RemoveZeroStates(ir.passes.InPlacePass):
    """initial_h and initial_c that are zeros, made for the batch size at hand or constant, are removed."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if node.domain == "" and node.op_type in ("LSTM", "GRU", "RNN"):
                for index in _STATES:
                    if index < len(node.inputs) and _is_zero(node.inputs[index]):
                        node.replace_input_with(index, None)
                        count += 1
        return ir.passes.PassResult(model, bool(count))


def _is_zero(value: ir.Value | None) -> bool:
    if value is None:
        return False
    if is_constant(value):
        return not is_untouchable(value) and tensor_of(value).nbytes <= _LARGEST_BYTES and not np.any(tensor_of(value).numpy())
    producer = value.producer()
    if producer is None or producer.domain != "":
        return False
    if producer.op_type in _MOVES:
        return _is_zero(producer.inputs[0])
    if producer.op_type != "ConstantOfShape":
        return False
    fill = producer.attributes.get_tensor("value", None)
    return fill is None or not np.any(fill.numpy())
