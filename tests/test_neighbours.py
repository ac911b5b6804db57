"""Convolutions whose vectors hold neighbours: single positions, and groups of few outputs, with every instruction set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_compress.runtime.form import View
from operator_models import Weight, assert_close, conv_view, model, node, normal, run, weight

from tests import instruction_sets

SETS = pytest.mark.parametrize("instruction_set", instruction_sets.NAMES)
ENDS: tuple[tuple[str, list[float]], ...] = (("", []), ("Relu", []), ("Clip", [-0.25, 0.5]), ("Sigmoid", []))
OPTIONAL: tuple[Sequence[str], ...] = ((), ("bias",), ("residual",), ("bias", "residual"))


def activated(name: str, parameters: Sequence[float]) -> list[Any]:
    """The nodes of an activation, from a to y."""
    if name == "Clip":
        constants = [helper.make_node("Constant", [], [f"limit{i}"], value_float=value) for i, value in enumerate(parameters)]
        return [*constants, helper.make_node("Clip", ["a", "limit0", "limit1"], ["y"])]
    return [helper.make_node(name or "Identity", ["a"], ["y"])]


def check(made: Weight, x: tuple[int, ...], attributes: Mapping[str, object], end: tuple[str, list[float]], optional: Sequence[str], config: Mapping[str, str]) -> None:
    """Our convolution with what follows it, against onnxruntime's."""
    outputs = made.tensor.shape[0]
    feeds, constants = {"x": normal(*x)}, {"bias": normal(outputs)} if "bias" in optional else {}
    plain = [helper.make_node("Conv", ["x", "w", *constants], ["sum"], **attributes)]
    shape = run(model([*plain, helper.make_node("Identity", ["sum"], ["y"])], feeds, {"w": made.tensor, **constants}, TensorProto.FLOAT), feeds).shape
    if "residual" in optional:
        feeds["residual"] = normal(*shape)
    plain.append(helper.make_node("Add", ["sum", "residual"], ["a"]) if "residual" in optional else helper.make_node("Identity", ["sum"], ["a"]))
    expected = run(model([*plain, *activated(*end)], feeds, {"w": made.tensor, **constants}, TensorProto.FLOAT), feeds)
    inputs = ["x", "w", *(name if name in optional else "" for name in ("bias", "residual"))]
    named = {"activation": end[0], **({"activation_parameters": end[1]} if end[1] else {}), **attributes}
    found = run(model([node("CompressedConv", inputs, named)], feeds, {"w": made.payload, **constants}, TensorProto.FLOAT), feeds, 2, config)
    assert_close(found, expected)


@SETS
@pytest.mark.parametrize("plane", [(1, 1), (16,), (5, 25), (3, 5), (7, 7), (14, 14), (4, 4, 4), (33, 31)], ids=str)
@pytest.mark.parametrize(("outputs", "k", "group"), [(1, 1, 1), (6, 64, 1), (70, 65, 1), (130, 300, 1), (300, 40, 1), (128, 20, 2)])
def test_single_positions_equal_onnxruntimes(instruction_set: str, plane: tuple[int, ...], outputs: int, k: int, group: int) -> None:
    """Planes that are whole vectors, almost and by far not; steps of one block and several."""
    instruction_sets.skip_without(instruction_set)
    made = weight(conv_view((outputs, k, *(1 for _ in plane)), group))
    check(made, (2, k * group, *plane), {"group": group}, ("Relu", []), ("bias",), {"onnx_compress.instruction_set": instruction_set})


@SETS
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end[0] or "nothing")
@pytest.mark.parametrize("optional", OPTIONAL, ids="+".join)
@pytest.mark.parametrize("residency", ["tile", "dense"])
def test_single_positions_end_in_bias_residual_and_activation(
    instruction_set: str, end: tuple[str, list[float]], optional: Sequence[str], residency: str
) -> None:
    instruction_sets.skip_without(instruction_set)
    config = {"onnx_compress.instruction_set": instruction_set, "onnx_compress.residency": residency}
    check(weight(conv_view((70, 600, 1, 1), 1)), (1, 600, 9, 14), {}, end, optional, config)  # more steps than a tile has room for


SAME: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    # x, weight, attributes: outputs are where the inputs are
    ((2, 21, 25, 5), (21, 1, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 12, 14, 14), (12, 1, 5, 3), {"pads": [2, 1, 2, 1]}),
    ((1, 6, 9, 8), (6, 1, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ((1, 8, 7, 5), (8, 1, 2, 4), {"pads": [0, 1, 1, 2]}),
    ((2, 8, 40), (8, 1, 3), {"pads": [1, 1]}),
    ((1, 4, 5, 6, 7), (4, 1, 3, 3, 3), {"pads": [1] * 6}),
    ((2, 24, 9, 8), (36, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((1, 6, 2, 1), (6, 1, 5, 5), {"pads": [2, 2, 2, 2]}),  # most taps of every output are padding
    ((1, 3, 120, 50), (3, 1, 3, 3), {"pads": [1, 1, 1, 1]}),  # too many masks
]


@SETS
@pytest.mark.parametrize("case", SAME, ids=lambda case: f"{case[0]}-{case[1]}")
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end[0] or "nothing")
@pytest.mark.parametrize("optional", OPTIONAL, ids="+".join)
def test_groups_of_few_outputs_equal_onnxruntimes(
    instruction_set: str, case: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], end: tuple[str, list[float]], optional: Sequence[str]
) -> None:
    instruction_sets.skip_without(instruction_set)
    x, dims, attributes = case
    made = weight(View(dims, tuple(range(len(dims))), 1, dims[0]))
    check(made, x, {"group": x[1] // dims[1], **attributes}, end, optional, {"onnx_compress.instruction_set": instruction_set})


@SETS
def test_what_lies_beside_the_input_is_not_read(instruction_set: str) -> None:
    """Padding is zero even where the neighbours of a plane are NaN."""
    instruction_sets.skip_without(instruction_set)
    made = weight(View((3, 1, 3, 3), (0, 1, 2, 3), 1, 3))
    feeds = {"x": normal(1, 3, 5, 5)}
    feeds["x"][:, ::2] = np.nan
    proto = model([node("CompressedConv", ["x", "w"], {"group": 3, "pads": [1, 1, 1, 1]})], feeds, {"w": made.payload}, TensorProto.FLOAT)
    found = run(proto, feeds, config={"onnx_compress.instruction_set": instruction_set})
    assert np.isfinite(found[:, 1]).all() and np.isnan(found[:, ::2]).all()


@SETS
def test_limits_keep_nan(instruction_set: str) -> None:
    """As Relu and Clip of onnxruntime do."""
    instruction_sets.skip_without(instruction_set)
    made, x = weight(conv_view((4, 3, 1, 1), 1)), normal(1, 3, 4, 8)
    x[0, 0, 1, 2] = np.nan
    proto = model([node("CompressedConv", ["x", "w"], {"activation": "Relu"})], {"x": x}, {"w": made.payload}, TensorProto.FLOAT)
    found = run(proto, {"x": x}, config={"onnx_compress.instruction_set": instruction_set})
    assert np.isnan(found[0, :, 1, 2]).all() and np.isnan(found).sum() == 4
