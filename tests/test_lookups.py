"""CompressedGather, Decompress, and the members of pools."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_compress.passes import writer
from onnx_compress.runtime.form import Codebook, Member, Symbols, View
from operator_models import (
    FORMS,
    RNG,
    assert_close,
    coded,
    dense,
    form_of,
    linear,
    model,
    node,
    normal,
    run,
    standard,
    weight,
)


def gather_feeds(index: type) -> dict[str, NDArray]:
    return {"i": np.array([[0, -1, 64], [299, -300, 64]], index)}


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("dims", [(300, 7), (300,), (300, 3, 2)])
@pytest.mark.parametrize("gathered", [False, True])
def test_gather_equals_numpys(index: type, dims: tuple[int, ...], gathered: bool) -> None:
    view = View(dims, tuple(range(len(dims))), 1, 300)
    member = Member(TensorProto.FLOAT, view, form_of("grid", view.shape, RNG))
    payload, tensor = np.frombuffer(writer.write(member, gathered), np.uint8), coded(member).tensor
    feeds = gather_feeds(index)
    found = run(model([node("CompressedGather", ["w", "i"])], feeds, {"w": payload}, TensorProto.FLOAT), feeds, threads=2)
    assert np.array_equal(found, tensor[feeds["i"]])


def test_gather_takes_no_index_at_all() -> None:
    made = weight(View((300, 7), (0, 1), 1, 300))
    feeds = {"i": np.zeros((0, 2), np.int64)}
    assert run(model([node("CompressedGather", ["w", "i"])], feeds, {"w": made.payload}, TensorProto.FLOAT), feeds).shape == (0, 2, 7)


@pytest.mark.parametrize("index", [300, -301])
def test_gather_refuses_an_index_outside(index: int) -> None:
    made = weight(View((300, 7), (0, 1), 1, 300))
    feeds = {"i": np.array([index], np.int64)}
    with pytest.raises(Exception, match=rf"compressedgather.*index {index} at 0 is outside -300..299"):
        run(model([node("CompressedGather", ["w", "i"])], feeds, {"w": made.payload}, TensorProto.FLOAT), feeds)


INTEGERS = {np.int8: (-128, 127), np.uint8: (0, 255), np.int16: (-500, 500), np.uint16: (0, 999)}


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("gather", [False, True])
def test_integers_keep_their_type(dtype: type, gather: bool) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    levels = RNG.integers(*INTEGERS[dtype], (1, 300, 11)).astype(np.int32)
    made = coded(Member(element, View((300, 11), (0, 1), 1, 300), Symbols(levels)))
    feeds = gather_feeds(np.int64) if gather else {}
    nodes = [node("CompressedGather", ["w", "i", "like"]) if gather else node("Decompress", ["w", "like"])]
    found = run(model(nodes, feeds, {"w": made.payload, "like": np.zeros(1, dtype)}, element), feeds)
    assert found.dtype == dtype
    assert np.array_equal(found, made.tensor[feeds["i"]] if gather else made.tensor)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("view", [View((5, 70, 3), (1, 0, 2), 1, 70), View((6, 4, 5), (2, 0, 1), 5, 2), View((9,), (0,), 1, 1), View((), (), 1, 1)])
def test_decompress_restores_shape_and_type(dtype: int, view: View) -> None:
    made = weight(view, dtype=dtype)
    like = helper.make_tensor("like", dtype, [1], bytes(4 if dtype == TensorProto.FLOAT else 2), raw=True)
    proto = model([node("Decompress", ["w", "like"], output="z"), standard("Cast", ["z"], {"to": TensorProto.FLOAT})], {}, {"w": made.payload}, TensorProto.FLOAT)
    proto.graph.initializer.append(like)
    expected = (made.tensor.astype(np.uint32) << 16).view(np.float32) if dtype == TensorProto.BFLOAT16 else made.tensor.astype(np.float32)
    assert np.array_equal(run(proto, {}), expected)


def test_a_16_bit_weight_becomes_float_where_nothing_else_is_said() -> None:
    made = weight(linear(70, 9), dtype=TensorProto.FLOAT16)
    assert np.array_equal(run(model([node("Decompress", ["w"])], {}, {"w": made.payload}, TensorProto.FLOAT), {}), made.tensor.astype(np.float32))


def test_members_of_a_pool_are_chosen_by_number() -> None:
    shapes = [(5, 9), (70, 30), (1, 1)]
    views = [linear(rows, k) for rows, k in shapes]
    forms = [form_of("grid", view.shape, RNG) for view in views]
    forms[1] = Codebook(dense(RNG.standard_normal(16)), Symbols(RNG.integers(0, 16, views[1].shape).astype(np.int32)))
    members = [Member(TensorProto.FLOAT, view, form) for view, form in zip(views, forms, strict=True)]
    pool = np.frombuffer(writer.write_pool(members), np.uint8)
    for number, (member, (_, k)) in enumerate(zip(members, shapes, strict=True)):
        feeds = {"x": normal(3, k)}
        found = run(model([node("CompressedMatMul", ["x", "w"], {"member": number})], feeds, {"w": pool}, TensorProto.FLOAT), feeds)
        assert_close(found, feeds["x"] @ coded(member).tensor)


def test_members_of_any_form_come_from_a_pool() -> None:
    names = [name for name in FORMS if name != "sparse"]
    views = [linear(70 + number, 30 - number) for number in range(len(names))]
    members = [Member(TensorProto.FLOAT, view, form_of(name, view.shape, RNG)) for name, view in zip(names, views, strict=True)]
    pool = np.frombuffer(writer.write_pool(members), np.uint8)
    for number, member in enumerate(members):
        feeds = {"x": normal(3, member.view.k)}
        found = run(model([node("CompressedMatMul", ["x", "w"], {"member": number})], feeds, {"w": pool}, TensorProto.FLOAT), feeds)
        assert_close(found, feeds["x"] @ coded(member).tensor)


@pytest.mark.parametrize("to", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_to_rounds_the_weight_before_use(to: int) -> None:
    made = weight(linear(70, 64))
    feeds = {"x": np.eye(64, dtype=np.float32)}
    found = run(model([node("CompressedMatMul", ["x", "w"], {"to": to})], feeds, {"w": made.payload}, TensorProto.FLOAT), feeds)
    bits = np.ascontiguousarray(made.tensor).view(np.uint32)
    bfloat = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    assert np.array_equal(found, made.tensor.astype(np.float16).astype(np.float32) if to == TensorProto.FLOAT16 else bfloat)
