"""Ranges prove channels dead, or do not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.channel_models import CLIP, IMAGE, LIMITS, RELU, check, two_layers, zero_rows
from tests.slimming import floats, model_of, normal


def clipped(weights: float, bias: float) -> onnx.ModelProto:
    """Two Clips to 0..6: channels 0 to 3 of the second have 8 equal weights and that bias."""
    middle = helper.make_node("Conv", ["k", "u", "d"], ["h"])
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["g"]), helper.make_node("Clip", ["g", "low", "high"], ["k"]), middle, *CLIP]
    constants = LIMITS | {"w": normal(8, 4, 1, 1), "b": normal(8), "u": zero_rows(normal(8, 8, 1, 1), range(4), weights)}
    constants |= {"d": zero_rows(normal(8), range(4), bias), "v": normal(5, 8, 3, 3)}
    return model_of([*nodes, helper.make_node("Conv", ["m", "v"], ["y"])], [floats(*IMAGE)], ["y"], constants)


@pytest.mark.parametrize(
    ("weights", "bias", "is_dead"),
    [(-1.0, -0.1, True), (-1.0, 0.1, False), (0.1, -4.9, True), (0.1, -4.7, False), (0.1, 6.1, True), (0.1, 5.9, False), (-0.1, 10.9, True), (-0.1, 10.7, False)],
)
def test_ranges_prove_a_channel_dead_at_either_end_of_a_clip(weights: float, bias: float, is_dead: bool) -> None:
    dims = check(clipped(weights, bias))
    assert dims["v"] == (5, 4 if is_dead else 8, 3, 3)
    assert ("v.bias" in dims) == (is_dead and bias > 5)


def test_a_sum_that_ends_exactly_at_the_limit_is_dead_but_one_within_rounding_of_it_is_not() -> None:
    assert check(clipped(-0.5, 0.0))["v"] == (5, 4, 3, 3)
    assert check(clipped(1.0, -48.0))["v"] == (5, 8, 3, 3)


def test_relu_bounds_from_below_only() -> None:
    for sign, left in ((-1, 4), (1, 8)):
        nodes = [
            *(helper.make_node("Conv", ["x", "w"], ["g"]), helper.make_node("Relu", ["g"], ["k"]), helper.make_node("Conv", ["k", "u", "d"], ["h"])),
            *(*RELU, helper.make_node("Conv", ["m", "v"], ["y"])),
        ]
        constants = {"w": normal(8, 4, 1, 1), "u": zero_rows(normal(8, 8, 1, 1), range(4), sign), "d": zero_rows(normal(8), range(4), -1), "v": normal(5, 8, 3, 3)}
        assert check(model_of(nodes, [floats(*IMAGE)], ["y"], constants))["v"] == (5, left, 3, 3)


def test_unbounded_inputs_prove_nothing() -> None:
    dims = check(two_layers(CLIP, extra=LIMITS, b=np.full(8, -1e6, np.float32)))
    assert dims["v"] == (5, 8, 3, 3)
