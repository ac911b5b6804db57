"""What kind of thing each output of a model is, read off the last operators of the graph (the table is in distortion.py).

Operators that only move or shift values are looked through. In a model of images only [samples, classes] counts as classes: scores of many
boxes are a map. A name that speaks (`logits`, `box`, `embedding`, `hidden`) decides where the operators leave it open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import onnx_ir as ir

Kind = Literal["classes", "embedding", "probability", "map", "integer"]

FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
INTEGER_MULTIPLIES = ("MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul")
MULTIPLIES = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits", *INTEGER_MULTIPLIES)
CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv", "ConvInteger")
MOVING = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout", "Slice", "Split", "Gather")
QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
SHIFTING = ("Add", "Sub", "Mul", "Div")
POOLING = ("ReduceMean", "ReduceSum", "ReduceMax", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool")
NORMALISING = ("LpNormalization", "LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization")
ACTIVATIONS = ("Tanh", "Relu", "Gelu", "Elu", "Selu", "LeakyRelu", "Clip", "HardSwish")

CLASS_NAME = re.compile(r"logit|prob|score|class|softmax", re.IGNORECASE)
VECTOR_NAME = re.compile(r"embed|hidden|pooler|feature", re.IGNORECASE)
OTHER_NAME = re.compile(r"box|landmark|coord|offset|state|keypoint|depth|(^|_)(pose|reg|loc|hn|cn)(_|$)", re.IGNORECASE)

FAR = 12
"""Nodes looked at behind an operator: heads are shorter."""


def kinds(model: ir.Model) -> dict[str, Kind]:
    """The kind of every output, by name; what passes through unchanged (an initializer, an input) counts as "integer"."""
    images = any(value.dtype is not None and value.dtype.name in FLOATS and _rank(value) >= 4 for value in model.graph.inputs)
    return {str(value.name): _kind(value, images) for value in model.graph.outputs}


def logits(model: ir.Model) -> dict[str, str]:
    """What the Sigmoid behind an output reads, by the name of the output."""
    found = {}
    for output in model.graph.outputs:
        last = list(_behind(output))[-1:]
        if last and last[0].op_type == "Sigmoid" and last[0].inputs[0] is not None:
            found[str(output.name)] = str(last[0].inputs[0].name)
    return found


def _kind(value: ir.Value, images: bool) -> Kind:
    name, last = str(value.name), value.producer()
    if not isinstance(value.type, ir.TensorType) or (value.dtype is not None and value.dtype.name not in FLOATS):
        return "map" if last is not None and last.op_type in ("QuantizeLinear", "QLinearConv", "QLinearMatMul") else "integer"
    if last is None:
        return "integer"
    found = _by_operators(value)
    if found == "probability":
        return found
    if found == "map" or (OTHER_NAME.search(name) and not VECTOR_NAME.search(name)) or _is_single(value):
        return "map"
    if images and _rank(value) > 2 and not _is_pooled(value):
        return "map"
    if CLASS_NAME.search(name) or VECTOR_NAME.search(name):
        return "classes" if CLASS_NAME.search(name) else "embedding"
    return found


def _rank(value: ir.Value) -> int:
    return -1 if value.shape is None else len(value.shape)


def _is_pooled(value: ir.Value) -> bool:
    """[samples, classes, 1, ..]."""
    return value.shape is not None and all(size == 1 for size in list(value.shape)[2:])


def _is_single(value: ir.Value) -> bool:
    """One number a sample: a softmax of it would always be 1."""
    return value.shape is not None and len(value.shape) >= 1 and value.shape[-1] == 1 and _rank(value) <= 2


def _by_operators(value: ir.Value) -> Kind:
    """What the first operator, from the end, says that does more than move or shift values."""
    for node in _behind(value):
        if node.op_type == "Sigmoid":
            return "probability"
        if node.op_type in ("Softmax", "LogSoftmax"):
            return "classes" if _is_last_axis(node, value) else "map"
        if node.op_type in MULTIPLIES:
            return "classes" if _rank(value) <= 2 or any(_is_constant(one) for one in node.inputs[:2]) else "map"
        if node.op_type in CONVOLUTIONS:
            return "classes" if _is_behind_pooling(node.inputs[0]) else "map"
        if node.op_type in NORMALISING or node.op_type in POOLING:
            return "embedding"
        if node.op_type == "Div" and not _is_constant(node.inputs[1]):
            return _quotient_kind(node)
        if node.op_type in ACTIVATIONS:
            return "embedding" if any(one.op_type in MULTIPLIES for one in _behind(node.inputs[0])) else "map"
    return "map"


def _behind(value: ir.Value | None) -> Iterator[ir.Node]:
    """The nodes behind a value, the last first; stops after the first that does more than move or shift."""
    for _ in range(FAR):
        node = None if value is None else value.producer()
        if node is None:
            return
        yield node
        variable = [one for one in node.inputs if not _is_constant(one)]
        if node.op_type in MOVING or node.op_type in QUANTIZING:
            value = node.inputs[0]
        elif node.op_type in SHIFTING and len(variable) == 1:
            value = variable[0]
        else:
            return


def _is_constant(value: ir.Value | None) -> bool:
    """An initializer, or made of initializers alone."""
    if value is None:
        return True
    if value.is_initializer() and not value.is_graph_input():
        return True
    node = value.producer()
    return node is not None and node.op_type in (*MOVING, *QUANTIZING, "Constant") and all(map(_is_constant, node.inputs))


def _is_last_axis(node: ir.Node, value: ir.Value) -> bool:
    """Whether a softmax runs along the last axis of the output (trailing axes of size one apart)."""
    axis = node.attributes.get_int("axis", -1)
    return axis in (-1, _rank(value) - 1) or (axis == 1 and (_rank(value) <= 2 or _is_pooled(value)))


def _is_behind_pooling(value: ir.Value | None) -> bool:
    """Whether a chain of convolutions and activations leads back to a pooling over all positions."""
    for _ in range(FAR):
        nodes = list(_behind(value))
        if not nodes:
            return False
        if nodes[-1].op_type in POOLING:
            return True
        if nodes[-1].op_type not in (*CONVOLUTIONS, *ACTIVATIONS, "HardSigmoid", "BatchNormalization"):
            return False
        value = nodes[-1].inputs[0]
    return False


def _quotient_kind(node: ir.Node) -> Kind:
    """A / B: a vector by its norm, a sum by a count, or a softmax written out."""
    value = node.inputs[1]
    for _ in range(FAR):
        below = None if value is None else value.producer()
        if below is None:
            return "map"
        if below.op_type.startswith("Reduce"):
            above = node.inputs[0].producer() if node.inputs[0] is not None else None
            return "classes" if above is not None and above.op_type == "Exp" else "embedding"
        value = next((one for one in below.inputs if not _is_constant(one)), None)
    return "map"
