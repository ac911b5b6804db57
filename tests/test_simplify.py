"""Slimming keeps values, names, dtypes and what must not be touched, and never makes a file larger."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes import onnxsim_adapter
from onnx_compress.passes.names import short_names, shorten
from onnx_compress.passes.simplify import overridable, simplify

from models.structures import STRUCTURES, feeds

Array = NDArray[np.generic]
SHARED = Path(__file__).parents[2] / "shared" / "models"
# The trial's bytes of the graph alone; issue 3 allows 1.5 times as many, and today all are below 1.
TRIAL_BYTES = {
    "charrnn_shakespeare": 1100,
    "charrnn_shakespeare_wbf16": 1100,
    "cifar10_resnet20_jpegft": 5900,
    "minilm_l6_v2": 9000,
    "mlperf_kws_dscnn": 2200,
    "mnist_cntk": 1600,
    "mobilenet_v1_075": 6500,
    "mobilenet_v1_075_w16": 6500,
    "nanodet_m": 20000,
    "ultraface_rfb320": 12500,
}
RNG_SEED = 5


def run(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    outputs: list[Array] = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)
    return outputs


def loaded_copy(model: onnx.ModelProto) -> ir.Model:
    """onnx_ir works on the very tensors of a proto, and renames them there."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return ir.from_proto(copy)


def slimmed(model: onnx.ModelProto, untouchable: Sequence[str] = (), short: bool = False) -> onnx.ModelProto:
    """A simplified copy, checked."""
    loaded = loaded_copy(model)
    simplify(loaded, frozenset(untouchable))
    if short:
        shorten(loaded)
    proto = ir.to_proto(loaded)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def assert_same(before: Sequence[Array], after: Sequence[Array], tolerance: float = 1e-5) -> None:
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert (old.dtype, old.shape) == (new.dtype, new.shape)
        if old.dtype.kind not in "fc":
            assert np.array_equal(old, new)
            continue
        limit = np.abs(old[np.isfinite(old)].astype(np.float64)).max(initial=0.0)
        np.testing.assert_allclose(new.astype(np.float64), old.astype(np.float64), rtol=0, atol=tolerance * limit, equal_nan=True)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    constants: dict[str, Array],
    opset: int = 17,
) -> onnx.ModelProto:
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "test", inputs, results, [numpy_helper.from_array(a, n) for n, a in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def floats(*dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)


def normal(*dims: int, seed: int = RNG_SEED) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(dims).astype(np.float32)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def stored(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def names(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    constants = {t.name for t in model.graph.initializer}
    return [v.name for v in model.graph.input if v.name not in constants], [v.name for v in model.graph.output]


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
    weights_bytes = sum(len(t.raw_data) or numpy_helper.to_array(t).nbytes for t in slim.graph.initializer if np.prod(t.dims) >= 64)
    assert slim.ByteSize() - weights_bytes <= TRIAL_BYTES[name]
    onnx.checker.check_model(slim, full_check=True)


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


# --- fusions


def layers() -> list[tuple[str, onnx.NodeProto, tuple[int, ...], dict[str, Array], int]]:
    """Name, layer, dims of x, constants, output channels."""
    return [
        ("conv", helper.make_node("Conv", ["x", "w"], ["h"]), (2, 4, 7, 7), {"w": normal(8, 4, 3, 3)}, 8),
        ("conv with bias", helper.make_node("Conv", ["x", "w", "b"], ["h"], group=2), (2, 4, 7, 7), {"w": normal(8, 2, 3, 3), "b": normal(8)}, 8),
        (
            "transposed",
            helper.make_node("ConvTranspose", ["x", "w", "b"], ["h"], group=2),
            (2, 4, 5, 5),
            {"w": normal(4, 3, 3, 3), "b": normal(6)},
            6,
        ),
        ("gemm", helper.make_node("Gemm", ["x", "w", "b"], ["h"], alpha=0.5), (3, 16), {"w": normal(16, 8), "b": normal(1, 8)}, 8),
        ("gemm, transposed", helper.make_node("Gemm", ["x", "w"], ["h"], transB=1), (3, 16), {"w": normal(8, 16)}, 8),
    ]


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: layer[0])
@pytest.mark.parametrize("operator", ["BatchNormalization", "Mul", "Add", "Sub", "Div", "Sub from", "Div of"])
def test_an_affine_operator_moves_into_the_layer_before_it(
    layer: tuple[str, onnx.NodeProto, tuple[int, ...], dict[str, Array], int], operator: str
) -> None:
    _, node, dims, constants, channels = layer
    constants = dict(constants)
    if operator == "BatchNormalization":
        constants |= {"scale": normal(channels), "shift": normal(channels, seed=7), "mean": normal(channels), "variance": normal(channels) ** 2 + 0.1}
        affine = helper.make_node(operator, ["h", "scale", "shift", "mean", "variance"], ["y"])
    else:
        constants["c"] = 1.5 + normal(channels).reshape(1, channels, *(1 for _ in dims[2:])) ** 2
        inputs = ["c", "h"] if " " in operator else ["h", "c"]
        affine = helper.make_node(operator.split(maxsplit=1)[0], inputs, ["y"])
    model = model_of([node, affine], [floats(*dims)], ["y"], constants)
    slim = slimmed(model)
    assert len(slim.graph.node) == (2 if operator == "Div of" else 1)
    assert "w" in stored(slim)
    assert_same(run(model, {"x": normal(*dims)}), run(slim, {"x": normal(*dims)}), tolerance=2e-6 if "Div of" not in operator else 1e-5)
    for name in ("w", "shift" if operator == "BatchNormalization" else "c"):
        untouched = slimmed(model, [name])
        assert untouched.graph.node[-1].op_type == operator.split(maxsplit=1)[0] or (name == "c" and operator == "Div of")
        assert np.array_equal(stored(untouched)[name], constants[name])


def test_a_weight_with_two_readers_is_not_scaled() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["h", "c"], ["m"]),
        helper.make_node("Conv", ["m", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    model = model_of(nodes, [floats(1, 4, 5, 5)], ["y"], {"w": normal(4, 4, 3, 3), "c": normal(4, 1, 1)})
    assert operators(slimmed(model)) == ["Conv", "Mul", "Conv"]


def test_a_scale_beyond_float16_is_not_fused() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 4, 5, 5])
    constants: dict[str, Array] = {"w": np.full((4, 4, 3, 3), 1000, np.float16), "c": np.full((4, 1, 1), 1000, np.float16)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "c"], ["y"])]
    assert operators(slimmed(model_of(nodes, [x], ["y"], constants))) == ["Conv", "Mul"]


@pytest.mark.parametrize("opset", [9, 17])
def test_zero_padding_moves_into_the_convolution(opset: int) -> None:
    pads = [0, 0, 1, 0, 0, 0, 2, 1]
    constants: dict[str, Array] = {"w": normal(4, 4, 3, 3)}
    if opset < 11:
        pad = helper.make_node("Pad", ["x"], ["p"], pads=pads)
    else:
        pad, constants["pads"] = helper.make_node("Pad", ["x", "pads"], ["p"]), np.array(pads)
    model = model_of([pad, helper.make_node("Conv", ["p", "w"], ["y"], pads=[1, 1, 1, 1])], [floats(1, 4, 6, 6)], ["y"], constants, opset)
    slim = slimmed(model)
    assert operators(slim) == ["Conv"]
    assert_same(run(model, {"x": normal(1, 4, 6, 6)}), run(slim, {"x": normal(1, 4, 6, 6)}))


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


def test_short_names_are_unique_and_spare_the_taken_ones() -> None:
    generator = short_names(frozenset({"b", "aa"}))
    found = [next(generator) for _ in range(5000)]
    assert found[:2] == ["a", "c"]
    assert len(set(found)) == len(found)
    assert not {"b", "aa"} & set(found)
    assert max(map(len, found)) == 3


def test_shortening_keeps_the_interface_and_tells_all_new_names() -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["long"]), helper.make_node("Add", ["long", "weight"], ["b"])]
    model = ir.from_proto(model_of(nodes, [floats(2, 8)], ["b"], {"a": normal(8, 8), "weight": normal(2, 8)}))
    renamed = shorten(model)
    proto = ir.to_proto(model)
    assert names(proto) == (["x"], ["b"])
    assert set(renamed) == {"a", "long", "weight"}
    assert len(set(renamed.values()) | {"x", "b"}) == 5
    assert list(stored(proto)) == [renamed["a"], renamed["weight"]]
    assert not any(node.name for node in proto.graph.node)


def test_metadata_of_the_model_stays() -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [floats(2)], ["y"], {})
    helper.set_model_props(model, {"names": "cat, dog"})
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "long"
    slim = slimmed(model, short=True)
    assert {p.key: p.value for p in slim.metadata_props} == {"names": "cat, dog"}
    assert b"long" not in slim.SerializeToString()


# --- onnxsim


def test_onnxsim_that_is_absent_or_slow_costs_a_note_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = STRUCTURES["tiny"](1)
    if importlib.util.find_spec("onnxsim") is not None:
        loaded = loaded_copy(model)
        assert "onnxsim: skipped, not done after 0.001 seconds" in simplify(loaded, onnxsim_seconds=0.001)
    monkeypatch.setattr(onnxsim_adapter.importlib.util, "find_spec", lambda name: None)
    assert "onnxsim: skipped, not installed" in simplify(loaded_copy(model), onnxsim_seconds=10)


def test_onnxsim_keeps_weights_and_values() -> None:
    if importlib.util.find_spec("onnxsim") is None:
        pytest.skip("onnxsim is not installed")
    for name in ("depthwise_batchnorm", "float16_cast", "argmax_classifier"):
        model = STRUCTURES[name](1)
        loaded = loaded_copy(model)
        notes = simplify(loaded, onnxsim_seconds=60)
        assert any(note.startswith(("onnxsim: saved", "onnxsim: result refused")) for note in notes)
        slim = ir.to_proto(loaded)
        assert {n for n, a in stored(slimmed(model)).items() if a.size >= 64} == {n for n, a in stored(slim).items() if a.size >= 64}
        assert_same(run(model, feeds(model, 2)), run(slim, feeds(model, 2)))
