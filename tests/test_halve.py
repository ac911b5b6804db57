"""Halving of small floats: what moves, what stays, and that onnxruntime computes nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes.halve import float16_fits, halve

OPSETS = (7, 12, 13, 18)
TOLERANCE = 2.0**-10
RANDOM = np.random.default_rng(0)
TENSORS: dict[str, NDArray] = {
    "shift": RANDOM.normal(0, 1, 16).astype(np.float32),
    "factor": RANDOM.normal(0, 3, 16).astype(np.float32),
    "matrix": RANDOM.normal(0, 1, (16, 16)).astype(np.float32),
    "stored_in_16": RANDOM.normal(0, 1, 16).astype(np.float16),
    "too_large": (RANDOM.normal(0, 1, 16) * 1e6).astype(np.float32),
    "too_fine": np.full(16, 1e-7, np.float32),
    "few": np.ones(1, np.float32),
    "excluded": RANDOM.normal(0, 1, 16).astype(np.float32),
    "divisor": np.array([1.0] * 15 + [1e-8], np.float32),
}
SHAPES = {"y": [2, 16], "branched": [2, 16]}
CASTS = ("widened", "widened_again")
KEPT = ("few", "excluded", "too_large", "too_fine", "divisor")


def model(
    opset: int, tensors: dict[str, NDArray], extra: tuple[onnx.NodeProto, ...] = (), outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    """x [2, 16] through every tensor, in order: matrix first, then Add, Mul or Div."""
    nodes = [helper.make_node("Cast", ["stored_in_16"], [name], to=TensorProto.FLOAT) for name in CASTS if "stored_in_16" in tensors]
    last = "x"
    for name in (*tensors, *(CASTS if "stored_in_16" in tensors else ())):
        if name != "stored_in_16":
            operator = {"matrix": "MatMul", "factor": "Mul", "divisor": "Div"}.get(name, "Add")
            nodes.append(helper.make_node(operator, [last, name], [f"after {name}"]))
            last = f"after {name}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        [*nodes, *extra],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPES.get(name, [16])) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def halved(proto: onnx.ModelProto, untouchable: tuple[str, ...] = ("excluded",)) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    loaded = ir.serde.deserialize_model(proto)
    moved = halve(loaded, untouchable)
    found = ir.serde.serialize_model(loaded)
    onnx.checker.check_model(found, full_check=True)
    return found, moved


def run(proto: onnx.ModelProto) -> list[NDArray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray] = session.run(None, {"x": np.random.default_rng(1).normal(0, 1, (2, 16)).astype(np.float32)})
    return outputs


def initializers(proto: onnx.ModelProto) -> dict[str, NDArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def used_values(proto: onnx.ModelProto) -> dict[str, NDArray]:
    """What the consumers of the small tensors see: the model's constant part, run."""
    wanted = [output for node in proto.graph.node if node.op_type in ("Split", "Cast") for output in node.output]
    graph = onnx.ModelProto()
    graph.CopyFrom(proto)
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in wanted)
    return dict(zip(wanted, run(graph), strict=True))


@pytest.mark.parametrize("opset", OPSETS)
def test_onnxruntime_runs_the_halved_model_to_nearly_the_same_outputs(opset: int) -> None:
    tensors = {name: array for name, array in TENSORS.items() if name not in ("too_large", "divisor")}
    before = model(opset, tensors)
    after, moved = halved(before)
    assert moved
    (expected,), (found,) = run(before), run(after)
    np.testing.assert_allclose(found, expected, atol=20 * TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("opset", OPSETS)
def test_what_fits_moves_and_what_does_not_stays_to_the_bit(opset: int) -> None:
    after, moved = halved(model(opset, TENSORS))
    assert set(moved) == {"shift", "factor", "matrix", "stored_in_16"}
    for name in KEPT:
        assert initializers(after)[name].tobytes() == TENSORS[name].tobytes()
    assert not set(moved) & set(initializers(after))


@pytest.mark.parametrize("opset", OPSETS)
def test_the_values_are_within_two_to_the_minus_ten_of_the_largest(opset: int) -> None:
    after, moved = halved(model(opset, TENSORS))
    seen = list(used_values(after).values())
    for name in moved:
        wanted = TENSORS[name].astype(np.float32)
        errors = [np.abs(array - wanted).max() for array in seen if array.shape == wanted.shape]
        assert min(errors) <= TOLERANCE * np.abs(wanted).max(), name


@pytest.mark.parametrize("opset", OPSETS)
def test_float16_behind_casts_is_merged_without_its_casts_and_to_the_bit(opset: int) -> None:
    after, _ = halved(model(opset, TENSORS))
    wanted = TENSORS["stored_in_16"].astype(np.float32)
    assert any(array.tobytes() == wanted.tobytes() for array in used_values(after).values())
    assert not set(CASTS) & {output for node in after.graph.node for output in node.output}


@pytest.mark.parametrize("opset", OPSETS)
def test_the_file_becomes_smaller(opset: int) -> None:
    tensors = {f"vector {n}": RANDOM.normal(0, 1, 16 + n).astype(np.float32)[:16].copy() for n in range(20)}
    before = model(opset, tensors)
    after, moved = halved(before)
    assert len(moved) == 20
    saved = sum(array.nbytes for array in tensors.values()) / 2
    assert before.ByteSize() - after.ByteSize() > saved / 4


def test_a_single_vector_is_left_alone() -> None:
    before = model(13, {"shift": TENSORS["shift"]})
    after, moved = halved(before)
    assert moved == ()
    assert initializers(after).keys() == {"shift"}


def test_nothing_moves_where_all_is_excluded() -> None:
    _, moved = halved(model(13, TENSORS), tuple(TENSORS))
    assert moved == ()


def test_a_graph_output_stays() -> None:
    tensors = {"shift": TENSORS["shift"], "factor": TENSORS["factor"], "third": TENSORS["excluded"]}
    after, moved = halved(model(13, tensors, outputs=("y", "shift")))
    assert set(moved) == {"factor", "third"}
    assert "shift" in initializers(after)


def test_a_float16_vector_whose_cast_is_a_graph_output_keeps_that_output() -> None:
    before = model(13, {name: TENSORS[name] for name in ("shift", "factor", "stored_in_16")}, outputs=("y", "widened"))
    after, _ = halved(before)
    assert [output.name for output in after.graph.output] == ["y", "widened"]
    assert run(after)[1].tobytes() == run(before)[1].tobytes()


def test_a_float16_vector_with_another_consumer_stays() -> None:
    other = (
        helper.make_node("Add", ["stored_in_16", "stored_in_16"], ["z16"]),
        helper.make_node("Cast", ["z16"], ["z"], to=TensorProto.FLOAT),
    )
    before = model(14, {name: TENSORS[name] for name in ("shift", "factor", "stored_in_16")}, other, ("y", "z"))
    after, moved = halved(before)
    assert "stored_in_16" not in moved
    assert run(after)[1].tobytes() == run(before)[1].tobytes()


def test_names_that_are_taken_already_do_no_harm() -> None:
    taken = ("small_floats", "small_float_sizes", "matrix.half", "shift.float")
    tensors = {name: TENSORS[name] for name in ("shift", "factor", "matrix")} | dict.fromkeys(taken, TENSORS["excluded"])
    before = model(13, tensors)
    after, _ = halved(before, taken)
    (expected,), (found,) = run(before), run(after)
    np.testing.assert_allclose(found, expected, atol=20 * TOLERANCE * np.abs(expected).max())


def test_a_weight_of_an_outer_scope_is_found_by_its_branch() -> None:
    branches = []
    for name in ("then", "else"):
        node = helper.make_node("Add" if name == "then" else "Mul", ["x", "shift"], [f"{name} out"])
        branches.append(helper.make_graph([node], name, [], [helper.make_tensor_value_info(f"{name} out", TensorProto.FLOAT, [2, 16])]))
    condition = numpy_helper.from_array(np.array(True), "yes")
    extra = helper.make_node("If", ["yes"], ["branched"], then_branch=branches[0], else_branch=branches[1])
    before = model(13, {"shift": TENSORS["shift"], "factor": TENSORS["factor"]}, (extra,), ("y", "branched"))
    before.graph.initializer.append(condition)
    after, moved = halved(before)
    assert set(moved) == {"shift", "factor"}
    np.testing.assert_allclose(run(after)[1], run(before)[1], atol=TOLERANCE * 4)


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [-np.inf], [65505.0], [-1e30], [1e-9, 2e-9], [1e-40]])
def test_values_out_of_range_do_not_fit(values: list[float]) -> None:
    assert not float16_fits(np.array(values, np.float32))


@pytest.mark.parametrize("values", [[0.0], [-0.0], [65504.0], [1.0, 1e-9], [6.1e-5], [0.1] * 5])
def test_values_in_range_fit(values: list[float]) -> None:
    assert float16_fits(np.array(values, np.float32))
