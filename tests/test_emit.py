"""Emission: who reads which payload, what is fused and what must not be, at every opset; and onnx's own node tests as a corpus."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.outcomes import DOMAIN, Outcome, compressed, nodes

WIDTH = 128


def operators(outcome: Outcome) -> Counter[str]:
    """How often the compressed model, bodies included, has each operator."""
    return Counter(node.op_type for node in nodes(onnx.load(outcome.target).graph))


def ours(outcome: Outcome) -> list[onnx.NodeProto]:
    return [node for node in nodes(onnx.load(outcome.target).graph) if node.domain == DOMAIN]


def square(net: Network, name: str) -> str:
    return net.weight(name, (WIDTH, WIDTH))


def finished(
    net: Network, y: str, dims: tuple[int | str, ...] = ("batch", WIDTH), x: tuple[int | str, ...] = ("batch", WIDTH)
) -> onnx.ModelProto:
    """The net from `x` to the value `y`, which becomes the output."""
    net.named(y, "y")
    return net.model("case", [tensor("x", x)], [tensor("y", dims)])


def test_a_weight_under_five_uses_is_one_payload(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["shared_weight"](0), 4)
    assert operators(outcome)["CompressedGather"] == 1
    payloads = {value for node in ours(outcome) for value in node.input if value in stored(outcome, TensorProto.UINT8)}
    assert len(payloads) == len(outcome.report.weights) == 1
    outcome.check()


def stored(outcome: Outcome, dtype: int) -> set[str]:
    return {i.name for i in onnx.load(outcome.target).graph.initializer if i.data_type == dtype}


def test_a_tied_embedding_is_multiplied_with_in_its_own_orientation(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["tied_transformer"](0), 4)
    found = operators(outcome)
    assert found["CompressedGather"] == 2  # tokens and positions
    assert not found["Decompress"]
    assert "embedding" in [weight.name for weight in outcome.report.weights]
    outcome.check()


def test_copies_are_one_payload_also_transposed(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["duplicated_weights"](0), 8)
    assert any("is the same as first" in note for note in outcome.report.notes)
    assert len(outcome.report.weights) <= 2
    outcome.check()


def test_a_convolution_kernel_that_something_else_reads_too_serves_both(tmp_path: Path) -> None:
    net = Network(0)
    kernel = net.weight("kernel", (64, 32, 3, 3))
    x = net.add("GlobalAveragePool", [net.add("Conv", ["x", kernel], {"pads": [1, 1, 1, 1]})])
    norm = net.add("ReduceSum", [net.add("Mul", [kernel, kernel]), net.constant("axes", [1, 2, 3], "int64")], {"keepdims": 0})
    shape = net.constant("shape", [1, 64, 1, 1], "int64")
    y = net.add("Div", [x, net.add("Sqrt", [net.add("Reshape", [norm, shape])])])
    outcome = compressed(tmp_path, finished(net, y, ("batch", 64, 1, 1), ("batch", 32, 8, 8)), 4)
    found = operators(outcome)
    assert (found["CompressedConv"], found["Decompress"]) == (1, 1)
    outcome.check()


def test_a_bias_of_two_layers_is_not_corrected(tmp_path: Path) -> None:
    net = Network(0)
    shared = net.constant("shared", net.draw((WIDTH,), 4))
    x = net.add("Relu", [net.add("Gemm", ["x", square(net, "first"), shared])])
    x = net.add("Relu", [net.add("Gemm", [x, square(net, "second"), shared])])
    own = net.constant("own", net.draw((WIDTH,), 4))
    y = net.add("Gemm", [x, square(net, "third"), own])
    made = finished(net, y)
    outcome = compressed(tmp_path, made, 8)
    before = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer if len(i.dims) == 1}
    rounding = max(float(np.abs(bias).max()) for bias in before.values()) / 250  # of 8 bits
    first, second, third = biases(outcome.restored)
    assert np.array_equal(first, second)
    assert np.abs(first - before["shared"]).max() < rounding
    assert np.abs(third - before["own"]).max() > rounding
    outcome.check()


def biases(path: Path) -> list[NDArray[Any]]:
    """What the Gemms of a plain model add, in order, as the runtime sees it."""
    model = onnx.load(path)
    names = [node.input[2] for node in model.graph.node if node.op_type == "Gemm"]
    known = {one.name for one in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {one.name: np.zeros((1, WIDTH), np.float32) for one in session.get_inputs()}
    return [session.run([name], feed)[0] for name in names]


@pytest.mark.parametrize("columns", [1, WIDTH])
def test_a_vector_that_would_broadcast_the_product_stays_an_addition(tmp_path: Path, columns: int) -> None:
    net = Network(0)
    product = net.add("MatMul", [net.add("MatMul", ["x", square(net, "first")]), net.weight("narrow", (WIDTH, columns), WIDTH)])
    y = net.add("Add", [product, net.bias("vector", WIDTH)])
    outcome = compressed(tmp_path, finished(net, y), 4)
    assert bool(operators(outcome)["Add"]) == (columns == 1)
    outcome.check()


@pytest.mark.parametrize("reader", ["output", "node", "body"])
def test_a_product_that_something_else_reads_keeps_its_addition(tmp_path: Path, reader: str) -> None:
    net = Network(0)
    product = net.add("MatMul", ["x", square(net, "weight")])
    y = net.add("Add", [net.bias("vector", WIDTH), product])
    if reader == "node":
        y = net.add("Add", [y, net.add("Tanh", [product])])
    if reader == "body":
        then, other = net.body("then"), net.body("else")
        then.named(then.add("Tanh", [product]), "then/y")
        other.named(other.add("Sin", [product]), "else/y")
        bodies = {
            f"{branch}_branch": one.graph(branch, [], [tensor(f"{branch}/y", ["batch", WIDTH])])
            for branch, one in (("then", then), ("else", other))
        }
        positive = net.add("Greater", [net.add("ReduceSum", ["x"], {"keepdims": 0}), net.constant("zero", 0.0)])
        y = net.add("Add", [y, net.add("If", [positive], bodies)])
    made = finished(net, y)
    if reader == "output":
        made.graph.output.append(tensor(product, ["batch", WIDTH]))
    outcome = compressed(tmp_path, made, 4)
    assert operators(outcome)["Add"] == 1 + (reader != "output")
    outcome.check()


def test_a_weight_of_both_branches_and_the_graph_is_one_payload(tmp_path: Path) -> None:
    net = Network(0)
    shared = square(net, "shared")
    then, other = net.body("then"), net.body("else")
    then.named(then.add("MatMul", ["x", shared]), "then/y")
    other.named(other.add("Gemm", ["x", shared], {"transB": 1, "alpha": 2.0}), "else/y")
    bodies = {
        f"{branch}_branch": one.graph(branch, [], [tensor(f"{branch}/y", ["batch", WIDTH])])
        for branch, one in (("then", then), ("else", other))
    }
    positive = net.add("Greater", [net.add("ReduceSum", ["x"], {"keepdims": 0}), net.constant("zero", 0.0)])
    y = net.add("Add", [net.add("If", [positive], bodies), net.add("MatMul", ["x", shared])])
    outcome = compressed(tmp_path, finished(net, y), 3.5)
    assert len(outcome.report.weights) == 1
    assert len(stored(outcome, TensorProto.UINT8)) == 1
    outcome.check(batches=(1, 2, 5))


def test_a_weight_that_only_a_branch_reads_is_compressed(tmp_path: Path) -> None:
    net = Network(0)
    then, other = net.body("then"), net.body("else")
    then.named(then.add("MatMul", ["x", then.weight("own", (WIDTH, WIDTH))]), "then/y")
    other.named(other.add("Identity", ["x"]), "else/y")
    bodies = {
        f"{branch}_branch": one.graph(branch, [], [tensor(f"{branch}/y", ["batch", WIDTH])])
        for branch, one in (("then", then), ("else", other))
    }
    positive = net.add("Greater", [net.add("ReduceSum", ["x"], {"keepdims": 0}), net.constant("zero", 0.0)])
    outcome = compressed(tmp_path, finished(net, net.add("If", [positive], bodies)), 4)
    outcome.check(batches=(1, 2, 5))


def test_weights_left_of_the_activations_are_decompressed(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["left_matmul"](0), 4)
    assert operators(outcome)["Decompress"] == 2
    outcome.check()


def test_alpha_and_beta_survive(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["gemm_variants"](0), 4)
    attributes = [{a.name: a.f for a in node.attribute if a.name in ("alpha", "beta")} for node in ours(outcome)]
    assert {"alpha": 0.5, "beta": 2.0} in attributes
    assert {"alpha": 1.5} in attributes
    outcome.check()


@pytest.mark.parametrize("stored_as", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("consumer", ["MatMul", "Gather", "Conv", "Mul", "both"])
def test_a_16_bit_weight_keeps_its_dtype_behind_casts(tmp_path: Path, stored_as: type, consumer: str) -> None:
    net = Network(0)
    dims = (64, 32, 3) if consumer == "Conv" else (WIDTH, WIDTH)
    weight = net.constant("weight", net.draw(dims).astype(stored_as))
    cast = net.add("Cast", [weight], {"to": TensorProto.FLOAT})
    x: tuple[int | str, ...] = ("batch", WIDTH)
    y: tuple[int | str, ...] = ("batch", WIDTH)
    match consumer:
        case "MatMul":
            value = net.add("MatMul", ["x", cast])
        case "Gather":
            value = net.add("Mul", ["x", net.add("Gather", [cast, net.constant("rows", [3], "int64")])])
        case "Conv":
            value, x, y = net.add("Conv", ["x", cast]), ("batch", 32, 9), ("batch", 64, 7)
        case "Mul":
            value = net.add("MatMul", ["x", net.add("Sin", [cast])])
        case _:
            value = net.add("Add", [net.add("MatMul", ["x", cast]), net.add("MatMul", ["x", net.add("Sin", [cast])])])
    made = finished(net, value, y, x)
    outcome = compressed(tmp_path, made, 1.7)
    assert [one.dtype for one in outcome.report.weights] == [np.dtype(stored_as).name]
    outcome.check()


def test_an_add_of_a_cast_bias_is_fused_and_corrected(tmp_path: Path) -> None:
    net = Network(0)
    bias = net.add("Cast", [net.constant("bias", net.draw((WIDTH,), 4).astype(np.float16))], {"to": TensorProto.FLOAT})
    weight = net.add("Cast", [net.constant("weight", net.draw((WIDTH, WIDTH)).astype(np.float16))], {"to": TensorProto.FLOAT})
    made = finished(net, net.add("Add", [net.add("MatMul", ["x", weight]), bias]))
    outcome = compressed(tmp_path, made, 2)
    assert not operators(outcome)["Add"]
    outcome.check()

OPSETS = {7: 3, 9: 4, 11: 6, 12: 7, 13: 7, 17: 8, 21: 10}
"""IR versions of the days of each opset."""


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", ["dense", "image"])
def test_every_opset_is_compressed(tmp_path: Path, opset: int, kind: str) -> None:
    net = Network(opset)
    if kind == "dense":
        x = net.add("Relu", [net.add("Gemm", ["x", square(net, "first"), net.bias("first_bias", WIDTH)])])
        x = net.add("Add", [net.add("MatMul", [x, square(net, "second")]), net.bias("second_bias", WIDTH)])
        y = net.add(
            "Softmax", [net.add("Gemm", [x, square(net, "third"), net.bias("third_bias", WIDTH)], {"transB": 1, "alpha": 0.5})], {"axis": 1}
        )
        made = finished(net, y)
    else:
        x = net.add("Relu", [net.add("Conv", ["x", net.weight("stem", (32, 8, 3, 3)), net.bias("stem_bias", 32)], {"pads": [1, 1, 1, 1]})])
        gains = [net.constant(name, net.rng.uniform(0.5, 1.5, 64).astype(np.float32)) for name in ("gamma", "beta", "mean", "variance")]
        x = net.add("BatchNormalization", [net.add("Conv", [x, net.weight("body", (64, 32, 3, 3))]), *gains])
        x = net.add("Flatten", [net.add("GlobalAveragePool", [net.add("Relu", [x])])])
        made = finished(net, net.add("MatMul", [x, net.weight("head", (64, 100), 64)]), ("batch", 100), ("batch", 8, 8, 8))
    made.opset_import[0].version, made.ir_version = opset, OPSETS[opset]
    if OPSETS[opset] < 4:
        made.graph.input.extend(tensor(i.name, list(i.dims), i.data_type) for i in made.graph.initializer)
    onnx.checker.check_model(made, full_check=True)
    outcome = compressed(tmp_path, made, 4)
    outcome.check()
    assert onnx.load(outcome.target).opset_import[0].version == opset
    assert onnx.load(outcome.target).ir_version == max(8, OPSETS[opset])


def test_names_that_a_model_shares_with_ours_do_no_harm(tmp_path: Path) -> None:
    net = Network(0)
    x = net.add("MatMul", ["x", net.weight("a", (WIDTH, 600), WIDTH)])
    x = net.add("MatMul", [net.add("Relu", [x]), net.weight("b", (600, 600), 600)])
    x = net.add("MatMul", [net.add("Relu", [x]), net.weight("onnx_compress.payload.0", (600, WIDTH), 600)])
    outcome = compressed(tmp_path, finished(net, net.add("Tanh", [x])), 4)
    assert [w.name for w in outcome.report.weights if w.dims == (600, 600)] == ["b"]
    outcome.check()
