"""Token models: a transformer block with a tied embedding, and a classifier with an integer output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from .network import Network, tensor

VOCABULARY, POSITIONS, WIDTH, HEADS = 512, 64, 64, 4
TOKENS = [tensor("input_ids", ["batch", "sequence"], TensorProto.INT64), tensor("attention_mask", ["batch", "sequence"], TensorProto.INT64)]


def tied_transformer(seed: int) -> onnx.ModelProto:
    """One block whose embedding E is also the output layer: Gather(E), then MatMul with Transpose(E); norms from primitives; 86 K weights."""
    net = Network(seed)
    x = embedded(net)
    x = net.add("Add", [x, attention(net, primitive_norm(net, "norm1", x))])
    hidden = net.add("MatMul", [primitive_norm(net, "norm2", x), net.weight("mlp.up", (WIDTH, 4 * WIDTH), fan_in=WIDTH)])
    hidden = gelu(net, net.add("Add", [hidden, net.bias("mlp.up_bias", 4 * WIDTH)]))
    hidden = net.add("MatMul", [hidden, net.weight("mlp.down", (4 * WIDTH, WIDTH), fan_in=4 * WIDTH)])
    x = primitive_norm(net, "norm3", net.add("Add", [x, hidden]))
    logits = net.add("MatMul", [x, net.add("Transpose", ["embedding"], {"perm": [1, 0]})])
    net.named(logits, "logits")
    return net.model("tied_transformer", TOKENS, [tensor("logits", ["batch", "sequence", VOCABULARY])])


def argmax_classifier(seed: int) -> onnx.ModelProto:
    """Embedding, attention, LayerNormalization, mean over unmasked tokens; outputs float `logits` and int64 `label`; 54 K weights."""
    net = Network(seed)
    x = embedded(net)
    x = net.add("Add", [x, attention(net, x)])
    gain = net.constant("norm.gain", net.rng.uniform(0.7, 1.3, WIDTH).astype(np.float32))
    x = net.add("LayerNormalization", [x, gain, net.bias("norm.bias", WIDTH)], {"axis": -1})
    weights = net.add("Unsqueeze", [net.add("Cast", ["attention_mask"], {"to": TensorProto.FLOAT}), net.constant("last", [-1], "int64")])
    axis = net.constant("tokens", [1], "int64")
    total = net.add("ReduceSum", [net.add("Mul", [x, weights]), axis], {"keepdims": 0})
    mean = net.add("Div", [total, net.add("ReduceSum", [weights, axis], {"keepdims": 0})])
    logits = net.add("Gemm", [mean, net.weight("classes", (7, WIDTH)), net.bias("classes_bias", 7)], {"transB": 1})
    label = net.add("ArgMax", [logits], {"axis": 1, "keepdims": 0})
    net.named(logits, "logits")
    net.named(label, "label")
    return net.model("argmax_classifier", TOKENS, [tensor("logits", ["batch", 7]), tensor("label", ["batch"], TensorProto.INT64)])


def embedded(net: Network) -> str:
    """Token embedding plus position embedding, [batch, sequence, WIDTH]; positions are counted from the running shape."""
    tokens = net.add("Gather", [net.weight("embedding", (VOCABULARY, WIDTH)), "input_ids"])
    length = net.add("Gather", [net.add("Shape", ["input_ids"]), net.constant("second", 1, "int64")])
    positions = net.add("Range", [net.constant("zero", 0, "int64"), length, net.constant("one", 1, "int64")])
    return net.add("Add", [tokens, net.add("Gather", [net.weight("positions", (POSITIONS, WIDTH), fan_in=4 * WIDTH), positions])])


def primitive_norm(net: Network, name: str, x: str) -> str:
    """Layer normalisation as exporters wrote it before opset 17: (x - mean) / sqrt(var + 1e-5) * gain + bias."""
    centred = net.add("Sub", [x, net.add("ReduceMean", [x], {"axes": [-1]})])
    square = net.add("Pow", [centred, net.constant(f"{name}.two", 2.0)])
    variance = net.add("ReduceMean", [square], {"axes": [-1]})
    deviation = net.add("Sqrt", [net.add("Add", [variance, net.constant(f"{name}.epsilon", 1e-5)])])
    gain = net.constant(f"{name}.gain", net.rng.uniform(0.7, 1.3, WIDTH).astype(np.float32))
    return net.add("Add", [net.add("Mul", [net.add("Div", [centred, deviation]), gain]), net.bias(f"{name}.bias", WIDTH)])


def attention(net: Network, x: str) -> str:
    """softmax(Q K^T / sqrt(d) + mask) V, four heads, masked tokens at -1e4."""
    query, key, value = (heads(net, name, x) for name in ("query", "key", "value"))
    scores = net.add("MatMul", [query, net.add("Transpose", [key], {"perm": [0, 1, 3, 2]})])
    scores = net.add("Mul", [scores, net.constant("attention.scale", (WIDTH // HEADS) ** -0.5)])
    kept = net.add("Cast", ["attention_mask"], {"to": TensorProto.FLOAT})
    masked = net.add("Mul", [net.add("Sub", [net.constant("attention.one", 1.0), kept]), net.constant("attention.low", -1e4)])
    masked = net.add("Unsqueeze", [masked, net.constant("attention.axes", [1, 2], "int64")])
    mixed = net.add("MatMul", [net.add("Softmax", [net.add("Add", [scores, masked])], {"axis": -1}), value])
    mixed = net.add("Transpose", [mixed], {"perm": [0, 2, 1, 3]})
    mixed = net.add("Reshape", [mixed, net.constant("attention.joined", [0, 0, WIDTH], "int64")])
    return net.add("MatMul", [mixed, net.weight("attention.output", (WIDTH, WIDTH))])


def heads(net: Network, name: str, x: str) -> str:
    """A projection split into heads: [batch, sequence, WIDTH] -> [batch, HEADS, sequence, WIDTH / HEADS]."""
    x = net.add("MatMul", [x, net.weight(f"attention.{name}", (WIDTH, WIDTH))])
    x = net.add("Add", [x, net.bias(f"attention.{name}_bias", WIDTH)])
    split = net.constant(f"attention.{name}_shape", [0, 0, HEADS, WIDTH // HEADS], "int64")
    return net.add("Transpose", [net.add("Reshape", [x, split])], {"perm": [0, 2, 1, 3]})


def gelu(net: Network, x: str) -> str:
    """x / 2 * (1 + erf(x / sqrt 2))."""
    error = net.add("Erf", [net.add("Div", [x, net.constant("gelu.root", 2**0.5)])])
    grown = net.add("Mul", [x, net.add("Add", [error, net.constant("gelu.one", 1.0)])])
    return net.add("Mul", [grown, net.constant("gelu.half", 0.5)])
