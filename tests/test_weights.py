"""Weights are found, seen as their consumers multiply by them, and left alone with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx_compress.optimizer.errors import UsageError
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.weights import Found, Rules, Weight, find_weights, unwanted
from onnx_compress.passes.simplify import simplify

from models.network import Network, tensor
from models.storage import plain
from models.structures import STRUCTURES


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def found(model: onnx.ModelProto, folder: Path, rules: Rules | None = None) -> Found:
    """The weights after simplification."""
    loaded = load(saved(model, folder))
    simplify(loaded)
    return find_weights(loaded, rules or Rules())


def by_name(result: Found) -> dict[str, Weight]:
    return {weight.name: weight for weight in result.weights}


def reasons(result: Found) -> dict[str, str]:
    return {name: reason for name, reason, _ in result.left_alone}


def built(net: Network, result: str, inputs: list[onnx.ValueInfoProto], dims: list[int | str]) -> onnx.ModelProto:
    net.named(result, "y")
    return net.model("built", inputs, [tensor("y", dims)])


@pytest.mark.parametrize("name", STRUCTURES)
def test_views_hold_every_value_of_every_structure(tmp_path: Path, name: str) -> None:
    result = found(STRUCTURES[name](0), tmp_path)
    for weight in result.weights:
        assert weight.uses
        assert np.prod(weight.view.shape) == weight.array().size
        np.testing.assert_array_equal(weight.view.unsee(weight.viewed()), weight.array().astype(np.float32))
        for use in weight.uses:
            start = use.between[0].inputs[0] if use.between else use.node.inputs[use.index]
            assert start is weight.value


def test_matmul_weights_are_seen_by_output_columns(tmp_path: Path) -> None:
    net = Network(0)
    x = net.add("MatMul", ["x", net.weight("flat", (48, 80))])
    x = net.add("MatMul", [x, net.weight("stacked", (3, 80, 64))])
    weights = by_name(found(built(net, x, [tensor("x", ["n", 3, 5, 48])], ["n", 3, 5, 64]), tmp_path))
    assert weights["flat"].view.shape == (1, 80, 48)
    np.testing.assert_array_equal(weights["flat"].viewed()[0], np.asarray(weights["flat"].array()).T)
    assert weights["stacked"].view.shape == (3, 64, 80)
    assert {use.kind for weight in weights.values() for use in weight.uses} == {"MatMul"}


def test_gemm_and_transposed_matmul_weights_have_their_outputs_as_rows(tmp_path: Path) -> None:
    net = Network(0)
    x = net.add("Gemm", ["x", net.weight("plain", (48, 80))])
    x = net.add("Gemm", [x, net.weight("transposed", (96, 80))], {"transB": 1})
    x = net.add("MatMul", [x, net.add("Transpose", [net.weight("turned", (64, 96))])])
    model = built(net, x, [tensor("x", ["n", 48])], ["n", 64])
    weights = by_name(find_weights(load(saved(model, tmp_path)), Rules()))
    assert [weights[name].view.shape for name in ("plain", "transposed", "turned")] == [(1, 80, 48), (1, 96, 80), (1, 64, 96)]
    assert [node.op_type for node in weights["turned"].uses[0].between] == ["Transpose"]
    assert [weights[name].uses[0].kind for name in ("plain", "transposed", "turned")] == ["Gemm", "Gemm", "MatMul"]


def test_groups_that_fill_a_panel_are_batches_and_smaller_ones_are_not(tmp_path: Path) -> None:
    wide = next(weight for weight in found(STRUCTURES["wide_groups"](0), tmp_path).weights if weight.view.batch > 1)
    assert wide.view.rows >= 64
    narrow = found(STRUCTURES["narrow_groups"](0), tmp_path).weights
    assert all(weight.view.batch == 1 and weight.view.rows == weight.view.dims[0] for weight in narrow)


def test_a_tied_embedding_keeps_its_rows_and_the_other_orientation_becomes_other(tmp_path: Path) -> None:
    net = Network(0)
    table = net.weight("table", (64, 64))
    x = net.add("MatMul", [net.add("Gather", [table, "ids"]), table])
    x = net.add("MatMul", [x, net.add("Transpose", [table])])
    model = built(net, x, [tensor("ids", ["n"], TensorProto.INT64)], ["n", 64])
    (weight,) = find_weights(load(saved(model, tmp_path)), Rules()).weights
    assert weight.view.permutation == (0, 1)
    kinds = {(use.kind, len(use.between)) for use in weight.uses}
    assert kinds == {("Gather", 0), ("Other", 0), ("MatMul", 1)}


def test_sixteen_bit_weights_are_seen_through_their_cast(tmp_path: Path) -> None:
    for name, dtype in (("float16_cast", 10), ("bfloat16_cast", 16)):
        weights = [weight for weight in found(STRUCTURES[name](0), tmp_path).weights if weight.dtype == dtype]
        assert weights
        fused = [use for weight in weights for use in weight.uses if use.kind in ("MatMul", "Gemm", "Conv")]
        assert fused
        assert all(use.between and use.between[0].op_type == "Cast" for use in fused)


def test_weights_of_branches_and_bodies_are_found_with_their_inner_uses(tmp_path: Path) -> None:
    for name in ("if_branches", "loop_body", "scan_body", "nested_bodies"):
        result = found(STRUCTURES[name](0), tmp_path)
        inner = [use for weight in result.weights for use in weight.uses if use.node.graph is not weight.value.graph]
        assert inner, name
        assert {use.kind for use in inner} <= {"MatMul", "Gemm"}


def test_recurrent_matrices_are_weights_and_their_biases_are_not(tmp_path: Path) -> None:
    result = found(STRUCTURES["lstm_bidirectional"](0), tmp_path)
    matrices = [weight for weight in result.weights if weight.uses[0].node.op_type == "LSTM"]
    assert {weight.view.batch for weight in matrices} == {2}
    assert all(weight.view.rows == weight.view.dims[1] for weight in matrices)
    assert all(use.index < 3 for weight in matrices for use in weight.uses)


def test_transposed_convolutions_have_output_channels_as_rows(tmp_path: Path) -> None:
    weights = found(STRUCTURES["conv_transpose"](0), tmp_path).weights
    turned = [weight for weight in weights if weight.uses[0].node.op_type == "ConvTranspose"]
    assert turned
    assert all(w.view.rows == w.view.dims[1] and w.view.permutation[:2] == (1, 0) and w.uses[0].kind == "Other" for w in turned)


def test_what_is_left_alone_has_a_reason(tmp_path: Path) -> None:
    net = Network(0)
    x = net.add("Add", [net.add("MatMul", ["x", net.weight("w", (64, 2000))]), net.bias("bias", 2000)])
    x = net.add("MatMul", [x, net.constant("broken", np.full((2000, 16), np.nan, np.float32))])
    x = net.add("MatMul", [x, net.weight("little", (16, 5))])
    net.weight("unused", (64, 64))
    model = built(net, x, [tensor("x", ["n", 64])], ["n", 5])
    result = find_weights(load(saved(model, tmp_path)), Rules())
    assert [weight.name for weight in result.weights] == ["w"]
    assert {name: reason.split()[0] for name, reason in reasons(result).items()} == {
        "bias": "rank-1",
        "broken": "it",
        "little": "it",
        "unused": "nothing",
    }
    assert "NaN" in reasons(result)["broken"]
    assert {name: size for name, _, size in result.left_alone}["bias"] == 8000


def test_doubles_outputs_and_overridable_initializers_are_left_alone(tmp_path: Path) -> None:
    assert "double" in next(iter(reasons(found(STRUCTURES["double_weights"](0), tmp_path)).values()))
    assert "output" in reasons(found(STRUCTURES["also_an_output"](0), tmp_path))["table"]
    loaded = load(saved(STRUCTURES["overridable_initializers"](0), tmp_path))
    result = find_weights(loaded, Rules())
    assert not result.weights
    assert all("input" in reason for reason in reasons(result).values())


def test_large_integers_are_weights_that_are_not_floats(tmp_path: Path) -> None:
    for name in ("int8_per_channel", "matmul_nbits", "int4_blocks"):
        integers = [weight for weight in found(STRUCTURES[name](0), tmp_path).weights if not weight.is_float]
        assert integers, name
        assert all(use.kind == "Other" for weight in integers for use in weight.uses)


def test_empty_and_scalar_tensors_do_no_harm(tmp_path: Path) -> None:
    net = Network(0)
    net.constant("empty", np.zeros((0, 5), np.float32))
    net.constant("scalar", 1.5)
    x = net.add("MatMul", ["x", net.weight("w", (64, 64))])
    model = built(net, x, [tensor("x", ["n", 64])], ["n", 64])
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, 0), np.int8), "nothing"))
    assert [weight.name for weight in find_weights(load(saved(model, tmp_path)), Rules()).weights] == ["w"]


def test_include_and_exclude_choose_by_the_names_in_the_file(tmp_path: Path) -> None:
    loaded = load(saved(plain(0), tmp_path))
    assert [weight.name for weight in find_weights(loaded, Rules(include=("ir", "third"), exclude=("^third$",))).weights] == ["first"]
    assert unwanted(loaded, Rules(include=("first$",))) == {"first_bias", "second", "third"}


@pytest.mark.parametrize(
    ("rules", "words"), [(Rules(include=("(",)), "no regular expression"), (Rules(exclude=("nobody",)), "matches none")]
)
def test_a_bad_pattern_is_a_usage_error_that_quotes_it(tmp_path: Path, rules: Rules, words: str) -> None:
    loaded = load(saved(plain(0), tmp_path))
    for ask in (find_weights, unwanted):
        with pytest.raises(UsageError, match=words) as caught:
            ask(loaded, rules)
        assert repr((rules.include + rules.exclude)[0]) in str(caught.value)


def test_a_pattern_for_a_constant_that_simplification_folded_is_no_error(tmp_path: Path) -> None:
    model = STRUCTURES["depthwise_batchnorm"](0)
    name = model.graph.initializer[-1].name
    loaded = load(saved(model, tmp_path))
    simplify(loaded)
    find_weights(loaded, Rules(exclude=(f"^{name}$",)))
