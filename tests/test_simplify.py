"""Slimming keeps values, names, dtypes and what must not be touched, and never makes a file larger."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes.names import shorten
from onnx_compress.passes.simplify import overridable, simplify

from benchmarks.graph_bytes import TRIAL_BYTES, graph_bytes
from models.structures import STRUCTURES, feeds
from tests.slimming import RNG_SEED, Array, assert_same, floats, model_of, names, normal, operators, run, slimmed, stored

SHARED = Path(__file__).parents[2] / "shared" / "models"


# --- whole models


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_keeps_its_values_and_its_interface_and_does_not_grow(name: str) -> None:
    model = STRUCTURES[name](1)
    feed = feeds(model, 2)
    expected = run(model, feed)
    for short in (False, True):
        slim = slimmed(model, short=short)
        assert_same(expected, run(slim, feed))
        assert names(slim) == names(model)
        assert slim.ByteSize() <= model.ByteSize() or not short


@pytest.mark.parametrize("name", STRUCTURES)
def test_untouchable_weights_stay_byte_identical(name: str) -> None:
    model = STRUCTURES[name](1)
    used = {name for node in model.graph.node for name in node.input}
    before = {t.name: t for t in model.graph.initializer if np.prod(t.dims) >= 64 and t.name in used}
    slim = slimmed(model, tuple(before))
    after = {t.name: t for t in slim.graph.initializer}
    assert {n: after[n].raw_data for n in before if n in after} == {n: before[n].raw_data for n in before if n in after}
    contents = {t.raw_data for t in after.values()}
    assert all(t.raw_data in contents for t in before.values())
    assert_same(run(model, feeds(model, 2)), run(slim, feeds(model, 2)))


@pytest.mark.parametrize("name", TRIAL_BYTES)
def test_the_graph_of_a_real_model_is_small_and_its_values_stay(name: str) -> None:
    path = SHARED / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    original, loaded = onnx.load(path), ir.load(path)
    start = time.perf_counter()
    simplify(loaded)
    shorten(loaded)
    assert time.perf_counter() - start < 3
    slim = ir.to_proto(loaded)
    feed = real_feed(original)
    assert_same(run(original, feed), run(slim, feed))
    assert names(slim) == names(original)
    onnx.checker.check_model(slim, full_check=True)
    assert graph_bytes(slim) <= TRIAL_BYTES[name]


def real_feed(model: onnx.ModelProto) -> dict[str, Array]:
    rng = np.random.default_rng(RNG_SEED)
    constants = {t.name for t in model.graph.initializer}
    feed: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        dims = [d.dim_value or (2, 9)[axis] for axis, d in enumerate(kind.shape.dim)]
        is_token = kind.elem_type == TensorProto.INT64
        limit = 60 if value.name in ("tokens", "input_ids") else 2
        feed[value.name] = rng.integers(0, limit, dims) if is_token else rng.standard_normal(dims).astype(np.float32)
    return feed


def test_simplifying_twice_changes_nothing() -> None:
    for name in ("depthwise_batchnorm", "tied_transformer", "cluttered", "nested_bodies"):
        once = slimmed(STRUCTURES[name](1), short=True)
        assert slimmed(once, short=True).ByteSize() == once.ByteSize()


# --- constants and their names


def test_constants_of_branches_become_initializers_under_their_names() -> None:
    assert {"outer", "then/own", "else/Constant_2"} <= set(stored(slimmed(STRUCTURES["if_branches"](1))))


def test_weights_of_two_branches_with_one_name_are_told_apart() -> None:
    def branch(seed: int) -> onnx.GraphProto:
        weight = numpy_helper.from_array(normal(4, 32, seed=seed), "w")
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "b", [], [result], [weight])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["go"]),
        helper.make_node("If", ["go"], ["out"], then_branch=branch(1), else_branch=branch(2)),
    ]
    model = model_of(nodes, [floats(3, 4)], ["out"], {"zero": np.float32(0)[()] * np.ones((), np.float32)})
    for sign in (1, -1):
        feed: dict[str, Array] = {"x": sign * np.ones((3, 4), np.float32)}
        for short in (False, True):
            assert_same(run(model, feed), run(slimmed(model, short=short), feed))
    assert {"w", "w_1"} <= set(stored(slimmed(model)))


def test_initializers_leave_the_inputs_and_the_note_says_so() -> None:
    loaded = ir.from_proto(STRUCTURES["overridable_initializers"](1))
    count = len(overridable(loaded))
    assert count > 0
    assert f"{count} initializers left the graph inputs" in simplify(loaded)
    assert overridable(loaded) == ()
    assert loaded.ir_version >= 8


def test_equal_weights_are_stored_once_and_the_untouchable_name_is_kept() -> None:
    model = STRUCTURES["duplicated_weights"](1)
    assert "copy" not in stored(slimmed(model))
    kept = stored(slimmed(model, ["copy"]))
    assert "copy" in kept
    assert "first" not in kept


def test_weights_that_differ_in_dtype_or_dims_only_are_not_merged() -> None:
    ones = np.ones((8, 16), np.float32)
    same: dict[str, Array] = {"a": ones, "b": ones.reshape(16, 8), "c": ones.view(np.int32)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"]),
        helper.make_node("MatMul", ["y", "b"], ["z"]),
        helper.make_node("Cast", ["z"], ["i"], to=TensorProto.INT32),
        helper.make_node("MatMulInteger", ["i8", "i8"], ["q"]),
        helper.make_node("Add", ["c", "c"], ["cc"]),
        helper.make_node("Mul", ["cc", "n"], ["r"]),
    ]
    n = helper.make_tensor_value_info("n", TensorProto.INT32, [1])
    model = model_of([*nodes[:2], *nodes[4:]], [floats(2, 8), n], ["z", "r"], same)
    dims = {(a.dtype.name, a.shape) for a in stored(slimmed(model)).values()}
    assert dims == {("float32", (8, 16)), ("float32", (16, 8)), ("int32", (8, 16))}


# --- folding


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT), {"w": normal(16, 16).astype(np.float16)}),
        (helper.make_node("Transpose", ["w"], ["v"], perm=[1, 0]), {"w": normal(16, 16)}),
        (helper.make_node("Expand", ["w", "n"], ["v"]), {"w": normal(1, 16), "n": np.array([64, 16])}),
        (helper.make_node("Tile", ["w", "n"], ["v"]), {"w": normal(16, 16), "n": np.array([4, 1])}),
        (helper.make_node("ConstantOfShape", ["n"], ["v"]), {"n": np.array([1024, 16])}),
        (helper.make_node("DequantizeLinear", ["w", "s"], ["v"]), {"w": np.arange(256, dtype=np.uint8).reshape(16, 16), "s": np.float32(0.1)[()]}),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_what_would_inflate_or_hide_a_weight_is_not_folded(node: onnx.NodeProto, constants: dict[str, Array]) -> None:
    multiply = helper.make_node("MatMul", ["x", "v"], ["y"])
    rows = 16 if node.op_type not in ("Expand", "Tile", "ConstantOfShape") else {"Expand": 64, "Tile": 64, "ConstantOfShape": 1024}[node.op_type]
    model = model_of([node, multiply], [floats(2, rows)], ["y"], {n: np.asarray(a) for n, a in constants.items()})
    slim = slimmed(model, short=True)
    assert operators(slim) == operators(model)
    assert slim.ByteSize() <= model.ByteSize()


def test_a_folded_weight_keeps_its_name() -> None:
    nodes = [helper.make_node("Reshape", ["w", "s"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])]
    slim = slimmed(model_of(nodes, [floats(2, 32)], ["y"], {"w": normal(4, 8, 16), "s": np.array([32, 16])}))
    assert operators(slim) == ["MatMul"]
    assert stored(slim)["w"].shape == (32, 16)


def test_a_weight_that_others_read_too_is_not_folded() -> None:
    nodes = [
        helper.make_node("Reshape", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
        helper.make_node("MatMul", ["y", "w"], ["z"]),
    ]
    slim = slimmed(model_of(nodes, [floats(2, 16)], ["z"], {"w": normal(32, 16), "s": np.array([16, 32])}))
    assert operators(slim) == operators(model_of(nodes, [floats(2, 16)], ["z"], {"w": normal(32, 16), "s": np.array([16, 32])}))


def test_old_operators_mean_what_they_meant() -> None:
    """Softmax before opset 13 works on the flattened trailing axes."""
    nodes = [helper.make_node("Softmax", ["c"], ["s"], axis=1), helper.make_node("Mul", ["x", "s"], ["y"])]
    model = model_of(nodes, [floats(2, 3, 4)], ["y"], {"c": normal(2, 3, 4)}, opset=9)
    slim = slimmed(model)
    assert operators(slim) == ["Mul"]
    assert_same(run(model, {"x": normal(2, 3, 4)}), run(slim, {"x": normal(2, 3, 4)}))


def test_a_computed_reshape_becomes_constant_and_takes_every_size() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "i0"], ["n"]),
        helper.make_node("Gather", ["shape", "i1"], ["t"]),
        helper.make_node("Unsqueeze", ["n", "a"], ["n1"]),
        helper.make_node("Unsqueeze", ["t", "a"], ["t1"]),
        helper.make_node("Concat", ["n1", "t1", "tail"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants: dict[str, Array] = {"i0": np.array(0), "i1": np.array(1), "a": np.array([0]), "tail": np.array([4, 2])}
    model = model_of(nodes, [floats("n", "t", 8)], ["y"], constants)
    slim = slimmed(model)
    assert operators(slim) == ["Reshape"]
    for dims in ((1, 1, 8), (3, 5, 8), (0, 5, 8)):
        assert_same(run(model, {"x": normal(*dims)}), run(slim, {"x": normal(*dims)}))


def test_random_nodes_are_neither_folded_nor_merged() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["a"]),
        helper.make_node("RandomNormalLike", ["x"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    assert operators(slimmed(model_of(nodes, [floats(2, 3)], ["y"], {}))) == ["RandomNormalLike", "RandomNormalLike", "Sub"]


# --- identities


def test_two_outputs_of_one_value_keep_both_names() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    slim = slimmed(model_of(nodes, [floats(2)], ["y", "z"], {}))
    assert [v.name for v in slim.graph.output] == ["y", "z"]


def test_a_branch_may_return_a_value_of_the_outer_graph() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(operator, ["h"], ["r"])], "b", [], [result])

    nodes = [
        helper.make_node("Exp", ["x"], ["h"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["go"], to=TensorProto.BOOL),
        helper.make_node("If", ["go"], ["y"], then_branch=branch("Identity"), else_branch=branch("Neg")),
    ]
    model = model_of(nodes, [floats(2)], ["y"], {})
    for value in (0, 1):
        feed: dict[str, Array] = {"x": np.full(2, value, np.float32)}
        assert_same(run(model, feed), run(slimmed(model, short=True), feed))


# --- attributes and names


def test_default_attributes_go_and_others_stay() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["h"], strides=[1, 1], dilations=[1, 1], group=1, kernel_shape=[3, 3], pads=[1, 1, 0, 0])
    relu = helper.make_node("LeakyRelu", ["h"], ["y"], alpha=0.1)
    slim = slimmed(model_of([node, relu], [floats(1, 4, 5, 5)], ["y"], {"w": normal(4, 4, 3, 3)}))
    assert [[a.name for a in n.attribute] for n in slim.graph.node] == [["pads"], ["alpha"]]


def test_defaults_are_those_of_the_models_opset() -> None:
    """The axis of Softmax is 1 by default in opset 12 and -1 in 13."""
    for opset, axis in ((12, 1), (13, -1)):
        for value in (1, -1):
            model = model_of([helper.make_node("Softmax", ["x"], ["y"], axis=value)], [floats(2, 3, 4)], ["y"], {}, opset)
            assert len(slimmed(model).graph.node[0].attribute) == (value != axis)


def test_metadata_of_the_model_stays() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [floats(2)], ["y"], {})
    helper.set_model_props(model, {"names": "cat, dog"})
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "long"
    slim = slimmed(model, short=True)
    assert {p.key: p.value for p in slim.metadata_props} == {"names": "cat, dog"}
    assert b"long" not in slim.SerializeToString()
