"""Values and shapes that trip up careless code: pruned, constant, NaN, infinity, denormals, empty, rank 0, no weights at all."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from .network import Network, tensor


def pruned(seed: int) -> onnx.ModelProto:
    """Two layers, 90 % exact zeros (the smallest magnitudes), some rows and columns all zero; 74 K weights."""
    net = Network(seed)
    first, second = net.draw((256, 128)), net.draw((256, 160), fan_in=256)
    for values in (first, second):
        values[np.abs(values) < np.quantile(np.abs(values), 0.9)] = 0
    first[::17] = 0
    second[:, ::13] = 0
    x = net.add("Relu", [net.add("Gemm", ["x", net.constant("first", first)], {"transB": 1})])
    net.named(net.add("MatMul", [x, net.constant("second", second)]), "y")
    return net.model("pruned", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 160])])


def constant_values(seed: int) -> onnx.ModelProto:
    """A weight of zeros, one of a single value, one of two values, one whose rows are constant; 66 K weights."""
    net = Network(seed)
    signs = np.where(net.rng.random((128, 128)) < 0.5, -0.0625, 0.0625).astype(np.float32)
    rows = np.broadcast_to(net.draw((128, 1)) / 64, (128, 128))
    arrays = {"zeros": np.zeros((128, 128), np.float32), "single": np.full((128, 128), 0.01, np.float32), "signs": signs, "rows": rows}
    total = "x"
    for name, values in arrays.items():
        total = net.add("Add", [total, net.add("MatMul", ["x", net.constant(name, values)])])
    net.named(total, "y")
    return net.model("constant_values", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])])


def not_a_number(seed: int) -> onnx.ModelProto:
    """A weight with NaN in two columns, so that two columns of `y` are NaN, and a table with NaN in a padding row; 33 K weights."""
    net = Network(seed)
    matrix, table = net.draw((128, 128)), net.draw((130, 128))
    matrix[5, 3] = matrix[90, 77] = np.nan
    table[129] = np.nan  # `feeds` asks for rows before it only
    x = net.add("Add", ["x", net.add("Gather", [net.constant("table", table), "token"])])
    net.named(net.add("MatMul", [x, net.constant("matrix", matrix)]), "y")
    inputs = [tensor("x", ["batch", 128]), tensor("token", ["batch"], TensorProto.INT64)]
    return net.model("not_a_number", inputs, [tensor("y", ["batch", 128])])


def infinite(seed: int) -> onnx.ModelProto:
    """A causal mask of -inf above the diagonal, [128, 128], added to scores: the output is finite; 33 K weights."""
    net = Network(seed)
    mask = np.triu(np.full((128, 128), -np.inf, np.float32), 1)
    scores = net.add("MatMul", ["x", net.weight("scores", (64, 128), fan_in=64)])
    scores = net.add("Softmax", [net.add("Add", [scores, net.constant("mask", mask)])], {"axis": -1})
    net.named(net.add("MatMul", [scores, net.weight("values", (128, 64), fan_in=128)]), "y")
    return net.model("infinite", [tensor("x", ["batch", 128, 64])], [tensor("y", ["batch", 128, 64])])


def extreme_values(seed: int) -> onnx.ModelProto:
    """Negative zeros, denormals and outliers of 1e4 times the deviation among ordinary weights; 33 K weights."""
    net = Network(seed)
    first, second = net.draw((128, 128)), net.draw((128, 128))
    first[::3, ::5] = -0.0
    first[1::3, ::7] = np.float32(1e-42)
    second[7, 9], second[100, 2] = 900, -750
    x = net.add("Relu", [net.add("MatMul", ["x", net.constant("first", first)])])
    net.named(net.add("MatMul", [x, net.constant("second", second)]), "y")
    return net.model("extreme_values", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])])


def odd_shapes(seed: int) -> onnx.ModelProto:
    """Empty tensors [0] and [0, 96], scalars, rank 1, [1, n], [n, 1] and [1, 1, 1]; 22 K weights."""
    net = Network(seed)
    empty = net.constant("empty", np.zeros((0, 96), np.float32))
    table = net.add("Concat", [net.weight("table", (96, 96)), empty], {"axis": 0})
    x = net.add("Mul", [net.add("MatMul", ["x", table]), net.constant("scalar", 0.75)])
    x = net.add("Add", [x, net.weight("vector", (96,), fan_in=96)])
    x = net.add("PRelu", [x, net.constant("slope", net.draw((1, 96), fan_in=4))])
    x = net.add("MatMul", [x, net.weight("matrix", (96, 128), fan_in=96)])
    column = net.add("MatMul", [x, net.weight("column", (128, 1), fan_in=128)])
    row = net.add("MatMul", [column, net.weight("row", (1, 64), fan_in=1)])
    y = net.add("Mul", [row, net.constant("cube", np.full((1, 1), 2, np.float32))])
    nothing = net.add(
        "Concat", [net.constant("nothing", np.zeros(0, np.float32)), net.constant("long_vector", net.draw((300,), fan_in=8))], {"axis": 0}
    )
    net.named(net.add("Add", [y, net.add("ReduceMean", [nothing])]), "y")
    return net.model("odd_shapes", [tensor("x", ["batch", 96])], [tensor("y", ["batch", 64])])


def without_weights(seed: int) -> onnx.ModelProto:
    """No float initializer at all: there is nothing to compress."""
    net = Network(seed)
    x = net.add("Reshape", [net.add("Relu", ["x"]), net.constant("shape", [0, 16], "int64")])
    net.named(net.add("Softmax", [x], {"axis": -1}), "y")
    return net.model("without_weights", [tensor("x", ["batch", 4, 4])], [tensor("y", ["batch", 16])])
