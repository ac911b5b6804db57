"""Request refuses what is impossible; Report survives JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx_compress.optimizer.effort import BALANCED, BEST, FAST
from onnx_compress.optimizer.errors import UsageError
from onnx_compress.optimizer.report import Report, Request, WeightReport, from_json, to_json

REPORT = Report(
    source="in.onnx",
    target="out.onnx",
    bytes_before=1_000_000,
    bytes_after=99_500,
    ratio=10.05,
    graph_bytes=2_000,
    divergence=0.0021,
    divergence_kind="classes",
    inputs="8 synthetic inputs",
    predicted=0.002,
    fused_against_restored=1e-7,
    weights=(WeightReport("w", (64, 3, 3), "float32", "Conv", "Grid(...)", 2304, 230, 3.19, 0.5, 0.001),),
    left_alone=(("b", "fewer than 64 values", 256),),
    notes=("folded 3 nodes",),
    warnings=(),
    seconds={"plan": 1.5},
)


@pytest.mark.parametrize("ratio", [0.5, 0.0, -1.0, math.nan, math.inf, 1e9])
def test_an_impossible_ratio_is_refused_with_its_value_and_the_range(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"target ratio .* from 1 to 10000") as caught:
        Request(target_ratio=ratio)
    assert f"{ratio:g}" in str(caught.value)


@pytest.mark.parametrize("ratio", [1.0, 1.5, 10.0, 10_000.0])
def test_a_possible_ratio_is_taken(ratio: float) -> None:
    assert Request(target_ratio=ratio).target_ratio == ratio


def test_a_request_needs_a_goal_and_has_at_most_one_target() -> None:
    with pytest.raises(UsageError, match="how small"):
        Request().check_goal()
    for goal in (Request(target_ratio=10), Request(target_bytes=1000), Request(max_divergence=0.01)):
        goal.check_goal()
    with pytest.raises(UsageError, match="either"):
        Request(target_ratio=10, target_bytes=1000)
    with pytest.raises(UsageError, match="target size 0"):
        Request(target_bytes=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effort": "heroic"}, "'heroic' is not known: choose one of fast, balanced, best"),
        ({"prefer": "beauty"}, "'beauty' is not known: choose one of memory, balanced, speed"),
        ({"technique": "magic"}, "'magic' is not known: choose one of auto, quantize"),
        ({"include": ("conv[",)}, r"'conv\[' is no regular expression"),
        ({"exclude": ("(",)}, "no regular expression"),
        ({"input_shapes": {"x": (1, 0)}}, r"\[1, 0\] of input 'x'"),
        ({"max_divergence": math.nan}, "divergence nan"),
        ({"max_divergence": -1.0}, "divergence -1"),
        ({"threads": -1}, "threads -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_every_other_impossible_value_is_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(Request(target_ratio=10), **change)  # type: ignore[arg-type]


def test_a_report_comes_back_from_its_json_unchanged() -> None:
    assert from_json(to_json(REPORT)) == REPORT


def test_the_level_of_effort_follows_the_data_where_it_is_not_asked_for() -> None:
    assert Request().level == FAST
    assert Request(calibration=(Path("data.npz"),)).level == BALANCED
    assert Request(effort="best").level == BEST
    assert Request(effort="fast", calibration=(Path("data.npz"),)).level == FAST


def test_what_was_measured_of_each_weight_survives_json() -> None:
    measured = replace(REPORT, weights=(replace(REPORT.weights[0], measured=0.002),))
    assert from_json(to_json(measured)) == measured
    assert json.loads(to_json(REPORT))["weights"][0]["measured"] is None


def test_numbers_that_are_not_finite_become_null_and_come_back_as_nan() -> None:
    text = to_json(replace(REPORT, divergence=math.nan, predicted=math.inf))
    assert json.loads(text)["divergence"] is None
    back = from_json(text)
    assert math.isnan(back.divergence) and math.isnan(back.predicted)


def test_scalars_of_numpy_are_written_as_plain_numbers() -> None:
    text = to_json(replace(REPORT, divergence=np.float32(0.5), bytes_after=np.int64(7)))  # type: ignore[arg-type]
    assert json.loads(text)["divergence"] == 0.5
    assert json.loads(text)["bytes_after"] == 7


@pytest.mark.parametrize("text", ["", "[]", "{}", "{nonsense", to_json(REPORT).replace('"ratio"', '"reason"')])
def test_text_that_is_no_report_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="no report of onnx-compress"):
        from_json(text)
