"""Bias correction: what a changed weight adds to the mean of a layer's output is taken off the layer's bias.

    b' = b + (W - W') E[x]

After: Nagel, van Baalen, Blankevoort and Welling 2019 (arXiv:1906.04721, section 4.2).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .moments import Moments
from .weights import Use, Weight

BIAS_INPUT = {"Conv": 2, "Gemm": 2}


def bias_of(weight: Weight) -> ir.Value | None:
    """The float bias that this weight alone feeds: one initializer, possibly behind a Cast, with one value an output row and no other use; or None."""
    if len(weight.uses) != 1:
        return None
    use = weight.uses[0]
    found = _stored(added_bias(use.node) if use.kind == "MatMul" else _own_bias(use))
    if found is None or found.const_value is None:
        return None
    rows = weight.view.batch * weight.view.rows
    one_each = found.const_value.size == rows and list(found.const_value.shape.numpy())[-1:] == [rows]
    return found if one_each and (use.kind == "Conv" or weight.view.batch == 1) else None


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a bias is, or that it is cast from, if nothing else reads it."""
    if value is None or len(list(value.uses())) != 1 or value.is_graph_output():
        return None
    cast = value.producer()
    if cast is not None and cast.op_type == "Cast" and not cast.domain:
        return _stored(cast.inputs[0])
    is_float = value.const_value is not None and value.const_value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return value if is_float and value.is_initializer() else None


def _own_bias(use: Use) -> ir.Value | None:
    """The bias input of a Conv, or of a Gemm that adds it as it is."""
    index = BIAS_INPUT.get(use.kind)
    if index is None or len(use.node.inputs) <= index:
        return None
    if any(name in use.node.attributes and use.node.attributes[name].as_float() != 1.0 for name in ("alpha", "beta")):
        return None
    return use.node.inputs[index]


def added_bias(node: ir.Node) -> ir.Value | None:
    """The vector that an Add behind a MatMul adds to its output."""
    add = following_add(node)
    if add is None:
        return None
    return next((value for value in add.inputs if value is not node.outputs[0]), None)


def following_add(node: ir.Node) -> ir.Node | None:
    """The Add in the same graph that alone consumes the output of `node` and adds a constant vector to it."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != "Add" or uses[0].node.domain or uses[0].node.graph is not node.graph:
        return None
    add = uses[0].node
    constant = constant_behind(add.inputs[1 - uses[0].idx])
    return add if constant is not None and len(constant.shape) == 1 else None


def constant_behind(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer, or of what a Cast makes of one."""
    if value is None:
        return None
    cast = value.producer()
    if cast is not None and cast.op_type == "Cast" and not cast.domain:
        return constant_behind(cast.inputs[0])
    return value.const_value if value.is_initializer() else None


def correction(weight: Weight, difference: NDArray[np.float32], moments: Moments) -> NDArray[np.float32]:
    """(W - W') E[x], float32 [batch * rows], for `difference` = W - W' [batch, rows, k]."""
    mean = np.broadcast_to(moments.mean, weight.view.shape)
    return np.einsum("brk,brk->br", difference, mean, dtype=np.float64).astype(np.float32).reshape(-1)


def centred(moments: Moments) -> NDArray[np.float32]:
    """E[x^2] - E[x]^2: what is left of the error once the mean is corrected; at least 1 % of E[x^2]."""
    return np.maximum(moments.square - moments.mean**2, 0.01 * moments.square)
