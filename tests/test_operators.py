"""Our operators against onnxruntime's own, over awkward shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_compress.runtime.form import Grid, Member, Symbols, View
from onnx_compress.runtime.header import read_header
from operator_models import (
    BOTH,
    FLOATS,
    FORMS,
    assert_close,
    coded,
    compare,
    conv_view,
    dense,
    linear,
    model,
    node,
    normal,
    run,
    weight,
)


@pytest.mark.parametrize("form", FORMS)
@BOTH
@pytest.mark.parametrize(("shape", "k", "rows"), [((1, 7), 7, 1), ((5, 300), 300, 65), ((2, 3, 33), 33, 320), ((7, 1), 1, 64), ((0, 9), 9, 70)])
def test_matmul_equals_onnxruntimes(form: str, dtype: type, shape: tuple[int, ...], k: int, rows: int) -> None:
    compare("MatMul", weight(linear(rows, k), form, FLOATS[dtype]), {"x": normal(*shape, dtype=dtype)})


def test_matmul_takes_a_vector() -> None:
    compare("MatMul", weight(linear(70, 12)), {"x": normal(12)})


@pytest.mark.parametrize(("x", "dims"), [((3, 4, 8), (3, 8, 70)), ((4, 8), (3, 8, 9)), ((2, 1, 4, 8), (3, 8, 65)), ((1, 3, 2, 8), (2, 1, 8, 64)), ((5, 8), (1, 8, 6))])
def test_batches_broadcast_as_in_matmul(x: tuple[int, ...], dims: tuple[int, ...]) -> None:
    rank = len(dims)
    view = View(dims, (*range(rank - 2), rank - 1, rank - 2), int(np.prod(dims[:-2])), dims[-1])
    compare("MatMul", weight(view), {"x": normal(*x)})


def test_a_payload_of_rows_serves_as_a_transposed_weight() -> None:
    made = weight(View((70, 12), (0, 1), 1, 70))
    x = normal(4, 12)
    found = run(model([node("CompressedMatMul", ["x", "w"])], {"x": x}, {"w": made.payload}, TensorProto.FLOAT), {"x": x})
    assert_close(found, x @ made.tensor.T)


@BOTH
@pytest.mark.parametrize("c", [None, (), (1,), (66,), (1, 66), (5, 1), (5, 66)])
def test_gemm_equals_onnxruntimes(dtype: type, c: tuple[int, ...] | None) -> None:
    addend = None if c is None else normal(*c, dtype=dtype) if c else np.array(0.5, dtype)
    compare("Gemm", weight(linear(66, 40), dtype=FLOATS[dtype]), {"x": normal(5, 40, dtype=dtype)} | ({} if addend is None else {"c": addend}))


@pytest.mark.parametrize("trans_a", [0, 1])
def test_gemm_scales_and_transposes(trans_a: int) -> None:
    x = normal(40, 5) if trans_a else normal(5, 40)
    compare("Gemm", weight(linear(300, 40)), {"x": x, "c": normal(300)}, {"alpha": 0.5, "beta": 2.0, "transA": trans_a})


CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    # x, weight, attributes
    ((2, 3, 37), (5, 3, 3), {}),
    ((1, 4, 37), (70, 4, 5), {"strides": [3], "pads": [2, 1], "dilations": [2]}),
    ((2, 3, 9, 14), (65, 3, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ((1, 70, 9, 14), (130, 70, 1, 1), {}),
    ((1, 70, 9, 15), (130, 70, 1, 1), {"strides": [2, 2]}),
    ((1, 6, 9, 14), (64, 6, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    ((1, 6, 10, 13), (64, 6, 2, 4), {"auto_pad": "SAME_LOWER"}),
    ((1, 6, 9, 14), (64, 6, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((2, 8, 5, 6, 7), (12, 8, 2, 3, 2), {"pads": [1, 1, 0, 0, 1, 1], "strides": [1, 2, 1]}),
    ((2, 33, 9, 14), (33, 1, 3, 3), {"group": 33, "pads": [1, 1, 1, 1]}),
    ((1, 70, 16, 9), (70, 1, 3, 3), {"group": 70, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 70, 16, 9), (70, 1, 5, 3), {"group": 70, "pads": [4, 2, 4, 2], "dilations": [2, 2]}),
    ((1, 8, 17, 11), (16, 1, 3, 3), {"group": 8, "pads": [2, 0, 0, 2], "dilations": [1, 3], "strides": [3, 2]}),
    ((2, 8, 40), (8, 1, 3), {"group": 8, "auto_pad": "SAME_UPPER", "strides": [2]}),
    ((1, 4, 5, 6, 7), (8, 1, 2, 2, 3), {"group": 4, "strides": [2, 1, 2]}),
    ((2, 24, 9, 8), (36, 4, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    ((2, 8, 9, 8), (128, 4, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((1, 300, 4, 4), (10, 300, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 21, 25, 5), (21, 1, 3, 3), {"group": 21, "pads": [1, 1, 1, 1]}),  # rows shorter than a vector
    ((1, 21, 7, 3), (21, 1, 2, 3), {"group": 21, "pads": [0, 2, 3, 1]}),
    ((1, 6, 4, 5, 3), (6, 1, 3, 2, 3), {"group": 6, "pads": [1, 0, 1, 1, 1, 1]}),
    ((1, 8, 9, 4), (16, 2, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ((1, 8, 9, 4), (8, 1, 2, 1), {"group": 8}),
    # rows of outputs that fill vectors
    ((2, 3, 13, 32), (20, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 3, 9, 48), (20, 3, 3, 4), {"pads": [0, 1, 1, 2], "strides": [1, 3], "dilations": [2, 1]}),
    ((1, 3, 6, 18), (20, 3, 3, 3), {}),  # where they are
    ((2, 8, 9, 16), (128, 4, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((1, 2, 4, 5, 16), (8, 2, 3, 3, 3), {"pads": [1, 1, 1, 1, 1, 1]}),
    ((2, 30, 5, 16), (20, 30, 3, 3), {"pads": [1, 1, 1, 1]}),  # several tiles
    ((2, 100, 7, 7), (130, 100, 1, 1), {}),
    ((2, 100, 7, 9), (20, 100, 1, 1), {}),
    # even and odd rows and columns apart
    ((2, 5, 7, 9), (5, 1, 3, 3), {"group": 5, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((1, 5, 14, 14), (10, 1, 3, 3), {"group": 5, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 5, 8, 6), (5, 1, 2, 2), {"group": 5, "strides": [2, 2]}),
    ((1, 6, 11, 70), (6, 2, 5, 3), {"group": 3, "pads": [4, 2, 4, 2], "strides": [2, 2], "dilations": [2, 2]}),
    ((1, 3, 1, 33), (3, 1, 1, 5), {"group": 3, "pads": [0, 2, 0, 2], "strides": [2, 2]}),
]


@BOTH
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_conv_equals_onnxruntimes(dtype: type, case: tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]) -> None:
    x, dims, attributes = case
    made = weight(conv_view(dims, attributes.get("group", 1)), dtype=FLOATS[dtype])
    compare("Conv", made, {"x": normal(*x, dtype=dtype), "bias": normal(dims[0], dtype=dtype)}, attributes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("group", [1, 20])
def test_conv_takes_every_form(form: str, group: int) -> None:
    compare("Conv", weight(conv_view((80, 20 // group, 3, 3), group), form), {"x": normal(1, 20, 8, 8)}, {"group": group})


@pytest.mark.parametrize(("outputs", "channels", "size", "group"), [(8, 8, 6, 1), (8, 8, 6, 8), (70, 20, 9, 1), (8, 3, 18, 1)])
def test_conv_adds_residual_and_relu(outputs: int, channels: int, size: int, group: int) -> None:
    made = weight(conv_view((outputs, channels // group, 3, 3), group))
    feeds = {"x": normal(1, channels, size, size), "residual": normal(1, outputs, size - 2, size - 2)}
    ours = [node("CompressedConv", ["x", "w", "", "residual"], {"activation": "Relu", "group": group})]
    plain = [
        helper.make_node("Conv", ["x", "w"], ["a"], group=group),
        helper.make_node("Add", ["a", "residual"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    expected = run(model(plain, feeds, {"w": made.tensor}, TensorProto.FLOAT), feeds)
    assert_close(run(model(ours, feeds, {"w": made.payload}, TensorProto.FLOAT), feeds), expected)


SHARED: tuple[tuple[str, View, tuple[int, ...], dict[str, Any]], ...] = (
    ("MatMul", linear(1000, 512), (900, 512), {}),
    ("MatMul", linear(128, 384), (333, 384), {}),  # one piece, several tiles
    ("MatMul", linear(500, 2048), (16, 2048), {}),
    ("Conv", conv_view((300, 16, 3, 3), 1), (1, 16, 60, 60), {}),
    ("Conv", conv_view((64, 64, 3, 3), 1), (1, 64, 30, 30), {}),  # all steps in one tile
    ("Conv", conv_view((64, 200, 3, 3), 1), (2, 200, 20, 20), {}),  # sums go from tile to tile
    ("Conv", conv_view((40, 16, 3, 3), 1), (1, 16, 66, 66), {}),  # rows of outputs
    ("Conv", conv_view((384, 384, 1, 1), 1), (1, 384, 14, 14), {}),
    ("Conv", conv_view((500, 1, 3, 3), 500), (2, 500, 40, 40), {"group": 500}),
    ("Conv", conv_view((500, 1, 3, 3), 500), (2, 500, 40, 40), {"group": 500, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
)
"""Operator, view of its weight, shape of x, attributes: all large enough to be shared between threads."""


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("residency", ["tile", "dense"])
def test_any_number_of_threads_gives_the_same_bits(case: tuple[str, View, tuple[int, ...], dict[str, Any]], residency: str) -> None:
    op_type, view, shape, attributes = case
    made, feeds = weight(view), {"x": normal(*shape)}
    expected = compare(op_type, made, dict(feeds), attributes)
    ours = model([node(f"Compressed{op_type}", ["x", "w"], attributes)], feeds, {"w": made.payload}, TensorProto.FLOAT)
    for threads in (1, 2, 3, 8):
        assert np.array_equal(run(ours, feeds, threads, {"onnx_compress.residency": residency}), expected)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_damaged_stream_of_a_shared_weight_is_refused_with_its_first_chunk(threads: int) -> None:
    made, feeds = weight(linear(1000, 512)), {"x": normal(300, 512)}
    damaged = made.payload.copy()
    for chunk in read_header(made.payload).chunks[1:3]:
        damaged[chunk.offset + 40] ^= 0x55
    ours = model([node("CompressedMatMul", ["x", "w"])], feeds, {"w": damaged}, TensorProto.FLOAT)
    with pytest.raises(Exception, match="chunk 1"):
        run(ours, feeds, threads)


def test_one_scale_may_serve_all_rows() -> None:
    view = linear(130, 20)
    levels = np.rint(normal(1, 130, 20) * 3).astype(np.int32)
    compare("MatMul", coded(Member(TensorProto.FLOAT, view, Grid(dense(np.array([0.25])), Symbols(levels)))), {"x": normal(2, 20)})
