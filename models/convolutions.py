"""Convolutional structures: depthwise with unfolded BatchNormalization, 1-D, 3-D, transposed, wide and narrow groups."""

from __future__ import annotations

import numpy as np
import onnx

from .network import Attributes, Network, tensor


def depthwise_batchnorm(seed: int) -> onnx.ModelProto:
    """A small MobileNet: stem, three depthwise separable blocks, BatchNormalization not folded, Clip(0, 6); 48 K weights."""
    net = Network(seed)
    x = batch_normalized(net, "stem", "image", (32, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    for index, (inputs, outputs) in enumerate(((32, 64), (64, 128), (128, 256))):
        spatial: Attributes = {"group": inputs, "pads": [1, 1, 1, 1], "strides": [1 + index % 2] * 2}
        x = batch_normalized(net, f"block{index}.depthwise", x, (inputs, 1, 3, 3), spatial)
        x = batch_normalized(net, f"block{index}.pointwise", x, (outputs, inputs, 1, 1), {})
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    x = net.add("Gemm", [x, net.weight("classes.weight", (10, 256)), net.bias("classes.bias", 10)], {"transB": 1})
    net.named(x, "logits")
    return net.model("depthwise_batchnorm", [tensor("image", ["batch", 3, 16, 16])], [tensor("logits", ["batch", 10])])


def batch_normalized(net: Network, name: str, x: str, dims: tuple[int, int, int, int], attributes: Attributes) -> str:
    """Conv without bias, BatchNormalization, Clip to [0, 6]."""
    count = dims[0]
    x = net.add("Conv", [x, net.weight(f"{name}.weight", dims)], attributes)
    parameters = [
        net.constant(f"{name}.gamma", net.rng.uniform(0.8, 1.6, count).astype(np.float32)),
        net.constant(f"{name}.beta", net.rng.normal(0.3, 0.3, count).astype(np.float32)),
        net.constant(f"{name}.mean", net.rng.normal(0, 0.1, count).astype(np.float32)),
        net.constant(f"{name}.variance", net.rng.uniform(0.3, 1.5, count).astype(np.float32)),
    ]
    x = net.add("BatchNormalization", [x, *parameters], {"epsilon": 1e-3})
    return net.add("Clip", [x, net.constant(f"{name}.low", 0.0), net.constant(f"{name}.high", 6.0)])


def conv_1d(seed: int) -> onnx.ModelProto:
    """1-D convolutions over a signal: SAME_UPPER padding, SAME_LOWER with stride 2, dilation 2, a 1x1; 43 K weights."""
    net = Network(seed)
    x = net.add("Conv", ["signal", net.weight("first", (64, 8, 5))], {"auto_pad": "SAME_UPPER"})
    x = net.add("Relu", [x])
    x = net.add("Conv", [x, net.weight("strided", (64, 64, 5)), net.bias("strided_bias", 64)], {"auto_pad": "SAME_LOWER", "strides": [2]})
    x = net.add("Relu", [x])
    x = net.add("Conv", [x, net.weight("dilated", (96, 64, 3))], {"dilations": [2], "pads": [3, 1]})
    x = net.add("LeakyRelu", [x], {"alpha": 0.1})
    x = net.add("Conv", [x, net.weight("head", (12, 96, 1)), net.bias("head_bias", 12)])
    net.named(x, "scores")
    return net.model("conv_1d", [tensor("signal", ["batch", 8, 64])], [tensor("scores", ["batch", 12, 32])])


def conv_3d(seed: int) -> onnx.ModelProto:
    """Two 3-D convolutions with unequal kernels, the second with stride; 29 K weights."""
    net = Network(seed)
    x = net.add("Conv", ["volume", net.weight("first", (16, 2, 3, 3, 3)), net.bias("first_bias", 16)], {"pads": [1] * 6})
    x = net.add("Relu", [x])
    x = net.add("Conv", [x, net.weight("second", (96, 16, 2, 3, 3))], {"pads": [0, 1, 1, 1, 1, 1], "strides": [1, 2, 2]})
    x = net.add("Flatten", [net.add("GlobalAveragePool", [net.add("Relu", [x])])])
    x = net.add("MatMul", [x, net.weight("head", (96, 5), fan_in=96)])
    net.named(x, "logits")
    return net.model("conv_3d", [tensor("volume", ["batch", 2, 6, 8, 8])], [tensor("logits", ["batch", 5])])


def conv_transpose(seed: int) -> onnx.ModelProto:
    """Encoder and decoder: ConvTranspose [in, out / group, kernel] plain, with groups and with output padding; 54 K weights."""
    net = Network(seed)
    encoder = net.weight("encoder", (64, 3, 4, 4))
    x = net.add("Relu", [net.add("Conv", ["image", encoder], {"strides": [2, 2], "pads": [1, 1, 1, 1]})])
    plain = net.weight("plain", (64, 32, 4, 4), fan_in=256)
    x = net.add("ConvTranspose", [x, plain, net.bias("plain_bias", 32)], {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    grouped = net.weight("grouped", (32, 32, 4, 4), fan_in=64)
    x = net.add("ConvTranspose", [net.add("Relu", [x]), grouped], {"group": 2, "strides": [2, 2], "pads": [1, 1, 1, 1]})
    last = net.weight("last", (64, 3, 3, 3), fan_in=144)
    x = net.add("ConvTranspose", [x, last], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]})
    net.named(x, "map")
    return net.model("conv_transpose", [tensor("image", ["batch", 3, 8, 8])], [tensor("map", ["batch", 3, 32, 32])])


def wide_groups(seed: int) -> onnx.ModelProto:
    """Grouped convolution with 96 rows a group: panels of 64 and of 32 rows; 56 K weights."""
    return grouped(seed, "wide_groups", (192, 32, 3, 3), 2)


def narrow_groups(seed: int) -> onnx.ModelProto:
    """Grouped convolution with 24 rows a group, fewer than a panel; 29 K weights."""
    return grouped(seed, "narrow_groups", (192, 16, 3, 3), 8)


def grouped(seed: int, name: str, dims: tuple[int, int, int, int], groups: int) -> onnx.ModelProto:
    """Conv 1x1 that widens, grouped Conv 3x3, Conv 1x1 that narrows."""
    net = Network(seed)
    inputs = dims[1] * groups
    x = net.add("Relu", [net.add("Conv", ["image", net.weight("widen", (inputs, 6, 1, 1))])])
    x = net.add("Conv", [x, net.weight("grouped", dims), net.bias("grouped_bias", dims[0])], {"group": groups, "pads": [1, 1, 1, 1]})
    x = net.add("Conv", [net.add("Relu", [x]), net.weight("narrow", (4, dims[0], 1, 1))])
    net.named(x, "map")
    return net.model(name, [tensor("image", ["batch", 6, 10, 10])], [tensor("map", ["batch", 4, 10, 10])])
