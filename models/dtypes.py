"""Weights that are not float32: fp16 throughout, fp16 and bf16 behind a Cast, float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import DTypeLike
from onnx import TensorProto

from .network import Network, tensor


def float16_activations(seed: int) -> onnx.ModelProto:
    """Conv, Gather, MatMul and Gemm in fp16 from input to output; 44 K weights."""
    net = Network(seed)
    x = net.add("Conv", ["image", half(net, "kernel", (32, 3, 3, 3))], {"pads": [1, 1, 1, 1]})
    x = net.add("Flatten", [net.add("MaxPool", [net.add("Relu", [x])], {"kernel_shape": [4, 4], "strides": [4, 4]})])
    x = net.add("Relu", [net.add("Gemm", [x, half(net, "hidden", (192, 128)), half(net, "hidden_bias", (192,), 64)], {"transB": 1})])
    x = net.add("MatMul", [x, half(net, "mixed", (192, 64), 192)])
    x = net.add("Add", [x, net.add("Gather", [half(net, "table", (100, 64)), "token"])])
    net.named(x, "y")
    inputs = [tensor("image", ["batch", 3, 8, 8], TensorProto.FLOAT16), tensor("token", ["batch"], TensorProto.INT64)]
    return net.model("float16_activations", inputs, [tensor("y", ["batch", 64], TensorProto.FLOAT16)])


def half(net: Network, name: str, dims: tuple[int, ...], fan_in: int = 0) -> str:
    """A drawn weight, rounded to fp16."""
    return net.constant(name, net.draw(dims, fan_in).astype(np.float16))


def float16_cast(seed: int) -> onnx.ModelProto:
    """fp16 weights, each behind a Cast to float32; 53 K weights."""
    return behind_cast(seed, "float16_cast", np.float16)


def bfloat16_cast(seed: int) -> onnx.ModelProto:
    """bf16 weights, each behind a Cast to float32; 53 K weights."""
    return behind_cast(seed, "bfloat16_cast", ml_dtypes.bfloat16)


def behind_cast(seed: int, name: str, dtype: DTypeLike) -> onnx.ModelProto:
    """Gather, Conv, Gemm with transposed B, MatMul over Cast and Transpose; the Gather is cast after it has looked up."""
    net = Network(seed)

    def cast(weight: str, dims: tuple[int, ...], fan_in: int = 0) -> str:
        stored = net.constant(weight, net.draw(dims, fan_in).astype(dtype))
        return net.add("Cast", [stored], {"to": TensorProto.FLOAT})

    table = net.constant("table", net.draw((200, 64)).astype(dtype))
    looked_up = net.add("Cast", [net.add("Gather", [table, "tokens"])], {"to": TensorProto.FLOAT})
    x = net.add("Transpose", [looked_up], {"perm": [0, 2, 1]})
    x = net.add("Relu", [net.add("Conv", [x, cast("kernel", (96, 64, 3))], {"pads": [1, 1]})])
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    x = net.add("Relu", [net.add("Gemm", [x, cast("hidden", (128, 96)), net.bias("hidden_bias", 128)], {"transB": 1})])
    turned = net.add("Transpose", [cast("turned", (72, 128))], {"perm": [1, 0]})
    net.named(net.add("MatMul", [x, turned]), "scores")
    return net.model(name, [tensor("tokens", ["batch", "sequence"], TensorProto.INT64)], [tensor("scores", ["batch", 72])])


def double_weights(seed: int) -> onnx.ModelProto:
    """float64 from input to output, a dtype that is left alone; 16 K weights."""
    net = Network(seed)
    y = net.add("MatMul", ["x", net.constant("w", net.draw((128, 128)).astype(np.float64))])
    net.named(y, "y")
    return net.model("double_weights", [tensor("x", ["batch", 128], TensorProto.DOUBLE)], [tensor("y", ["batch", 128], TensorProto.DOUBLE)])
