"""Dead channels go, with their constants folded, and only those that are proved dead from weights and ranges; whatever is not understood stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx_compress.passes.channels import find_chains
from onnx_compress.passes.fold_shapes import InferShapes
from onnx_compress.passes.simplify import simplify

from tests.channel_models import CLIP, DEAD, FLOAT16_IMAGE, IMAGE, LIMITS, RELU, check, two_layers, zero_rows
from tests.slimming import Array, floats, loaded_copy, model_of, normal, operators, slimmed, stored

# --- what is proved


def test_zero_filters_go_with_their_constants_folded_into_the_next_bias() -> None:
    dims = check(two_layers(RELU, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=np.abs(normal(8))))
    assert (dims["w"], dims["b"], dims["v"], dims["c"]) == ((4, 4, 1, 1), (4,), (5, 4, 3, 3), (5,))


def test_a_constant_other_than_zero_stays_where_the_consumer_pads() -> None:
    dims = check(two_layers(RELU, pads=1, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=np.abs(normal(8)) + 0.1))
    assert dims["w"] == (8, 4, 1, 1)


def test_zero_goes_where_the_consumer_pads() -> None:
    dims = check(two_layers(RELU, pads=1, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=-np.abs(normal(8)) - 0.1))
    assert (dims["w"], dims["v"]) == ((4, 4, 1, 1), (5, 4, 3, 3))


@pytest.mark.parametrize(("count", "left"), [(1, 8), (3, 8), (4, 4), (5, 4), (8, 4)])
def test_as_many_stay_as_make_a_multiple_of_four_and_they_are_zero(count: int, left: int) -> None:
    model = two_layers(RELU, w=zero_rows(normal(8, 4, 1, 1), range(count)), b=np.abs(normal(8)))
    slim = stored(slimmed(model))
    check(model)
    assert slim["w"].shape == (left, 4, 1, 1)
    silent = left - (8 - count)
    assert not slim["w"][:silent].any()
    assert not slim["b"][:silent].any()
    assert not slim["v"][:, :silent].any()
    assert slim["v"][:, silent:].all()


def test_a_layer_without_multiply_of_four_channels_loses_any_number() -> None:
    model = two_layers(RELU, w=zero_rows(normal(7, 4, 1, 1), [3]), b=np.abs(normal(7)), v=normal(5, 7, 3, 3))
    assert check(model)["v"] == (5, 6, 3, 3)


def test_channels_that_nobody_reads_go_and_so_do_those_that_only_they_read() -> None:
    unread = normal(5, 8, 3, 3)
    unread[:, list(DEAD)] = 0
    assert check(two_layers(RELU, pads=1, v=unread))["w"] == (4, 4, 1, 1)
    first = normal(8, 8, 1, 1)
    first[[i for i in range(8) if i not in DEAD], :4] = 0  # the first four are read by dead ones alone
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Conv", ["a", "u"], ["b"]), helper.make_node("Conv", ["b", "v"], ["y"])]
    dims = check(model_of(nodes, [floats(*IMAGE)], ["y"], {"w": normal(8, 4, 1, 1), "u": first, "v": unread}))
    assert (dims["w"], dims["u"], dims["v"]) == ((4, 4, 1, 1), (4, 4, 1, 1), (5, 4, 3, 3))


# --- what channels run through


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("LeakyRelu", {"alpha": 0.3}),
        ("HardSwish", {}),
        ("HardSigmoid", {}),
        ("Sigmoid", {}),
        ("Tanh", {}),
        ("Abs", {}),
        ("Erf", {}),
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("AveragePool", {"kernel_shape": [2, 2]}),
    ],
)
def test_constants_pass_through_activations_and_pools(operator: str, attributes: dict[str, Any]) -> None:
    model = two_layers([helper.make_node(operator, ["h"], ["m"], **attributes)], w=zero_rows(normal(8, 4, 1, 1), DEAD))
    assert check(model)["v"] == (5, 4, 3, 3)


def test_an_average_that_counts_padding_is_no_constant() -> None:
    for included, left in ((0, 4), (1, 8)):
        pool = helper.make_node("AveragePool", ["h"], ["m"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=included)
        dims = check(two_layers([pool], w=zero_rows(normal(8, 4, 1, 1), DEAD)))
        assert dims["v"] == (5, left, 3, 3)


def test_slopes_and_constants_by_channel_shrink_too() -> None:
    nodes = [helper.make_node("PRelu", ["h", "slope"], ["p"]), helper.make_node("Mul", ["p", "scale"], ["q"]), helper.make_node("Sub", ["shift", "q"], ["m"])]
    extra: dict[str, Array] = {"slope": np.abs(normal(8, 1, 1)), "scale": normal(1, 8, 1, 1), "shift": normal(1, 8, 1, 1, seed=9)}
    dims = check(two_layers(nodes, w=zero_rows(normal(8, 4, 1, 1), DEAD), extra=extra))
    assert (dims["slope"], dims["scale"], dims["shift"]) == ((4, 1, 1), (1, 4, 1, 1), (1, 4, 1, 1))


@pytest.mark.parametrize(("pads", "bias", "left"), [(0, 1.0, 4), (1, 1.0, 8), (1, -1.0, 4)])
def test_channels_run_through_depthwise_convolutions(pads: int, bias: float, left: int) -> None:
    deep = helper.make_node("Conv", ["k", "u", "d"], ["e"], group=8, pads=[pads] * 4)
    nodes = [helper.make_node("Relu", ["h"], ["k"]), deep, helper.make_node("Relu", ["e"], ["m"])]
    extra: dict[str, Array] = {"u": np.abs(normal(8, 1, 3, 3)), "d": normal(8)}
    model = two_layers(nodes, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=zero_rows(normal(8), DEAD, bias), extra=extra)
    dims = check(model)
    assert (dims["u"], dims["d"], dims["v"]) == ((left, 1, 3, 3), (left,), (5, left, 3, 3))
    slim = slimmed(model)
    assert [a.i for n in slim.graph.node for a in n.attribute if a.name == "group"] == [left]


def test_a_zero_depthwise_filter_makes_a_constant() -> None:
    deep = helper.make_node("Conv", ["h", "u", "d"], ["m"], group=8, pads=[1, 1, 1, 1])
    dims = check(two_layers([deep], extra={"u": zero_rows(normal(8, 1, 3, 3), DEAD), "d": normal(8)}))
    assert (dims["w"], dims["u"], dims["v"]) == ((4, 4, 1, 1), (4, 1, 3, 3), (5, 4, 3, 3))


def residual(left: Sequence[int], right: Sequence[int]) -> onnx.ModelProto:
    """Relu(Conv(x)) + Conv(Relu(Conv(x))): rows that are zero in the first and in the last layer."""
    nodes = [
        *(helper.make_node("Conv", ["x", "w", "b"], ["h"]), helper.make_node("Relu", ["h"], ["k"]), helper.make_node("Conv", ["k", "u"], ["e"])),
        *(helper.make_node("Add", ["k", "e"], ["s"]), helper.make_node("Conv", ["s", "v"], ["y"])),
    ]
    constants = {"w": zero_rows(normal(8, 4, 1, 1), left), "b": -np.abs(normal(8)), "u": zero_rows(normal(8, 8, 1, 1), right), "v": normal(5, 8, 3, 3)}
    return model_of(nodes, [floats(*IMAGE)], ["y"], constants)


def test_a_residual_channel_goes_when_all_its_members_agree() -> None:
    dims = check(residual(DEAD, DEAD))
    assert (dims["w"], dims["u"], dims["v"]) == ((4, 4, 1, 1), (4, 4, 1, 1), (5, 4, 3, 3))
    assert check(residual(DEAD, [3, 4]))["u"] == (8, 8, 1, 1)
    assert check(residual([], DEAD))["v"] == (5, 8, 3, 3)


def test_pooled_and_flattened_channels_take_all_their_columns_along() -> None:
    constants = {"w": zero_rows(normal(8, 4, 1, 1), DEAD), "b": normal(8), "v": normal(8 * 9, 5), "c": normal(5)}
    pool = helper.make_node("MaxPool", ["h"], ["p"], kernel_shape=[3, 3], strides=[2, 2])
    for last in ([helper.make_node("Gemm", ["f", "v", "c"], ["y"])], [helper.make_node("MatMul", ["f", "v"], ["m"]), helper.make_node("Add", ["c", "m"], ["y"])]):
        for flatten in (helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Reshape", ["p", "to"], ["f"])):
            nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"]), pool, flatten, *last]
            dims = check(model_of(nodes, [floats("n", *IMAGE[1:])], ["y"], constants | {"to": np.array([0, -1])}))
            assert (dims["w"], dims["v"]) == ((4, 4, 1, 1), (36, 5))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_channels_pass_through_means(keepdims: int) -> None:
    mean = helper.make_node("ReduceMean", ["h"], ["m"], axes=[2, 3], keepdims=keepdims)
    last = helper.make_node("Conv", ["m", "v"], ["y"]) if keepdims else helper.make_node("Gemm", ["m", "v"], ["y"], transB=1, alpha=0.5)
    constants = {"w": zero_rows(normal(8, 4, 1, 1), DEAD), "b": normal(8), "v": normal(5, 8, *([1, 1] if keepdims else []))}
    dims = check(model_of([helper.make_node("Conv", ["x", "w", "b"], ["h"]), mean, last], [floats(*IMAGE)], ["y"], constants))
    assert dims["v"][:2] == (5, 4)
    assert dims["v.bias"] == (5,)


@pytest.mark.parametrize("biased", [True, False])
def test_channels_of_matrices_go_one_by_one_and_a_bias_is_made_where_there_is_none(biased: bool) -> None:
    second = [helper.make_node("MatMul", ["k", "v"], ["m" if biased else "y"])] + [helper.make_node("Add", ["m", "c"], ["y"])] * biased
    first = [helper.make_node("MatMul", ["x", "w"], ["g"]), helper.make_node("Add", ["b", "g"], ["h"]), helper.make_node("Relu", ["h"], ["k"])]
    weight = normal(6, 16)
    weight[:, [0, 7, 9]] = 0
    constants = {"w": weight, "b": np.abs(normal(16)), "v": normal(16, 5)} | ({"c": normal(5)} if biased else {})
    model = model_of([*first, *second], [floats("n", 3, 6)], ["y"], constants)
    dims = check(model, dims=(2, 3, 6))
    assert (dims["w"], dims["b"], dims["v"]) == ((6, 13), (13,), (13, 5))
    assert operators(slimmed(model)) == ["MatMul", "Add", "Relu", "MatMul", "Add"]


def test_transposed_convolutions_lose_zeros_only() -> None:
    for bias, left in ((1.0, 8), (-1.0, 4)):
        last = helper.make_node("ConvTranspose", ["m", "v"], ["y"])
        nodes = [helper.make_node("ConvTranspose", ["x", "w", "b"], ["h"]), *RELU, last]
        weight = normal(4, 8, 2, 2)
        weight[:, list(DEAD)] = 0
        dims = check(model_of(nodes, [floats(*IMAGE)], ["y"], {"w": weight, "b": np.full(8, bias, np.float32), "v": normal(8, 5, 3, 3)}))
        assert (dims["w"], dims["v"]) == ((4, left, 2, 2), (left, 5, 3, 3))


# --- what stays


@pytest.mark.parametrize("name", ["w", "b", "v", "c"])
def test_excluded_constants_keep_their_bytes(name: str) -> None:
    model = two_layers(RELU, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=np.abs(normal(8)))
    assert check(model, [name])["w"] == (8, 4, 1, 1)
    assert np.array_equal(stored(slimmed(model, [name]))[name], stored(model)[name])


@pytest.mark.parametrize(
    "reading",
    [
        helper.make_node("Shape", ["m"], ["z"]),
        helper.make_node("Identity", ["m"], ["z"]),
        helper.make_node("Reshape", ["m", "to"], ["z"]),
        helper.make_node("Softmax", ["m"], ["z"], axis=1),
        helper.make_node("Conv", ["m", "grouped"], ["z"], group=2),
        helper.make_node("ReduceMean", ["m"], ["z"], axes=[1]),
        helper.make_node("MatMul", ["m", "square"], ["z"]),
        helper.make_node("Split", ["m"], ["z", "z2"], axis=1),
        helper.make_node("Conv", ["m", "v"], ["z"]),  # a weight that two layers share
    ],
    ids=lambda node: str(node.op_type),
)
def test_a_chain_with_anything_unknown_stays(reading: onnx.NodeProto) -> None:
    extra: dict[str, Array] = {"to": np.array([2, 2, -1]), "grouped": normal(4, 4, 1, 1), "square": normal(7, 7)}
    used = {name: extra[name] for name in reading.input if name in extra}
    model = two_layers(RELU, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=np.abs(normal(8)), extra=used)
    model.graph.node.insert(2, reading)
    model.graph.output.append(onnx.ValueInfoProto(name="z"))
    assert check(onnx.shape_inference.infer_shapes(model))["w"] == (8, 4, 1, 1)


def test_channels_of_inputs_and_outputs_never_change() -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], [floats(*IMAGE)], ["y"], {"w": zero_rows(normal(8, 4, 1, 1), DEAD)})
    assert check(model)["w"] == (8, 4, 1, 1)
    unread = normal(8, 4, 1, 1)
    unread[:, 0] = 0
    assert check(model_of([helper.make_node("Conv", ["x", "w"], ["y"])], [floats(*IMAGE)], ["y"], {"w": unread}))["w"] == (8, 4, 1, 1)


def test_weights_in_16_bits_behind_casts_shrink_and_the_new_bias_is_not_rounded() -> None:
    names = ("w", "b", "v", "c")
    model = two_layers(RELU, w=zero_rows(normal(8, 4, 1, 1), DEAD), b=np.abs(normal(8)))
    for tensor in model.graph.initializer:
        half = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        tensor.CopyFrom(half)
    for node in model.graph.node:
        node.input[:] = [f"{name}32" if name in names else name for name in node.input]
    for name in names:
        model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}32"], to=TensorProto.FLOAT))
    dims = check(model)
    assert (dims["w"], dims["v"]) == ((4, 4, 1, 1), (5, 4, 3, 3))
    assert {a.dtype.name for n, a in stored(slimmed(model)).items() if n.startswith("c")} == {"float32"}


def test_float16_activations_round_more_and_prove_less() -> None:
    constants = {n: a.astype(np.float16) for n, a in {"w": normal(8, 4, 1, 1), "u": zero_rows(normal(8, 8, 1, 1), range(4), 0.1), "v": normal(5, 8, 3, 3)}.items()}
    limits = {n: a.astype(np.float16) for n, a in LIMITS.items()}
    for bias, left in ((-4.81, 8), (-5.0, 4)):
        nodes = [
            *(helper.make_node("Conv", ["x", "w"], ["g"]), helper.make_node("Clip", ["g", "low", "high"], ["k"])),
            *(helper.make_node("Conv", ["k", "u", "d"], ["h"]), *CLIP, helper.make_node("Conv", ["m", "v"], ["y"])),
        ]
        shift = zero_rows(normal(8), range(4), bias).astype(np.float16)
        model = model_of(nodes, [FLOAT16_IMAGE], ["y"], {**constants, **limits, "d": shift})
        assert stored(slimmed(model))["v"].shape == (5, left, 3, 3)


def test_the_report_says_how_many_went() -> None:
    loaded = loaded_copy(two_layers(RELU, w=zero_rows(normal(8, 4, 1, 1), range(5)), b=np.abs(normal(8))))
    assert "4 dead channels were removed from 2 weights (800 bytes), 1 more are all zero: onnxruntime is faster with multiples of 4" in simplify(loaded)


def test_chains_end_where_layers_read_them() -> None:
    loaded = ir.from_proto(two_layers(RELU))
    InferShapes()(loaded)
    (chain,) = find_chains(loaded).chains
    assert (chain.channels, len(chain.slots), [reader.node.name for reader in chain.readers]) == (8, 2, [loaded.graph[-1].name])
    columns = chain.readers[0].columns()
    assert columns.shape == (5, 8, 9)
    assert np.array_equal(chain.readers[0].uncolumns(columns), stored(two_layers(RELU))["v"])
