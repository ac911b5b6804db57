"""Our operators against onnxruntime's own, over awkward shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_compress.passes import writer
from onnx_compress.runtime.form import Codebook, Grid, Member, Symbols, View
from onnx_compress.runtime.reader import read_header
from operator_models import FLOATS, FORMS, Weight, assert_close, coded, dense, form_of, linear, model, node, run, standard, weight

from tests import instruction_sets

RNG = np.random.default_rng(7)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float16])


def compare(op_type: str, made: Weight, inputs: dict[str, NDArray | None], attributes: dict[str, Any] | None = None, threads: int = 1) -> NDArray:
    """Runs `op_type` on the tensor and Compressed<op_type> on the payload; the second input is the weight."""
    attributes = attributes or {}
    feeds = {name: array for name, array in inputs.items() if array is not None}
    output = FLOATS[next(iter(feeds.values())).dtype.type]
    names = [name if array is not None else "" for name, array in inputs.items()]
    names.insert(1, "w")
    ours = model([node(f"Compressed{op_type}", names, attributes)], feeds, {"w": made.payload}, output)
    plain = model([standard(op_type, names, attributes)], feeds, {"w": made.tensor}, output)
    found = run(ours, feeds, threads)
    assert_close(found, run(plain, feeds))
    return found


def normal(*shape: int, dtype: type = np.float32) -> NDArray:
    return RNG.standard_normal(shape).astype(dtype)


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
@pytest.mark.parametrize("has_bias", [False, True])
def test_bias_residual_and_relu_are_added_in_that_order(dtype: type, has_bias: bool) -> None:
    made = weight(linear(70, 12), dtype=FLOATS[dtype])
    x, bias, residual = normal(3, 12, dtype=dtype), normal(70, dtype=dtype), normal(3, 70, dtype=dtype)
    feeds = {"x": x, "residual": residual} | ({"bias": bias} if has_bias else {})
    nodes = [node("CompressedMatMul", ["x", "w", "bias" if has_bias else "", "residual"], {"activation": "Relu"})]
    found = run(model(nodes, feeds, {"w": made.payload}, FLOATS[dtype]), feeds)
    wide = [array.astype(np.float32) for array in (x, made.tensor, residual, bias)]
    expected = np.maximum(wide[0] @ wide[1] + wide[2] + (wide[3] if has_bias else 0), 0)
    assert_close(found, expected.astype(dtype))


def sigmoid(x: NDArray) -> NDArray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def hard_sigmoid(x: NDArray, alpha: float, beta: float) -> NDArray:
    return np.clip(alpha * x + beta, 0, 1)


ACTIVATIONS: list[tuple[str, list[float], Callable[[NDArray], NDArray]]] = [
    ("Relu", [], lambda x: np.maximum(x, 0)),
    ("Clip", [-0.5, 2.0], lambda x: np.clip(x, -0.5, 2)),
    ("Clip", [-np.inf, 0.5], lambda x: np.minimum(x, 0.5)),
    ("LeakyRelu", [0.1], lambda x: np.where(x < 0, 0.1 * x, x)),
    ("HardSigmoid", [0.2, 0.4], lambda x: hard_sigmoid(x, 0.2, 0.4)),
    ("Sigmoid", [], sigmoid),
    ("Tanh", [], np.tanh),
    ("MulHardSigmoid", [0.25, 0.4], lambda x: x * hard_sigmoid(x, 0.25, 0.4)),
    ("HardSwish", [], lambda x: x * hard_sigmoid(x, 1 / 6, 0.5)),
    ("MulSigmoid", [], lambda x: x * sigmoid(x)),
]


@BOTH
@pytest.mark.parametrize(("name", "parameters", "function"), ACTIVATIONS, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm", "Conv"])
@pytest.mark.parametrize("optional", [(), ("bias",), ("residual",), ("bias", "residual")])
def test_activations_follow_bias_and_residual(
    dtype: type, name: str, parameters: list[float], function: Callable[[NDArray], NDArray], op_type: str, optional: Sequence[str]
) -> None:
    dims = {"bias": (70,), "residual": (2, 70, 5) if op_type == "Conv" else (5, 70)}
    made = weight(conv_view((70, 12, 3), 1) if op_type == "Conv" else linear(70, 12), dtype=FLOATS[dtype])
    feeds = {"x": normal(2, 12, 7, dtype=dtype) if op_type == "Conv" else normal(5, 12, dtype=dtype)}
    feeds |= {what: normal(*dims[what], dtype=dtype) for what in optional}
    inputs = ["x", "w", *(what if what in optional else "" for what in dims)]
    attributes = {"activation": name} | ({"activation_parameters": parameters} if parameters else {})
    found = run(model([node(f"Compressed{op_type}", inputs, attributes)], feeds, {"w": made.payload}, FLOATS[dtype]), feeds)
    wide = {what: array.astype(np.float32) for what, array in {**feeds, "w": made.tensor}.items()}
    plain = run(model([standard(op_type, ["x", "w"])], {"x": wide["x"]}, {"w": wide["w"]}, TensorProto.FLOAT), {"x": wide["x"]})
    bias = wide.get("bias", np.zeros(70, np.float32)).reshape((70, 1) if op_type == "Conv" else (70,))
    assert_close(found, function(plain + bias + wide.get("residual", 0)).astype(dtype))


@pytest.mark.parametrize("instruction_set", instruction_sets.NAMES)
@pytest.mark.parametrize(("name", "parameters", "function"), ACTIVATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_activations_are_right_with_every_instruction_set(
    instruction_set: str, name: str, parameters: list[float], function: Callable[[NDArray], NDArray]
) -> None:
    """From far below zero to far above, in rows that are no whole vectors."""
    instruction_sets.skip_without(instruction_set)
    made = weight(View((37, 1), (0, 1), 1, 37))
    feeds = {"x": np.concatenate([np.linspace(-200, 200, 403), np.linspace(-1, 1, 403), [-1e30, 0, 1e-30, 1e30]]).astype(np.float32)[:, None]}
    attributes = {"activation": name} | ({"activation_parameters": parameters} if parameters else {})
    proto = model([node("CompressedMatMul", ["x", "w"], attributes)], feeds, {"w": made.payload}, TensorProto.FLOAT)
    found = run(proto, feeds, config={"onnx_compress.instruction_set": instruction_set})
    cancels = 1e-6 if "Hard" in name else 1e-35  # alpha x + beta near zero
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, function(feeds["x"] @ made.tensor.T).astype(np.float32), rtol=4e-7, atol=cancels)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"activation": "Gelu"}, "activation 'Gelu' is unknown, legal are Relu, Clip"),
        ({"activation": "Clip"}, "activation 'Clip' has 0 activation_parameters, needs 2"),
        ({"activation": "Relu", "activation_parameters": [1.0]}, "activation 'Relu' has 1 activation_parameters, needs 0"),
    ],
)
def test_an_unknown_activation_is_refused(attributes: dict[str, Any], sentence: str) -> None:
    made, feeds = weight(linear(70, 12)), {"x": normal(3, 12)}
    with pytest.raises(Exception, match=sentence):
        run(model([node("CompressedMatMul", ["x", "w"], attributes)], feeds, {"w": made.payload}, TensorProto.FLOAT), feeds)


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
]


def conv_view(dims: tuple[int, ...], group: int) -> View:
    batch = group if dims[0] // group >= 64 else 1
    return View(dims, tuple(range(len(dims))), batch, dims[0] // batch)


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


@pytest.mark.parametrize("group", [1, 8])
def test_conv_adds_residual_and_relu(group: int) -> None:
    made = weight(conv_view((8, 8 // group, 3, 3), group))
    feeds = {"x": normal(1, 8, 6, 6), "residual": normal(1, 8, 4, 4)}
    ours = [node("CompressedConv", ["x", "w", "", "residual"], {"activation": "Relu", "group": group})]
    plain = [
        helper.make_node("Conv", ["x", "w"], ["a"], group=group),
        helper.make_node("Add", ["a", "residual"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    expected = run(model(plain, feeds, {"w": made.tensor}, TensorProto.FLOAT), feeds)
    assert_close(run(model(ours, feeds, {"w": made.payload}, TensorProto.FLOAT), feeds), expected)


@pytest.mark.parametrize("op_type", ["MatMul", "Conv"])
def test_any_number_of_threads_gives_the_same_bits(op_type: str) -> None:
    if op_type == "MatMul":
        made, x = weight(linear(1000, 512)), normal(900, 512)
    else:
        made, x = weight(conv_view((300, 16, 3, 3), 1)), normal(1, 16, 60, 60)
    one, two = (compare(op_type, made, {"x": x}, threads=threads) for threads in (1, 2))
    assert np.array_equal(one, two)


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
    (lambda data: np.concatenate([data[:2], [9], data[3:]]).astype(np.uint8), r"draft 9; this library reads draft 3 only.*unsupported version error"),
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


def test_one_scale_may_serve_all_rows() -> None:
    view = linear(130, 20)
    levels = np.rint(normal(1, 130, 20) * 3).astype(np.int32)
    compare("MatMul", coded(Member(TensorProto.FLOAT, view, Grid(dense(np.array([0.25])), Symbols(levels)))), {"x": normal(2, 20)})
