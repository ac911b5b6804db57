"""If, Loop and Scan whose bodies use weights of the outer scope and weights of their own; model-local functions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .network import OPSET, Network, tensor, wrapped

WIDTH = 128


def if_branches(seed: int) -> onnx.ModelProto:
    """Both branches multiply by the outer weight; one adds a branch initializer, the other a Constant node; 66 K weights."""
    net = Network(seed)
    outer = net.weight("outer", (WIDTH, WIDTH))
    total = net.add("ReduceSum", ["x"], {"keepdims": 0})
    positive = net.add("Greater", [total, net.constant("zero", 0.0)])
    then, other = net.body("then"), net.body("else")
    x = then.add("Relu", [then.add("MatMul", ["x", outer])])
    then.named(then.add("MatMul", [x, then.weight("own", (WIDTH, WIDTH))]), "then/y")
    x = other.add("Tanh", [other.add("MatMul", ["x", outer])])
    literal = other.literal(other.draw((WIDTH, WIDTH)))
    other.named(other.add("Gemm", [x, literal], {"transB": 1}), "else/y")
    branches = {
        "then_branch": then.graph("then", [], [tensor("then/y", ["batch", WIDTH])]),
        "else_branch": other.graph("else", [], [tensor("else/y", ["batch", WIDTH])]),
    }
    y = net.add("MatMul", [net.add("If", [positive], branches), net.weight("after", (WIDTH, WIDTH))])
    net.named(y, "y")
    return net.model("if_branches", [tensor("x", ["batch", WIDTH])], [tensor("y", ["batch", WIDTH])])


def loop_body(seed: int) -> onnx.ModelProto:
    """Three rounds of x = tanh(x W + x V + b): W of the outer scope, V an initializer of the body, b a Constant node in it; 33 K weights."""
    net = Network(seed)
    outer = net.weight("outer", (WIDTH, WIDTH))
    body = net.body("body")
    own = body.add("MatMul", ["body/x", body.weight("own", (WIDTH, WIDTH))])
    mixed = body.add("Add", [body.add("MatMul", ["body/x", outer]), own])
    mixed = body.add("Tanh", [body.add("Add", [mixed, body.literal(body.draw((WIDTH,), fan_in=16))])])
    body.named(mixed, "body/next")
    body.named(body.add("Identity", ["body/go"]), "body/go_on")
    inputs = [tensor("body/round", [], TensorProto.INT64), tensor("body/go", [], TensorProto.BOOL), tensor("body/x", ["batch", WIDTH])]
    outputs = [tensor("body/go_on", [], TensorProto.BOOL), tensor("body/next", ["batch", WIDTH])]
    attributes = {"body": body.graph("round", inputs, outputs)}
    y = net.add("Loop", [net.constant("rounds", 3, "int64"), net.constant("go", True, "bool"), "x"], attributes)
    net.named(y, "y")
    return net.model("loop_body", [tensor("x", ["batch", WIDTH])], [tensor("y", ["batch", WIDTH])])


def scan_body(seed: int) -> onnx.ModelProto:
    """A recurrent cell under Scan: h = tanh(x W + h R), W of the outer scope, R of the body; 25 K weights."""
    net = Network(seed)
    outer = net.weight("outer", (64, WIDTH), fan_in=64)
    body = net.body("cell")
    recurrent = body.add("MatMul", ["cell/h", body.weight("own", (WIDTH, WIDTH))])
    body.named(body.add("Tanh", [body.add("Add", [body.add("MatMul", ["cell/x", outer]), recurrent])]), "cell/next")
    body.named(body.add("Identity", ["cell/next"]), "cell/seen")
    inputs = [tensor("cell/h", ["batch", WIDTH]), tensor("cell/x", ["batch", 64])]
    outputs = [tensor("cell/next", ["batch", WIDTH]), tensor("cell/seen", ["batch", WIDTH])]
    attributes = {"body": body.graph("cell", inputs, outputs), "num_scan_inputs": 1}
    _, states = net.add_many("Scan", ["state", "frames"], 2, attributes)
    net.named(states, "states")
    graph_inputs = [tensor("state", ["batch", WIDTH]), tensor("frames", ["sequence", "batch", 64])]
    return net.model("scan_body", graph_inputs, [tensor("states", ["sequence", "batch", WIDTH])])


def nested_bodies(seed: int) -> onnx.ModelProto:
    """An If inside a Loop whose branches use weights of the graph, of the loop body and their own; 49 K weights."""
    net = Network(seed)
    outer = net.weight("outer", (WIDTH, WIDTH))
    body = net.body("body")
    middle = body.weight("middle", (WIDTH, WIDTH))
    even, odd = body.body("even"), body.body("odd")
    even.named(even.add("MatMul", ["body/x", outer]), "body/even/y")
    x = odd.add("Add", [odd.add("MatMul", ["body/x", middle]), odd.add("MatMul", ["body/x", odd.weight("own", (WIDTH, WIDTH))])])
    odd.named(x, "body/odd/y")
    rest = body.add("Mod", ["body/round", body.constant("two", 2, "int64")])
    branches = {
        "then_branch": even.graph("even", [], [tensor("body/even/y", ["batch", WIDTH])]),
        "else_branch": odd.graph("odd", [], [tensor("body/odd/y", ["batch", WIDTH])]),
    }
    chosen = body.add("If", [body.add("Equal", [rest, body.constant("zero", 0, "int64")])], branches)
    body.named(body.add("Tanh", [chosen]), "body/next")
    body.named(body.add("Identity", ["body/go"]), "body/go_on")
    inputs = [tensor("body/round", [], TensorProto.INT64), tensor("body/go", [], TensorProto.BOOL), tensor("body/x", ["batch", WIDTH])]
    outputs = [tensor("body/go_on", [], TensorProto.BOOL), tensor("body/next", ["batch", WIDTH])]
    y = net.add("Loop", [net.constant("rounds", 4, "int64"), "", "x"], {"body": body.graph("round", inputs, outputs)})
    net.named(y, "y")
    return net.model("nested_bodies", [tensor("x", ["batch", WIDTH])], [tensor("y", ["batch", WIDTH])])


def local_functions(seed: int) -> onnx.ModelProto:
    """Functions of the model's own; 49 K weights.

    `Dense` holds its weight in a Constant node and runs twice, `Pair` calls it and has one too, `Scaled` is given a weight.
    """
    net = Network(seed)
    x = net.add("Dense", ["x"], domain="local")
    x = net.add("Scaled", [x, net.weight("given", (WIDTH, WIDTH))], domain="local")
    x = net.add("Pair", [x], domain="local")
    net.named(x, "y")
    graph = net.graph("local_functions", [tensor("x", ["batch", WIDTH])], [tensor("y", ["batch", WIDTH])])
    functions = [
        function("Dense", ["x"], [stored(net, "dense", (WIDTH, WIDTH)), helper.make_node("MatMul", ["x", "dense"], ["y"])]),
        function("Scaled", ["x", "w"], [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1, alpha=0.5)]),
        function("Pair", ["x"], pair(net)),
    ]
    return wrapped(graph, ["local"], functions)


def pair(net: Network) -> list[onnx.NodeProto]:
    """Nodes of a function that calls `Dense` and multiplies by a weight of its own."""
    return [
        helper.make_node("Dense", ["x"], ["first"], domain="local"),
        helper.make_node("Relu", ["first"], ["positive"]),
        stored(net, "second", (WIDTH, WIDTH)),
        helper.make_node("MatMul", ["positive", "second"], ["y"]),
    ]


def stored(net: Network, name: str, dims: tuple[int, ...]) -> onnx.NodeProto:
    """A Constant node that holds a drawn weight."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(net.draw(dims)), name))


def function(name: str, inputs: list[str], nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    """A function of the domain `local` with the output `y`."""
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, ["y"], nodes, opsets)
