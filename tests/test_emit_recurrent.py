"""LSTM and GRU layers in whole models: which become operators of ours, and that restoring gives the layer back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_compress.optimizer import inspect

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.outcomes import Outcome, compressed, nodes

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
LAYERS = pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
WIDTH, HIDDEN = 40, 48


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in nodes(onnx.load(path).graph))


def layer(net: Network, op_type: str, attributes: dict[str, Any] | None = None, dtype: str = "float32", x: str = "x") -> str:
    """A layer with matrices and biases of its own; gives Y."""
    rows, directions = GATES[op_type] * HIDDEN, 2 if (attributes or {}).get("direction") == "bidirectional" else 1
    matrices = []
    for name, k in (("W", WIDTH), ("R", HIDDEN)):
        stored = net.constant(f"{net.prefix}{name}", (net.draw((directions, rows, k), k)).astype(dtype))
        matrices.append(stored if dtype == "float32" else net.add("Cast", [stored], {"to": TensorProto.FLOAT}))
    b = net.constant(f"{net.prefix}B", 0.1 * net.draw((directions, 2 * rows), 1))
    states, *_ = net.add_many(op_type, [x, *matrices, b], 2, {"hidden_size": HIDDEN} | (attributes or {}))
    return states


def model(net: Network, states: str, directions: int = 1) -> onnx.ModelProto:
    net.named(net.add("Tanh", [states]), "y")
    return net.model("layer", [tensor("x", ["sequence", "batch", WIDTH])], [tensor("y", ["sequence", directions, "batch", HIDDEN])])


def made(folder: Path, op_type: str, attributes: dict[str, Any] | None = None, dtype: str = "float32") -> Outcome:
    net = Network(0)
    directions = 2 if (attributes or {}).get("direction") == "bidirectional" else 1
    return compressed(folder, model(net, layer(net, op_type, attributes, dtype), directions), 3)


@LAYERS
@pytest.mark.parametrize("attributes", [{}, {"direction": "reverse"}, {"direction": "bidirectional", "clip": 2.0}])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_layer_becomes_one_operator_and_comes_back_as_it_was(tmp_path: Path, op_type: str, attributes: dict[str, Any], dtype: str) -> None:
    outcome = made(tmp_path, op_type, attributes | ({"linear_before_reset": 1} if op_type == "GRU" else {}), dtype)
    found = operators(outcome.target)
    assert (found[f"Compressed{op_type}"], found["Decompress"], found[op_type]) == (1, 0, 0)
    before, after = (
        {a.name: helper.get_attribute_value(a) for node in onnx.load(path).graph.node if node.op_type == op_type for a in node.attribute}
        for path in (outcome.source, outcome.restored)
    )
    assert after == before
    assert [weight.operator for weight in inspect(outcome.target).weights] == [f"Compressed{op_type}"] * 2
    outcome.check()


@LAYERS
def test_other_activations_stay_with_onnxruntime(tmp_path: Path, op_type: str) -> None:
    outcome = made(tmp_path, op_type, {"activations": ["Sigmoid", "Relu", "Tanh"][: 3 if op_type == "LSTM" else 2]})
    found = operators(outcome.target)
    assert (found[f"Compressed{op_type}"], found["Decompress"], found[op_type]) == (0, 2, 1)
    outcome.check()


@LAYERS
def test_the_usual_activations_may_be_written_out(tmp_path: Path, op_type: str) -> None:
    names = {"LSTM": ["Sigmoid", "tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}[op_type]
    outcome = made(tmp_path, op_type, {"activations": names * 2, "direction": "bidirectional"})
    assert operators(outcome.target)[f"Compressed{op_type}"] == 1
    outcome.check()


def test_an_rnn_stays_with_onnxruntime(tmp_path: Path) -> None:
    net = Network(0)
    states = layer(net, "RNN")
    outcome = compressed(tmp_path, model(net, states), 2)
    assert operators(outcome.target)["RNN"] == 1
    outcome.check()


@LAYERS
@pytest.mark.parametrize("left_out", ["W", "R"])
def test_a_layer_with_one_plain_matrix_stays_with_onnxruntime(tmp_path: Path, op_type: str, left_out: str) -> None:
    net = Network(0)
    outcome = compressed(tmp_path, model(net, layer(net, op_type)), 1.5, exclude=(f"^{left_out}$",))
    found = operators(outcome.target)
    assert (found[f"Compressed{op_type}"], found["Decompress"], found[op_type]) == (0, 1, 1)
    outcome.check()


@LAYERS
def test_a_matrix_that_something_else_reads_too_serves_both(tmp_path: Path, op_type: str) -> None:
    net = Network(0)
    states = layer(net, op_type)
    net.named(net.add("ReduceMean", [net.add("Abs", ["W"])], {"keepdims": 0}), "size")
    proto = model(net, states)
    proto.graph.output.append(tensor("size", []))
    outcome = compressed(tmp_path, proto, 3)
    found = operators(outcome.target)
    assert (found[f"Compressed{op_type}"], found["Decompress"]) == (1, 1)
    outcome.check()


@LAYERS
def test_a_matrix_may_serve_as_both(tmp_path: Path, op_type: str) -> None:
    net = Network(0)
    rows = GATES[op_type] * WIDTH
    matrix = net.weight("matrix", (1, rows, WIDTH), WIDTH)
    _, last = net.add_many(op_type, ["x", matrix, matrix], 2, {"hidden_size": WIDTH})
    net.named(net.add("Tanh", [last]), "y")
    proto = net.model("layer", [tensor("x", ["sequence", "batch", WIDTH])], [tensor("y", [1, "batch", WIDTH])])
    outcome = compressed(tmp_path, proto, 3)
    assert operators(outcome.target)[f"Compressed{op_type}"] == 1
    assert len(outcome.report.weights) == 1
    outcome.check()


@LAYERS
def test_layers_in_bodies_are_fused(tmp_path: Path, op_type: str) -> None:
    net = Network(0)
    then, other = net.body("then"), net.body("else")
    rows = GATES[op_type] * HIDDEN
    w, r = (net.weight(name, (1, rows, k), k) for name, k in (("W", WIDTH), ("R", HIDDEN)))
    states, _ = then.add_many(op_type, ["x", w, r], 2, {"hidden_size": HIDDEN})
    then.named(then.add("Tanh", [states]), "then/y")
    states, _ = other.add_many(op_type, ["x", w, r], 2, {"hidden_size": HIDDEN, "direction": "reverse"})
    other.named(other.add("Sin", [states]), "else/y")
    dims = ["sequence", 1, "batch", HIDDEN]
    bodies = {f"{name}_branch": body.graph(name, [], [tensor(f"{name}/y", dims)]) for name, body in (("then", then), ("else", other))}
    positive = net.add("Greater", [net.add("ReduceSum", ["x"], {"keepdims": 0}), net.constant("zero", 0.0)])
    net.named(net.add("If", [positive], bodies), "y")
    outcome = compressed(tmp_path, net.model("bodies", [tensor("x", ["sequence", "batch", WIDTH])], [tensor("y", dims)]), 3)
    found = operators(outcome.target)
    assert (found[f"Compressed{op_type}"], found["Decompress"], found[op_type]) == (2, 0, 0)
    outcome.check()


@pytest.mark.parametrize(("name", "op_type"), [("lstm_bidirectional", "LSTM"), ("gru_language", "GRU")])
@pytest.mark.parametrize("ratio", [4, 8])
def test_whole_models_are_fused(tmp_path: Path, name: str, op_type: str, ratio: float) -> None:
    outcome = compressed(tmp_path, STRUCTURES[name](0), ratio)
    found = operators(outcome.target)
    assert (found[f"Compressed{op_type}"], found["Decompress"]) == (1, 0)
    outcome.check()


def test_small_layers_share_a_pool(tmp_path: Path) -> None:
    net = Network(0)
    x = "x"
    for number in range(3):
        w, r = (net.weight(f"{name}{number}", (1, 4 * 16, 16), 16) for name in "WR")
        states, _ = net.add_many("LSTM", [x, w, r], 2, {"hidden_size": 16})
        x = net.add("Squeeze", [states, net.constant(f"axes{number}", np.array([1]), "int64")])
    net.named(net.add("Tanh", [x]), "y")
    outcome = compressed(tmp_path, net.model("pool", [tensor("x", ["sequence", "batch", 16])], [tensor("y", ["sequence", "batch", 16])]), 3)
    layers = [node for node in onnx.load(outcome.target).graph.node if node.op_type == "CompressedLSTM"]
    assert len(layers) == 3
    assert len({name for node in layers for name in node.input[1:3]}) == 1
    outcome.check()
