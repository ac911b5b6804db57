"""BatchNormalization and other per-channel scales and shifts move into the weight and bias of the layer before them."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .constants import add_constant, all_names, fresh_name, is_constant, is_untouchable, set_constant, tensor_of

Floats = NDArray[np.float64]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Affine:
    """y[c] = scale[c] * x[c] + shift[c]; either has one element or one a channel, and scale is None where it is 1."""

    scale: Floats | None
    shift: Floats


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A Conv, ConvTranspose or Gemm with a constant weight that nobody else reads."""

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    channels: int
    rank: int  # of the output


class FuseAffine(ir.passes.InPlacePass):
    """Fuse BatchNormalization, Mul, Add, Sub and Div by constants into Conv, ConvTranspose and Gemm.

        scale * (W x + b) + shift = (scale * W) x + (scale * b + shift)

    computed in float64 and rounded once to the weight's dtype. Untouchable constants on either side: nothing is done.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = all_names(model)
        count = 0
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            layer = _layer(node)
            while layer is not None and _fuse_next(model.graph, layer, taken):
                count += 1
                layer = _layer(node)
        return ir.passes.PassResult(model, bool(count))


def _floats(value: ir.Value | None) -> Floats | None:
    """A constant that may be changed, in float64."""
    if value is None or not is_constant(value) or is_untouchable(value) or value.is_graph_output() or tensor_of(value).dtype not in _FLOATS:
        return None
    return np.asarray(tensor_of(value).numpy(), np.float64)


def _is_private(value: ir.Value | None) -> bool:
    """A float constant that one node alone reads."""
    if value is None or not is_constant(value) or is_untouchable(value) or value.is_graph_output():
        return False
    return len(value.uses()) == 1 and tensor_of(value).dtype in _FLOATS


def _layer(node: ir.Node) -> _Layer | None:
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.inputs) < 2:
        return None
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or not _is_private(weight):
        return None
    dims = tuple(tensor_of(weight).shape.numpy())
    match node.op_type:
        case "Conv":
            channels, rank = dims[0], len(dims)
        case "ConvTranspose":
            channels, rank = dims[1] * node.attributes.get_int("group", 1), len(dims)
        case _:
            channels, rank = dims[0 if node.attributes.get_int("transB", 0) == 1 else 1], 2
    if node.op_type == "Gemm" and node.attributes.get_float("beta", 1.0) != 1.0:
        return None
    if bias is not None:
        values = _floats(bias)
        if values is None or values.size not in (1, channels) or values.shape not in ((), (1,), (channels,), (1, channels)):
            return None
    return _Layer(node, weight, bias, channels, rank)


def _fuse_next(graph: ir.Graph, layer: _Layer, taken: set[str]) -> bool:
    """Fuse the only consumer of a layer, if it is affine."""
    result = layer.node.outputs[0]
    if result.is_graph_output() or len(result.uses()) != 1:
        return False
    ((consumer, _),) = result.uses()
    if consumer.graph is not layer.node.graph:  # in the body of a Loop it runs more often than its layer
        return False
    affine = _affine(consumer, result, layer)
    if affine is None:
        return False
    weight = None if affine.scale is None else _rounded(_scaled(layer, affine.scale), layer.weight)
    bias = _rounded(_shifted(layer, affine), layer.weight)
    if not np.isfinite(bias).all() or (weight is not None and not np.isfinite(weight).all()):  # 65504 is the end of float16
        return False
    if weight is not None:
        set_constant(layer.weight, weight)
    _set_bias(graph, layer, bias, consumer, taken)
    return _remove(consumer, layer.node)


def _affine(node: ir.Node, source: ir.Value, layer: _Layer) -> _Affine | None:
    if node.domain != "":
        return None
    if node.op_type == "BatchNormalization":
        return _normalization(node, source, layer.channels)
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or len(node.inputs) != 2:
        return None
    is_first = node.inputs[0] is source
    constant = _per_channel(node.inputs[1] if is_first else node.inputs[0], layer)
    if constant is None:
        return None
    match node.op_type:
        case "Add":
            return _Affine(None, constant)
        case "Mul":
            return _Affine(constant, np.zeros(1))
        case "Sub":
            return _Affine(None, -constant) if is_first else _Affine(-np.ones(1), constant)
    return _Affine(1.0 / constant, np.zeros(1)) if is_first and constant.all() else None


def _per_channel(value: ir.Value | None, layer: _Layer) -> Floats | None:
    """A constant that broadcasts along the channel axis (axis 1) only."""
    array = _floats(value)
    if array is None or array.ndim > layer.rank:
        return None
    dims = (1,) * (layer.rank - array.ndim) + array.shape
    if any(d != 1 for axis, d in enumerate(dims) if axis != 1) or dims[1] not in (1, layer.channels):
        return None
    return array.reshape(-1)


def _normalization(node: ir.Node, source: ir.Value, channels: int) -> _Affine | None:
    """y = (x - mean) / sqrt(variance + epsilon) * scale + shift."""
    if node.inputs[0] is not source or len(node.inputs) != 5 or node.attributes.get_int("training_mode", 0) != 0:
        return None
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]) or node.attributes.get_int("spatial", 1) != 1:
        return None
    arrays = [a for a in map(_floats, node.inputs[1:]) if a is not None and a.shape == (channels,)]
    if len(arrays) != 4:
        return None
    scale, shift, mean, variance = arrays
    factor = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return _Affine(factor, shift - mean * factor) if np.isfinite(factor).all() else None


def _scaled(layer: _Layer, scale: Floats) -> Floats:
    """The weight times `scale` along its output channels."""
    weight = np.asarray(tensor_of(layer.weight).numpy(), np.float64)
    scale = np.broadcast_to(scale, (layer.channels,))
    if layer.node.op_type == "ConvTranspose":  # [inputs, outputs / group, ...], groups along axis 0
        groups = layer.node.attributes.get_int("group", 1)
        split = weight.reshape(groups, -1, *weight.shape[1:])
        factors = scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
        return np.asarray(split * factors).reshape(weight.shape)
    if layer.node.op_type == "Gemm" and not layer.node.attributes.get_int("transB", 0):
        return np.asarray(weight * scale)
    return np.asarray(weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))


def _rounded(array: Floats, like: ir.Value) -> NDArray[np.generic]:
    with np.errstate(over="ignore"):  # the caller looks for infinities
        return np.asarray(array.astype(tensor_of(like).numpy().dtype))


def _shifted(layer: _Layer, affine: _Affine) -> Floats:
    """scale * bias + shift."""
    old = np.zeros(1) if layer.bias is None else np.asarray(tensor_of(layer.bias).numpy(), np.float64).reshape(-1)
    new = old * (1.0 if affine.scale is None else affine.scale) + affine.shift
    return np.broadcast_to(new, (layer.channels,))


def _set_bias(graph: ir.Graph, layer: _Layer, array: NDArray[np.generic], consumer: ir.Node, taken: set[str]) -> None:
    """The new bias stands where the layer's own was, or the shift that it comes from, if nobody else reads them."""
    if layer.bias is None and not array.any():
        return
    shift = consumer.inputs[2] if consumer.op_type == "BatchNormalization" else None
    private = next((v for v in (layer.bias, shift) if v is not None and _is_private(v)), None)
    if private is None:
        private = add_constant(graph, fresh_name(f"{layer.weight.name}.bias", taken), array)
    else:
        set_constant(private, array)
    layer.node.resize_inputs(3)
    layer.node.replace_input_with(2, private)


def _remove(consumer: ir.Node, layer: ir.Node) -> bool:
    """The layer takes the place of its consumer: also its name, where that is an output of the graph."""
    result, source, graph = consumer.outputs[0], layer.outputs[0], layer.graph
    assert graph is not None
    is_output, name, shape, kind = result.is_graph_output(), result.name, result.shape, result.type
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(consumer, safe=True)
    if is_output:
        source.name, source.shape, source.type = name, shape, kind
    return True
