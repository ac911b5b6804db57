"""LSTM in both directions and GRU, with weights [directions, gates * hidden, inputs]."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from .network import Network, tensor


def lstm_bidirectional(seed: int) -> onnx.ModelProto:
    """A bidirectional LSTM (hidden 64) over a sequence, then a dense layer; 51 K weights."""
    net = Network(seed)
    w = net.weight("lstm.W", (2, 256, 32), fan_in=32)
    r = net.weight("lstm.R", (2, 256, 64), fan_in=64)
    b = net.constant("lstm.B", 0.1 * net.draw((2, 512), fan_in=1))
    states, final, _ = net.add_many("LSTM", ["frames", w, r, b], 3, {"direction": "bidirectional", "hidden_size": 64})
    turned = net.add("Transpose", [states], {"perm": [0, 2, 1, 3]})
    joined = net.add("Reshape", [turned, net.constant("joined", [0, 0, 128], "int64")])
    scores = net.add("MatMul", [joined, net.weight("head", (128, 10), fan_in=128)])
    net.named(scores, "scores")
    net.named(final, "final")
    outputs = [tensor("scores", ["sequence", "batch", 10]), tensor("final", [2, "batch", 64])]
    return net.model("lstm_bidirectional", [tensor("frames", ["sequence", "batch", 32])], outputs)


def gru_language(seed: int) -> onnx.ModelProto:
    """A character model: Gather, GRU (linear_before_reset) with its state as input and output, dense layer; 43 K weights."""
    net = Network(seed)
    letters = net.add("Gather", [net.weight("letters", (96, 48)), "tokens"])
    w = net.weight("gru.W", (1, 240, 48), fan_in=48)
    r = net.weight("gru.R", (1, 240, 80), fan_in=80)
    b = net.constant("gru.B", 0.1 * net.draw((1, 480), fan_in=1))
    attributes = {"hidden_size": 80, "linear_before_reset": 1}
    states, final = net.add_many("GRU", [letters, w, r, b, "", "state"], 2, attributes)
    states = net.add("Squeeze", [states, net.constant("direction", [1], "int64")])
    logits = net.add("MatMul", [states, net.weight("head", (80, 96), fan_in=80)])
    net.named(logits, "logits")
    net.named(final, "next_state")
    inputs = [tensor("tokens", ["sequence", "batch"], TensorProto.INT64), tensor("state", [1, "batch", 80])]
    outputs = [tensor("logits", ["sequence", "batch", 96]), tensor("next_state", [1, "batch", 80])]
    return net.model("gru_language", inputs, outputs)
