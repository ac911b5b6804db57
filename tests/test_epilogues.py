"""Residuals and activations behind products become part of our operators, and come back as the nodes they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from models.network import Network, tensor
from tests.outcomes import DOMAIN, Outcome, compressed, nodes

WIDTH = 128
Ending = Callable[[Network, str], str]


def operators(path: Path) -> Counter[str]:
    """How often a model has each operator; Casts that make floats of a bias in 16 bits do not count."""
    graph = onnx.load(path).graph
    constants = {one.name for one in graph.initializer}
    return Counter(node.op_type for node in nodes(graph) if node.op_type != "Cast" or node.input[0] not in constants)


def endings(outcome: Outcome) -> list[tuple[str, list[float], bool]]:
    """(activation, parameters, whether there is a residual) of our products."""
    found = []
    for node in nodes(onnx.load(outcome.target).graph):
        if node.domain == DOMAIN and node.op_type in ("CompressedMatMul", "CompressedGemm", "CompressedConv"):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            parameters = list(attributes.get("activation_parameters", []))
            found.append((attributes.get("activation", b"").decode(), parameters, len(node.input) > 3 and bool(node.input[3])))
    return found


def product(net: Network, kind: str, x: str = "x", name: str = "w") -> str:
    """A layer that keeps the shape of x."""
    if kind == "Conv":
        return net.add("Conv", [x, net.weight(name, (32, 32, 3, 3)), net.bias(f"{name}.b", 32)], {"pads": [1, 1, 1, 1]})
    if kind == "Gemm":
        return net.add("Gemm", [x, net.weight(name, (WIDTH, WIDTH)), net.bias(f"{name}.b", WIDTH)], {"transB": 1})
    return net.add("Add", [net.add("MatMul", [x, net.weight(name, (WIDTH, WIDTH))]), net.bias(f"{name}.b", WIDTH)])


def dims(kind: str) -> list[str | int]:
    """Of x and y; with three axes, MatMul and Add do not become a Gemm."""
    return {"Conv": ["batch", 32, 6, 6], "Gemm": ["batch", WIDTH], "MatMul": ["batch", 5, WIDTH]}[kind]


def finished(net: Network, y: str, kind: str) -> onnx.ModelProto:
    net.named(net.add("Abs", [y]), "y")
    return net.model("case", [tensor("x", dims(kind))], [tensor("y", dims(kind))])


def clip(net: Network, x: str) -> str:
    return net.add("Clip", [x, net.constant("low", 0.0), net.constant("high", 6.0)])


def gated(gate: str) -> Ending:
    return lambda net, x: net.add("Mul", [net.add(gate, [x]), x])


def one(op_type: str, attributes: dict[str, Any] | None = None) -> Ending:
    return lambda net, x: net.add(op_type, [x], attributes or {})


ENDINGS: dict[str, tuple[Ending, str, list[float]]] = {
    "Relu": (one("Relu"), "Relu", []),
    "Clip": (clip, "Clip", [0, 6]),
    "a Clip without upper limit": (lambda net, x: net.add("Clip", [x, net.constant("low", -0.25)]), "Clip", [-0.25, np.inf]),
    "a Clip without lower limit": (lambda net, x: net.add("Clip", [x, "", net.constant("high", 0.25)]), "Clip", [-np.inf, 0.25]),
    "LeakyRelu": (one("LeakyRelu", {"alpha": 0.125}), "LeakyRelu", [0.125]),
    "LeakyRelu by default": (one("LeakyRelu"), "LeakyRelu", [np.float32(0.01)]),
    "HardSigmoid": (one("HardSigmoid", {"alpha": 0.25, "beta": 0.75}), "HardSigmoid", [0.25, 0.75]),
    "Sigmoid": (one("Sigmoid"), "Sigmoid", []),
    "Tanh": (one("Tanh"), "Tanh", []),
    "HardSwish": (one("HardSwish"), "HardSwish", []),
    "x Sigmoid(x)": (gated("Sigmoid"), "MulSigmoid", []),
    "x HardSigmoid(x)": (gated("HardSigmoid"), "MulHardSigmoid", [np.float32(0.2), 0.5]),
}
KINDS = pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])


@KINDS
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ENDINGS)
def test_what_follows_a_product_becomes_part_of_it_and_comes_back(tmp_path: Path, kind: str, residual: bool, name: str) -> None:
    ending, activation, parameters = ENDINGS[name]
    net = Network(0)
    y = product(net, kind)
    y = ending(net, net.add("Add", ["x", y]) if residual else y)
    outcome = compressed(tmp_path, finished(net, y, kind), 3)
    assert endings(outcome) == [(activation, parameters, residual)]
    assert operators(outcome.target) == {f"Compressed{kind}": 1, "Abs": 1}
    assert operators(outcome.restored) == operators(outcome.source)
    assert parameters_of(outcome.restored) == parameters_of(outcome.source)
    outcome.check()


def parameters_of(path: Path) -> list[tuple[str, list[float]]]:
    """Activations with their attributes, defaults included, and the bounds of Clip."""
    model = onnx.load(path)
    stored = {tensor.name: float(onnx.numpy_helper.to_array(tensor).astype(np.float32).reshape(-1)[0]) for tensor in model.graph.initializer}
    defaults = {"LeakyRelu": {"alpha": 0.01}, "HardSigmoid": {"alpha": 0.2, "beta": 0.5}}
    found = []
    for node in model.graph.node:
        if node.op_type == "Clip":
            found.append(("Clip", [stored.get(name, np.nan) for name in node.input[1:] if name]))
        elif node.op_type in defaults:
            attributes = defaults[node.op_type] | {a.name: a.f for a in node.attribute}
            found.append((node.op_type, [float(np.float32(value)) for value in attributes.values()]))
    return found


@KINDS
def test_a_residual_alone_is_added_by_the_product(tmp_path: Path, kind: str) -> None:
    net = Network(0)
    outcome = compressed(tmp_path, finished(net, net.add("Add", [product(net, kind), "x"]), kind), 3)
    assert endings(outcome) == [("", [], True)]
    outcome.check()


@KINDS
def test_of_two_products_that_are_added_one_adds_the_other(tmp_path: Path, kind: str) -> None:
    net = Network(0)
    y = net.add("Relu", [net.add("Add", [product(net, kind, name="one"), product(net, kind, name="two")])])
    outcome = compressed(tmp_path, finished(net, y, kind), 3)
    assert sorted(endings(outcome)) == [("", [], False), ("Relu", [], True)]
    before, after = operators(outcome.source), operators(outcome.restored)
    assert {name: after[name] for name in before} == before
    outcome.check()


def test_an_activation_before_an_addition_leaves_the_addition(tmp_path: Path) -> None:
    net = Network(0)
    y = net.add("Add", [net.add("Relu", [product(net, "Conv")]), "x"])
    outcome = compressed(tmp_path, finished(net, y, "Conv"), 3)
    assert endings(outcome) == [("Relu", [], False)]
    assert operators(outcome.target)["Add"] == 1
    outcome.check()


def test_a_second_activation_stays(tmp_path: Path) -> None:
    net = Network(0)
    outcome = compressed(tmp_path, finished(net, net.add("Tanh", [net.add("Relu", [product(net, "Conv")])]), "Conv"), 3)
    assert endings(outcome) == [("Relu", [], False)]
    assert operators(outcome.target)["Tanh"] == 1
    outcome.check()


def test_a_product_added_to_itself_stays(tmp_path: Path) -> None:
    net = Network(0)
    y = product(net, "Conv")
    outcome = compressed(tmp_path, finished(net, net.add("Add", [y, y]), "Conv"), 3)
    assert endings(outcome) == [("", [], False)]
    outcome.check()


@pytest.mark.parametrize("other", [["batch", 32, 1, 1], ["images", 32, 6, 6], [32, 6, 6]])
def test_a_residual_that_may_broadcast_stays_an_addition(tmp_path: Path, other: list[str | int]) -> None:
    net = Network(0)
    y = net.add("Add", [product(net, "Conv"), "r"])
    net.named(net.add("Abs", [y]), "y")
    model = net.model("case", [tensor("x", dims("Conv")), tensor("r", other)], [tensor("y", ["all", 32, 6, 6])])
    outcome = compressed(tmp_path, model, 3)
    assert endings(outcome) == [("", [], False)]
    assert operators(outcome.target)["Add"] == 1


@pytest.mark.parametrize("reader", ["output", "node", "body"])
def test_a_product_that_something_else_reads_keeps_what_follows(tmp_path: Path, reader: str) -> None:
    net = Network(0)
    middle = product(net, "Conv")
    y = net.add("Relu", [middle])
    if reader == "node":
        y = net.add("Mul", [y, net.add("Tanh", [middle])])
    if reader == "body":
        bodies = {}
        for name, operator in (("then", "Sin"), ("else", "Cos")):
            body = net.body(name)
            body.named(body.add(operator, [middle]), f"{name}/y")
            bodies[f"{name}_branch"] = body.graph(name, [], [tensor(f"{name}/y", dims("Conv"))])
        positive = net.add("Greater", [net.add("ReduceSum", ["x"], {"keepdims": 0}), net.constant("zero", 0.0)])
        y = net.add("Mul", [y, net.add("If", [positive], bodies)])
    model = finished(net, y, "Conv")
    if reader == "output":
        model.graph.output.append(tensor(middle, dims("Conv")))
    outcome = compressed(tmp_path, model, 3)
    assert endings(outcome) == [("", [], False)]
    assert operators(outcome.target)["Relu"] == 1
    outcome.check()


def test_a_gate_that_something_else_reads_too_stays(tmp_path: Path) -> None:
    net = Network(0)
    middle = product(net, "Conv")
    gate = net.add("Sigmoid", [middle])
    y = net.add("Sub", [net.add("Mul", [middle, gate]), gate])
    outcome = compressed(tmp_path, finished(net, y, "Conv"), 3)
    assert endings(outcome) == [("", [], False)]
    outcome.check()


def test_a_clip_whose_bound_is_computed_stays(tmp_path: Path) -> None:
    net = Network(0)
    y = net.add("Clip", [product(net, "Conv"), "", net.add("ReduceMax", ["x"], {"keepdims": 0})])
    outcome = compressed(tmp_path, finished(net, y, "Conv"), 3)
    assert operators(outcome.target)["Clip"] == 1
    outcome.check()


def test_a_bound_that_the_user_excludes_stays_in_the_file(tmp_path: Path) -> None:
    net = Network(0)
    outcome = compressed(tmp_path, finished(net, clip(net, product(net, "Conv")), "Conv"), 3, exclude=("^high$",))
    assert operators(outcome.target)["Clip"] == 1
    outcome.check()


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
def test_bounds_of_clip_are_attributes_before_opset_11(tmp_path: Path, opset: int) -> None:
    net = Network(0)
    y = product(net, "Conv")
    y = net.add("Clip", [y], {"min": 0.0, "max": 6.0}) if opset < 11 else clip(net, y)
    model = finished(net, y, "Conv")
    model.opset_import[0].version, model.ir_version = opset, 4 if opset < 11 else 8
    outcome = compressed(tmp_path, model, 3)
    assert endings(outcome) == [("Clip", [0, 6], False)]
    assert operators(outcome.restored)["Clip"] == 1
    outcome.check()


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_sixteen_bit_weights_keep_the_type_of_activations(tmp_path: Path, dtype: int) -> None:
    """Cast to float, or multiplied with float16 activations."""
    net = Network(0)
    weight = net.constant("w", net.draw((32, 32, 3, 3)).astype(np.float16))
    x = net.add("Cast", ["x"], {"to": dtype})
    if dtype == TensorProto.FLOAT:
        weight = net.add("Cast", [weight], {"to": dtype})
    element = helper.tensor_dtype_to_np_dtype(dtype)
    y = net.add("Conv", [x, weight], {"pads": [1, 1, 1, 1]})
    y = net.add("Clip", [y, net.constant("low", np.array(0, element)), net.constant("high", np.array(6, element))])
    outcome = compressed(tmp_path, finished(net, net.add("Cast", [y], {"to": TensorProto.FLOAT}), "Conv"), 1.9)
    assert endings(outcome) == [("Clip", [0, 6], False)]
    outcome.check(tolerance=4e-3)


def test_products_in_bodies_take_up_what_follows(tmp_path: Path) -> None:
    net = Network(0)
    bodies = {}
    for name, operator in (("then", "Relu"), ("else", "Tanh")):
        body = net.body(name)
        middle = body.add("MatMul", ["x", net.weight(f"{name}.w", (WIDTH, WIDTH))])
        body.named(body.add(operator, [body.add("Add", [middle, "x"])]), f"{name}/y")
        bodies[f"{name}_branch"] = body.graph(name, [], [tensor(f"{name}/y", dims("MatMul"))])
    positive = net.add("Greater", [net.add("ReduceSum", ["x"], {"keepdims": 0}), net.constant("zero", 0.0)])
    outcome = compressed(tmp_path, finished(net, net.add("If", [positive], bodies), "MatMul"), 3)
    assert sorted(activation for activation, _, _ in endings(outcome)) == ["Relu", "Tanh"]
    outcome.check()
