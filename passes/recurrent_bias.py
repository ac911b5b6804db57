"""The two biases of a recurrent layer are only ever added: the second one becomes zeros, which cost next to nothing.

B is [directions, Wb | Rb]. LSTM and RNN add Wb + Rb everywhere; GRU too, but for the hidden gate with linear_before_reset, where Rb_h is multiplied first.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .constants import is_constant, is_untouchable, tensor_of

_BIAS = 3


class MergeRecurrentBiases(ir.passes.InPlacePass):
    """B = [Wb + Rb | 0] where a layer only adds the two, and nothing else reads B."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if node.domain == "" and _only_adds(node) and len(node.inputs) > _BIAS:
                count += _merge(node.inputs[_BIAS])
        return ir.passes.PassResult(model, bool(count))


def _only_adds(node: ir.Node) -> bool:
    return node.op_type in ("LSTM", "RNN") or (node.op_type == "GRU" and not node.attributes.get_int("linear_before_reset", 0))


def _merge(value: ir.Value | None) -> bool:
    if value is None or not is_constant(value) or is_untouchable(value) or value.is_graph_output() or len(list(value.uses())) != 1:
        return False
    tensor = tensor_of(value)
    if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2 or tensor.size % 2:
        return False
    first, second = np.split(tensor.numpy(), 2, axis=1)
    if not second.any():
        return False
    value.const_value = ir.tensor(np.concatenate([first + second, np.zeros_like(second)], axis=1), name=value.name)
    return True
