"""Models that are quantized already: DequantizeLinear of int8, uint8 and int4, integer operators, MatMulNBits."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper

from .network import Network, tensor, wrapped


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Integers and their scales: w = scale * level, one scale a slice along the axis (or one for all)."""

    level: NDArray[np.int8]
    scale: NDArray[np.float32]


def rounded(values: NDArray[np.float32], axis: int | None, largest: int = 127) -> Levels:
    """Symmetric rounding to [-largest, largest]: scale = max|w| / largest over all axes but one."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(largest)
    return Levels(np.rint(values / scale).astype(np.int8), scale.reshape(-1) if axis is not None else scale.reshape(()))


def int8_per_channel(seed: int) -> onnx.ModelProto:
    """Conv and MatMul over DequantizeLinear of int8, a scale a channel, zero points given or absent; 43 K levels."""
    net = Network(seed)
    x = net.add("Relu", [net.add("Conv", ["image", dequantized(net, "stem", (32, 3, 3, 3), 0)], {"pads": [1, 1, 1, 1]})])
    x = net.add("Relu", [net.add("Conv", [x, dequantized(net, "body", (96, 32, 3, 3), 0)], {"pads": [1, 1, 1, 1]})])
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    x = net.add("MatMul", [x, dequantized(net, "head", (96, 150), 1)])
    net.named(x, "scores")
    return net.model("int8_per_channel", [tensor("image", ["batch", 3, 8, 8])], [tensor("scores", ["batch", 150])])


def dequantized(net: Network, name: str, dims: tuple[int, ...], axis: int) -> str:
    """DequantizeLinear of int8 levels along `axis`; a zero point of zeros where the axis is 0."""
    levels = rounded(net.draw(dims, fan_in=int(np.prod(dims)) // dims[axis]), axis)
    inputs = [net.constant(name, levels.level), net.constant(f"{name}.scale", levels.scale)]
    if axis == 0:
        inputs.append(net.constant(f"{name}.zero", np.zeros(dims[0], np.int8)))
    return net.add("DequantizeLinear", inputs, {"axis": axis})


def uint8_activations(seed: int) -> onnx.ModelProto:
    """QDQ throughout: activations and weights uint8 with zero points, the bias int32; 33 K levels."""
    net = Network(seed)
    x = "x"
    for index, (inputs, outputs) in enumerate(((64, 256), (256, 64))):
        x = quantized_activation(net, f"x{index}", x)
        levels = rounded(net.draw((outputs, inputs)), None)
        unsigned = (levels.level.astype(np.int16) + 128).astype(np.uint8)
        parts = [net.constant(f"w{index}", unsigned), net.constant(f"w{index}.scale", levels.scale), net.constant(f"w{index}.zero", 128, "uint8")]
        bias = net.constant(f"b{index}", net.rng.integers(-200, 200, outputs).astype(np.int32))
        bias_scale = net.constant(f"b{index}.scale", levels.scale * np.float32(0.03))
        biased = net.add("DequantizeLinear", [bias, bias_scale])
        x = net.add("Gemm", [x, net.add("DequantizeLinear", parts), biased], {"transB": 1})
    net.named(x, "y")
    return net.model("uint8_activations", [tensor("x", ["batch", 64])], [tensor("y", ["batch", 64])])


def quantized_activation(net: Network, name: str, x: str) -> str:
    """QuantizeLinear and DequantizeLinear with scale 0.03 and zero point 120."""
    parameters = [net.constant(f"{name}.scale", 0.03), net.constant(f"{name}.zero", 120, "uint8")]
    return net.add("DequantizeLinear", [net.add("QuantizeLinear", [x, *parameters]), *parameters])


def integer_operators(seed: int) -> onnx.ModelProto:
    """Dynamic quantization: ConvInteger (uint8) and MatMulInteger (int8) between DynamicQuantizeLinear and a rescaling; 37 K levels."""
    net = Network(seed)
    kernel = rounded(net.draw((64, 8, 3, 3)), None)
    unsigned = (kernel.level.astype(np.int16) + 128).astype(np.uint8)  # onnxruntime 1.20 has no ConvInteger of int8 weights
    parts = [net.constant("kernel", unsigned), net.constant("kernel.scale", kernel.scale), net.constant("kernel.zero", 128, "uint8")]
    x = rescaled(net, "ConvInteger", "image", parts)
    x = net.add("Flatten", [net.add("MaxPool", [net.add("Relu", [x])], {"kernel_shape": [3, 3], "strides": [3, 3]})])
    matrix = rounded(net.draw((256, 128), fan_in=256), None)
    parts = [net.constant("matrix", matrix.level), net.constant("matrix.scale", matrix.scale), net.constant("matrix.zero", 0, "int8")]
    x = rescaled(net, "MatMulInteger", x, parts)
    net.named(x, "y")
    return net.model("integer_operators", [tensor("image", ["batch", 8, 8, 8])], [tensor("y", ["batch", 128])])


def rescaled(net: Network, operator: str, x: str, weight: list[str]) -> str:
    """operator(quantize(x), levels) * x_scale * w_scale, in float32; `weight` names levels, scale and zero point."""
    levels, weight_scale, weight_zero = weight
    quantized, scale, zero = net.add_many("DynamicQuantizeLinear", [x], 3)
    product = net.add(operator, [quantized, levels, zero, weight_zero])
    factor = net.add("Mul", [scale, weight_scale])
    return net.add("Mul", [net.add("Cast", [product], {"to": TensorProto.FLOAT}), factor])


def matmul_nbits(seed: int) -> onnx.ModelProto:
    """com.microsoft.MatMulNBits: 4-bit levels in a uint8 blob [out, blocks, 16], scales a block of 32; 66 K levels."""
    net = Network(seed)
    x = "x"
    for index, (inputs, outputs) in enumerate(((128, 256), (256, 128))):
        blocks = net.draw((outputs, inputs)).reshape(-1, 32)
        scale = (np.abs(blocks).max(axis=1, keepdims=True) / 7).astype(np.float32)
        level = (np.clip(np.rint(blocks / scale), -8, 7) + 8).astype(np.uint8)
        blob = (level[:, 0::2] | level[:, 1::2] << 4).reshape(outputs, inputs // 32, 16)
        attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": 32}
        weight = [net.constant(f"w{index}", blob), net.constant(f"w{index}.scale", scale.reshape(-1))]
        x = net.add("MatMulNBits", [x, *weight], attributes, "com.microsoft")
    net.named(x, "y")
    graph = net.graph("matmul_nbits", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])])
    return wrapped(graph, ["com.microsoft"])


def int4_blocks(seed: int) -> onnx.ModelProto:
    """int4 and uint4 initializers with a scale a column; 25 K levels. The dtype needs IR 10 and opset 21, which onnxruntime 1.20 has."""
    net = Network(seed)
    x = net.add("Relu", [net.add("MatMul", ["x", four_bits(net, "signed", (64, 256), ml_dtypes.int4)])])
    x = net.add("MatMul", [x, four_bits(net, "unsigned", (256, 32), ml_dtypes.uint4)])
    net.named(x, "y")
    graph = net.graph("int4_blocks", [tensor("x", ["batch", 64])], [tensor("y", ["batch", 32])])
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets, producer_name="onnx-compress models")


def four_bits(net: Network, name: str, dims: tuple[int, int], dtype: DTypeLike) -> str:
    """DequantizeLinear of 4-bit levels along axis 1; uint4 has a zero point of 8."""
    levels = rounded(net.draw(dims, fan_in=dims[0]), 1, largest=7)
    offset = 8 if dtype == ml_dtypes.uint4 else 0
    parts = [net.constant(name, (levels.level + offset).astype(dtype)), net.constant(f"{name}.scale", levels.scale)]
    if offset:
        parts.append(net.constant(f"{name}.zero", np.full(dims[1], offset, np.int8).astype(dtype)))
    return net.add("DequantizeLinear", parts, {"axis": 1})
