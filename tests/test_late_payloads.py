"""Payloads that operators meet at the run, in bodies or as inputs, and what is refused there or before."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_compress.runtime.reader import read_header
from operator_models import (
    assert_close,
    linear,
    model,
    node,
    normal,
    run,
    weight,
)


def branch(name: str, sign: str) -> onnx.GraphProto:
    nodes = [node("CompressedMatMul", ["x", "w"], output=f"{name}0"), helper.make_node(sign, [f"{name}0"], [name])]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])


@pytest.mark.parametrize("condition", [False, True])
def test_a_branch_reads_the_payload_of_the_outer_graph(condition: bool) -> None:
    made = weight(linear(70, 12))
    feeds = {"x": normal(3, 12), "c": np.array(condition)}
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "Identity"), else_branch=branch("b", "Neg"))
    found = run(model([choice], feeds, {"w": made.payload}, TensorProto.FLOAT), feeds)
    assert_close(found, feeds["x"] @ made.tensor * (1 if condition else -1))


def test_a_loop_reads_the_payload_of_the_outer_graph() -> None:
    made = weight(linear(12, 12))
    state = helper.make_tensor_value_info("s", TensorProto.FLOAT, None)
    after = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    inputs = [helper.make_tensor_value_info("n", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []), state]
    on = helper.make_tensor_value_info("on", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"]), node("CompressedMatMul", ["s", "w"], output="t")], "body", inputs, [on, after])
    feeds = {"x": normal(2, 12) / 10}
    constants = {"w": made.payload, "many": np.array(3, np.int64), "yes": np.array(True)}
    found = run(model([helper.make_node("Loop", ["many", "yes", "x"], ["y"], body=body)], feeds, constants, TensorProto.FLOAT), feeds)
    assert_close(found, feeds["x"] @ made.tensor @ made.tensor @ made.tensor)


def as_input(payload: NDArray[np.uint8], x: NDArray) -> NDArray:
    """CompressedMatMul with a payload that arrives at the run."""
    feeds = {"x": x, "w": payload}
    return run(model([node("CompressedMatMul", ["x", "w"])], feeds, {}, TensorProto.FLOAT), feeds)


def test_a_payload_may_arrive_at_the_run() -> None:
    made, x = weight(linear(70, 40)), normal(3, 40)
    assert_close(as_input(made.payload, x), x @ made.tensor)


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data[: len(data) // 2], "truncated error"),
    (lambda data: data[:0], "truncated error"),
    (lambda data: np.concatenate([data[:2], [9], data[3:]]).astype(np.uint8), r"draft 9; this library reads draft 4 only.*unsupported version error"),
    (lambda data: np.concatenate([[7], data[1:]]).astype(np.uint8), "magic.*format error"),
])  # fmt: skip
def test_bad_bytes_at_the_run_are_an_error_that_names_the_node(change: Any, message: str) -> None:
    with pytest.raises(Exception, match=rf"onnx-compress: node 'compressedmatmul' \(CompressedMatMul\): .*{message}"):
        as_input(change(weight(linear(70, 40)).payload), normal(3, 40))


def test_a_flipped_bit_never_crashes_and_every_one_is_found_by_the_checksums() -> None:
    made, x = weight(linear(130, 90)), normal(2, 90)
    first, found_by_stream = read_header(made.payload).header_bytes, 0
    for at in range(first, len(made.payload), 97):
        changed = made.payload.copy()
        changed[at] ^= 1 << at % 8
        feeds = {"x": x}
        proto = model([node("CompressedMatMul", ["x", "w"])], feeds, {"w": changed}, TensorProto.FLOAT)
        with pytest.raises(Exception, match=r"checksum of chunk \d+ does not match.*corruption error"):
            run(proto, feeds, config={"onnx_compress.verify_checksums": "1"})
        try:  # a raw bit is a legal bit; one of the rANS stream leads to another end
            run(proto, feeds)
        except Exception as error:
            assert "corruption error" in str(error)  # noqa: PT017
            found_by_stream += 1
    assert found_by_stream > 10


@pytest.mark.parametrize(("nodes", "message"), [
    (node("CompressedMatMul", ["x", "w"], {"member": 3}), "member 3 of a payload that has 1"),
    (node("CompressedMatMul", ["x", "w"], {"activation": "Gelu"}), "activation 'Gelu' is unknown"),
    (node("CompressedMatMul", ["x", "w"], {"to": 7}), "attribute to is 7"),
    (node("CompressedMatMul", ["x", "w", "x"]), r"bias has shape \[3, 40\], expected \[70\]"),
    (node("CompressedConv", ["x", "w"]), "permuted axes"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_sentence(nodes: onnx.NodeProto, message: str) -> None:
    feeds = {"x": normal(3, 40)}
    with pytest.raises(Exception, match=f"onnx-compress: node .*{message}"):
        run(model([nodes], feeds, {"w": weight(linear(70, 40)).payload}, TensorProto.FLOAT), feeds)


def test_a_float_weight_never_becomes_integers() -> None:
    constants = {"w": weight(linear(70, 40)).payload, "like": np.zeros(1, np.int8)}
    with pytest.raises(Exception, match="a weight of dtype 1 cannot become an output of type 3"):
        run(model([node("Decompress", ["w", "like"])], {}, constants, TensorProto.INT8), {})
