"""The cost model: what is slower fused, by placement and form, and how often weights are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer.cost import times
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.weights import Rules, find_weights
from onnx_compress.optimizer.work import Work, measure
from onnx_compress.passes.mapping import LearnedMap
from onnx_compress.passes.quantize import Quantize
from onnx_compress.runtime.form import View

from models.network import Network, tensor

MATRIX = View((512, 1024), (1, 0), 1, 1024)
GRID = Quantize(0.5)


def test_decoding_is_paid_once_however_many_vectors_come() -> None:
    many, more = (times(MATRIX, (Work("matrix", count),), GRID) for count in (1000, 2000))
    assert many.fused < 1.15 * many.folded
    assert 2 * many.fused - more.fused == pytest.approx(MATRIX.size / 9000, rel=0.1)


def test_decoding_takes_longer_than_reading_from_the_cache_and_less_than_from_memory() -> None:
    small, large = (times(View((512, rows), (1, 0), 1, rows), (Work("matrix", 16.0),), GRID) for rows in (384, 2048))
    assert small.fused > small.folded
    assert large.fused < large.folded


def test_a_clip_is_a_pass_of_onnxruntime_and_channels_that_fill_no_blocks_are_slow() -> None:
    view = View((96, 96, 1, 1), (0, 1, 2, 3), 1, 96)
    plain, clipped = (times(view, (Work("pointwise", 784.0, clipped=values),), GRID) for values in (0.0, 96 * 784.0))
    assert (clipped.fused, clipped.folded - plain.folded) == (plain.fused, pytest.approx(96 * 784 / 8000))
    even, odd = (times(View((rows, 1, 3, 3), (0, 1, 2, 3), 1, rows), (Work("depthwise", 784.0),), GRID) for rows in (60, 58))
    assert odd.folded > 3 * even.folded
    assert odd.folded > odd.fused


def test_a_depthwise_filter_with_a_stride_reads_more_than_it_makes() -> None:
    view = View((96, 1, 3, 3), (0, 1, 2, 3), 1, 96)
    one, two = (times(view, (Work("depthwise", 784.0, stride),), GRID) for stride in (1, 4))
    assert two.fused > 1.5 * one.fused
    assert two.folded > 1.2 * one.folded


def test_a_depthwise_filter_is_slower_fused_and_a_large_convolution_is_not_much() -> None:
    depthwise = times(View((96, 1, 3, 3), (0, 1, 2, 3), 1, 96), (Work("depthwise", 28.0**2),), GRID)
    large = times(View((256, 256, 3, 3), (0, 1, 2, 3), 1, 256), (Work("spatial", 28.0**2),), GRID)
    assert depthwise.fused > 1.5 * depthwise.folded
    assert large.fused < 1.3 * large.folded


def test_what_is_decompressed_costs_at_every_run_and_folded_nothing() -> None:
    found = times(MATRIX, (Work("other", 1.0),), GRID)
    assert found.folded == 0 < found.fused


def test_a_lookup_of_few_rows_decodes_few() -> None:
    few, many = (times(View((30_000, 384), (0, 1), 1, 30_000), (Work("lookup", count),), GRID) for count in (16, 1e6))
    assert few.fused < many.fused / 5


def test_uses_add_up_and_forms_differ() -> None:
    work = Work("matrix", 8.0)
    one, two = times(MATRIX, (work,), GRID), times(MATRIX, (work, work), GRID)
    assert (two.fused, two.folded) == (2 * one.fused, 2 * one.folded)
    assert times(MATRIX, (work,), LearnedMap(8, 4)).fused > one.fused
    assert times(MATRIX, (work,), LearnedMap(8, 4)).folded == one.folded
    assert times(MATRIX, (), GRID).fused == 0


def model(tmp_path: Path) -> Path:
    net = Network(0)
    x = net.add("Conv", ["x", net.weight("filter", (16, 3, 3, 3))], {"strides": [2, 2], "pads": [1, 1, 1, 1]})
    x = net.add("Clip", [net.add("Conv", [x, net.weight("apart", (16, 1, 3, 3))], {"group": 16, "pads": [1, 1, 1, 1]}), net.constant("low", 0.0)])
    x = net.add("Conv", [x, net.weight("point", (32, 16, 1, 1))])
    x = net.add("ConvTranspose", [x, net.weight("back", (32, 8, 2, 2))])
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    x = net.add("MatMul", [net.add("Pad", [x, net.constant("pads", [0, 0, 0, 8], "int64")]), net.weight("matrix", (16, 24))])
    rows = net.add("Gather", [net.weight("table", (100, 24)), "tokens"])
    net.named(net.add("Add", [x, net.add("ReduceSum", [rows, net.constant("axes", [1], "int64")], {"keepdims": 0})]), "y")
    path = tmp_path / "model.onnx"
    onnx.save(net.model("g", [tensor("x", ("n", 3, 20, 12)), tensor("tokens", ("n", 5), onnx.TensorProto.INT64)], [tensor("y", ("n", 24))]), path)
    return path


@pytest.mark.parametrize("batch", [1, 4])
def test_work_is_that_of_one_sample(tmp_path: Path, batch: int) -> None:
    loaded = load(model(tmp_path))
    weights = find_weights(loaded, Rules(least=100)).weights
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((batch, 3, 20, 12)).astype(np.float32), "tokens": rng.integers(0, 100, (batch, 5))}
    assert measure(loaded, weights, [feed]) == {
        "filter": (Work("spatial", 60.0, 4),),
        "apart": (Work("depthwise", 60.0, clipped=960.0),),
        "point": (Work("pointwise", 60.0),),
        "back": (Work("other", 1.0),),
        "matrix": (Work("vector", 1.0),),
        "table": (Work("lookup", 5.0),),
    }


def test_a_batch_that_is_fixed_counts_by_sample(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("MatMul", ["x", net.weight("matrix", (16, 24))]), "y")
    onnx.save(net.model("g", [tensor("x", (4, 10, 16))], [tensor("y", (4, 10, 24))]), tmp_path / "m.onnx")
    loaded = load(tmp_path / "m.onnx")
    found = measure(loaded, find_weights(loaded, Rules()).weights, [{"x": np.zeros((4, 10, 16), np.float32)}])
    assert found == {"matrix": (Work("matrix", 10.0),)}
