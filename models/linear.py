"""Multiplications: every kind of Gemm, batched and left-hand MatMul weights, Einsum, tiny layers."""

from __future__ import annotations

import onnx

from .network import Network, tensor


def gemm_variants(seed: int) -> onnx.ModelProto:
    """Gemm with transB 0 and 1, transA, alpha, beta, and a C that is absent, a scalar, a row, or a column; 69 K weights."""
    net = Network(seed)
    x = net.add("Gemm", ["x", net.weight("plain", (64, 160), fan_in=64), net.bias("row", 160)], {"alpha": 0.5, "beta": 2.0})
    x = net.add("Gemm", [net.add("Relu", [x]), net.weight("transposed", (160, 160))], {"transB": 1})
    turned = net.add("Transpose", [net.add("Relu", [x])], {"perm": [1, 0]})
    x = net.add("Gemm", [turned, net.weight("both", (160, 160)), net.constant("scalar", 0.1)], {"transA": 1, "transB": 1})
    turned = net.add("Transpose", [net.add("Relu", [x])], {"perm": [1, 0]})
    x = net.add("Gemm", [turned, net.weight("left_transposed", (160, 48), fan_in=160)], {"transA": 1, "alpha": 1.5})
    # the weight as A: [7, 48] x [48, batch]
    turned = net.add("Transpose", [x], {"perm": [1, 0]})
    column = net.constant("column", net.draw((7, 1)))
    x = net.add("Gemm", [net.weight("as_a", (7, 48)), turned, column], {"beta": 0.25})
    net.named(x, "scores")
    return net.model("gemm_variants", [tensor("x", ["batch", 64])], [tensor("scores", [7, "batch"])])


def batched_matmul(seed: int) -> onnx.ModelProto:
    """MatMul by a weight [4, 48, 128] (a matrix a head), by a broadcast [1, 128, 48] and by a vector [48]; 31 K weights."""
    net = Network(seed)
    x = net.add("MatMul", ["x", net.weight("heads", (4, 48, 128), fan_in=48)])
    x = net.add("MatMul", [net.add("Relu", [x]), net.weight("broadcast", (1, 128, 48), fan_in=128)])
    scores = net.add("MatMul", [x, net.weight("vector", (48,), fan_in=48)])
    net.named(x, "states")
    net.named(scores, "scores")
    outputs = [tensor("states", ["batch", 4, 6, 48]), tensor("scores", ["batch", 4, 6])]
    return net.model("batched_matmul", [tensor("x", ["batch", 4, 6, 48])], outputs)


def left_matmul(seed: int) -> onnx.ModelProto:
    """A mixer: the weight stands left of the activations, [96, 64] x [batch, 64, 48], then right of them; 25 K weights."""
    net = Network(seed)
    x = net.add("Relu", [net.add("MatMul", [net.weight("left", (96, 64)), "x"])])
    x = net.add("Relu", [net.add("MatMul", [x, net.weight("right", (48, 128), fan_in=48)])])
    x = net.add("MatMul", [net.weight("left_batched", (2, 64, 96), fan_in=96), net.add("Unsqueeze", [x, net.constant("axis", [1], "int64")])])
    net.named(x, "mixed")
    return net.model("left_matmul", [tensor("x", ["batch", 64, 48])], [tensor("mixed", ["batch", 2, 64, 128])])


def einsum(seed: int) -> onnx.ModelProto:
    """Weights [48, 4, 96] and [4, 96, 48] under Einsum, as in exported attention layers; 37 K weights."""
    net = Network(seed)
    x = net.add("Einsum", ["x", net.weight("split", (48, 4, 96), fan_in=48)], {"equation": "bsd,dhk->bhsk"})
    x = net.add("Einsum", [net.add("Relu", [x]), net.weight("join", (4, 96, 48), fan_in=384)], {"equation": "bhsk,hkd->bsd"})
    net.named(x, "y")
    return net.model("einsum", [tensor("x", ["batch", 5, 48])], [tensor("y", ["batch", 5, 48])])


def tiny(seed: int) -> onnx.ModelProto:
    """Two layers of 12 and 6 weights: nothing to win."""
    net = Network(seed)
    x = net.add("Relu", [net.add("Gemm", ["x", net.weight("first", (4, 3), fan_in=4), net.bias("first_bias", 3)])])
    x = net.add("MatMul", [x, net.weight("second", (3, 2), fan_in=3)])
    net.named(x, "y")
    return net.model("tiny", [tensor("x", ["batch", 4])], [tensor("y", ["batch", 2])])
