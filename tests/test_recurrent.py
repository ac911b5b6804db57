"""CompressedLSTM and CompressedGRU against onnxruntime's own, over awkward settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes import writer
from onnx_compress.runtime import library_path
from onnx_compress.runtime.form import Dense, Grid, Member, Symbols, View
from operator_models import DOMAIN, FLOATS, FORMS, assert_close, coded, form_of, weight

from tests import instruction_sets

GATES = {"LSTM": 4, "GRU": 3}
OUTPUTS = {"LSTM": ("y", "y_h", "y_c"), "GRU": ("y", "y_h")}
INPUTS = {"LSTM": ("x", "w", "r", "b", "lengths", "h", "c", "p"), "GRU": ("x", "w", "r", "b", "lengths", "h")}
BOTH = pytest.mark.parametrize("op_type", GATES)


@dataclass(frozen=True)
class Case:
    """A layer and what it is run on: sizes, which optional inputs there are, attributes beside hidden_size."""

    steps: int = 3
    batch: int = 2
    width: int = 5
    hidden: int = 7
    optional: Sequence[str] = ("b", "h", "c")
    lengths: Sequence[int] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    form: str = "grid"
    dtype: type = np.float32
    outputs: Sequence[str] = ("y", "y_h", "y_c")
    threads: int = 1
    instruction_set: str = ""

    @property
    def directions(self) -> int:
        return 2 if self.attributes.get("direction") == "bidirectional" else 1


def feeds_of(op_type: str, case: Case) -> dict[str, NDArray]:
    """The inputs that are no weights."""
    rng, directions, gates = np.random.default_rng(7), case.directions, GATES[op_type]
    shapes = {
        "b": (directions, 2 * gates * case.hidden),
        "h": (directions, case.batch, case.hidden),
        "c": (directions, case.batch, case.hidden),
        "p": (directions, 3 * case.hidden),
    }
    made = {"x": rng.standard_normal((case.steps, case.batch, case.width)).astype(case.dtype)}
    made |= {name: rng.standard_normal(shapes[name]).astype(case.dtype) for name in case.optional if name in INPUTS[op_type]}
    return made | ({} if case.lengths is None else {"lengths": np.array(case.lengths, np.int32)})


def run(proto: onnx.ModelProto, feeds: Mapping[str, NDArray], threads: int, instruction_set: str = "") -> list[NDArray]:
    options = onnxruntime.SessionOptions()
    if instruction_set:
        options.add_session_config_entry("onnx_compress.instruction_set", instruction_set)
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(library_path())
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray] = session.run(None, dict(feeds))
    return found


def model(node: onnx.NodeProto, feeds: Mapping[str, NDArray], constants: Mapping[str, NDArray]) -> onnx.ModelProto:
    element = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(name, element(array.dtype), [None] * array.ndim) for name, array in feeds.items()]
    outputs = [helper.make_tensor_value_info(name, element(feeds["x"].dtype), None) for name in node.output if name]
    graph = helper.make_graph([node], "graph", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)], ir_version=8)


@dataclass(frozen=True)
class Pair:
    """A layer of ours and onnxruntime's own, on the same weights."""

    ours: onnx.ModelProto
    plain: onnx.ModelProto
    feeds: Mapping[str, NDArray]


def pair(op_type: str, case: Case) -> Pair:
    rows = GATES[op_type] * case.hidden
    views = [View((case.directions, rows, k), (0, 1, 2), case.directions, rows) for k in (case.width, case.hidden)]
    w, r = (weight(view, case.form, FLOATS[case.dtype], seed) for seed, view in enumerate(views))
    feeds = feeds_of(op_type, case)
    names = [name if name in ("w", "r") or name in feeds else "" for name in INPUTS[op_type]]
    outputs = [name if name in case.outputs else "" for name in OUTPUTS[op_type]]
    attributes = {"hidden_size": case.hidden} | dict(case.attributes)
    ours = helper.make_node(f"Compressed{op_type}", names, outputs, "layer", domain=DOMAIN, **attributes)
    plain = helper.make_node(op_type, names, outputs, **attributes)
    return Pair(model(ours, feeds, {"w": w.payload, "r": r.payload}), model(plain, feeds, {"w": w.tensor, "r": r.tensor}), feeds)


def compare(op_type: str, case: Case) -> list[NDArray]:
    made = pair(op_type, case)
    found, expected = run(made.ours, made.feeds, case.threads, case.instruction_set), run(made.plain, made.feeds, 1)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    return found


DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])


@BOTH
@DIRECTIONS
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_direction_and_type_equals_onnxruntimes(op_type: str, direction: str, dtype: type) -> None:
    compare(op_type, Case(attributes={"direction": direction}, dtype=dtype))


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_onnxruntimes(op_type: str, form: str) -> None:
    compare(op_type, Case(form=form, attributes={"direction": "bidirectional"}, hidden=70, width=65))


@BOTH
@pytest.mark.parametrize("hidden", [1, 7, 64, 65, 96, 130])
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("linear", [0, 1])
def test_every_hidden_size_equals_onnxruntimes(op_type: str, hidden: int, steps: int, linear: int) -> None:
    attributes = {"linear_before_reset": linear} if op_type == "GRU" else {}
    compare(op_type, Case(hidden=hidden, steps=steps, width=hidden, attributes={"direction": "bidirectional"} | attributes))


@BOTH
@pytest.mark.parametrize("batch", [1, 3, 6, 25, 60])
def test_every_batch_equals_onnxruntimes(op_type: str, batch: int) -> None:
    compare(op_type, Case(batch=batch, hidden=66))


@BOTH
@DIRECTIONS
@pytest.mark.parametrize("lengths", [[3, 1, 0, 2], [2, 2, 2, 2], [0, 0, 0, 0], [3, 3, 3, 3]])
def test_sequences_of_unequal_length_equal_onnxruntimes(op_type: str, direction: str, lengths: list[int]) -> None:
    compare(op_type, Case(batch=4, lengths=lengths, attributes={"direction": direction}))


@BOTH
@pytest.mark.parametrize("optional", [(), ("b",), ("h",), ("c",), ("b", "h", "c", "p"), ("p",)])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("linear", [0, 1])
def test_optional_inputs_may_be_left_out(op_type: str, optional: Sequence[str], steps: int, linear: int) -> None:
    attributes = {"linear_before_reset": linear} if op_type == "GRU" else {}
    compare(op_type, Case(steps=steps, optional=optional, attributes={"direction": "bidirectional"} | attributes))


@BOTH
@pytest.mark.parametrize("outputs", [("y",), ("y_h",), ("y_h", "y_c"), ("y", "y_c")])
def test_optional_outputs_may_be_left_out(op_type: str, outputs: Sequence[str]) -> None:
    compare(op_type, Case(outputs=outputs))


@BOTH
@pytest.mark.parametrize("attributes", [{"clip": 0.3}, {"input_forget": 1}, {"linear_before_reset": 1, "clip": 0.2}, {"linear_before_reset": 0, "clip": 0.2}])
@pytest.mark.parametrize("peepholes", [False, True])
def test_settings_equal_onnxruntimes(op_type: str, attributes: dict[str, Any], peepholes: bool) -> None:
    other = "linear_before_reset" if op_type == "LSTM" else "input_forget"
    kept = {name: value for name, value in attributes.items() if name != other}
    compare(op_type, Case(attributes=kept, optional=("b", "h", "c", *(["p"] if peepholes else []))))


@BOTH
@pytest.mark.parametrize(("steps", "batch"), [(3, 0), (0, 2)])
def test_no_step_and_no_sequence_give_empty_outputs(op_type: str, steps: int, batch: int) -> None:
    """onnxruntime's own end the process here."""
    made = pair(op_type, Case(steps=steps, batch=batch))
    found = run(made.ours, made.feeds, 1)
    assert [array.shape for array in found][:2] == [(steps, 1, batch, 7), (1, batch, 7)]
    assert not any(array.any() for array in found)


@BOTH
@DIRECTIONS
@pytest.mark.parametrize(("hidden", "batch"), [(100, 2), (520, 1), (70, 100)])
def test_any_number_of_threads_gives_the_same_bits(op_type: str, direction: str, hidden: int, batch: int) -> None:
    made = [compare(op_type, Case(hidden=hidden, batch=batch, attributes={"direction": direction}, threads=threads)) for threads in (1, 2)]
    assert all(np.array_equal(one, two) for one, two in zip(*made, strict=True))


@BOTH
@pytest.mark.parametrize("instruction_set", instruction_sets.NAMES)
@pytest.mark.parametrize(("hidden", "batch"), [(64, 1), (64, 7), (71, 2), (128, 30)])
@pytest.mark.parametrize("form", ["grid", "column", "trellis"])
def test_every_instruction_set_equals_onnxruntimes(op_type: str, instruction_set: str, hidden: int, batch: int, form: str) -> None:
    """R as levels of eight bits (grid and trellis of 64 and 128 units), and as floats."""
    instruction_sets.skip_without(instruction_set)
    compare(op_type, Case(hidden=hidden, batch=batch, form=form, instruction_set=instruction_set))


@BOTH
def test_levels_of_more_than_eight_bits_are_multiplied_with_as_floats(op_type: str) -> None:
    rows = GATES[op_type] * 64
    rng = np.random.default_rng(3)
    w = weight(View((1, rows, 5), (0, 1, 2), 1, rows))
    levels = rng.integers(-127, 128, (1, rows, 64)).astype(np.int32)
    scale = Dense("float32", np.full(rows, 1e-3, np.float32).view(np.uint32))
    feeds = {"x": rng.standard_normal((4, 2, 5)).astype(np.float32)}
    for largest in (127, 128, -128, 3000):
        levels[0, -1, -1] = largest
        r = coded(Member(TensorProto.FLOAT, View((1, rows, 64), (0, 1, 2), 1, rows), Grid(scale, Symbols(levels))))
        node = helper.make_node(f"Compressed{op_type}", ["x", "w", "r"], ["y"], "layer", domain=DOMAIN, hidden_size=64)
        plain = helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=64)
        found = run(model(node, feeds, {"w": w.payload, "r": r.payload}), feeds, 1)
        assert_close(found[0], run(model(plain, feeds, {"w": w.tensor, "r": r.tensor}), feeds, 1)[0])


@BOTH
def test_a_long_sequence_stays_with_onnxruntimes(op_type: str) -> None:
    compare(op_type, Case(steps=300, hidden=128, width=128, batch=1))


@BOTH
def test_large_inputs_saturate(op_type: str) -> None:
    """States reach exactly -1, 0 and 1 where gates are far from zero, and no NaN."""
    rows = GATES[op_type] * 8
    w, r = (weight(View((1, rows, k), (0, 1, 2), 1, rows), seed=seed) for seed, k in enumerate((4, 8)))
    feeds = {"x": np.array([[[1e4, -1e4, 1e30, 0]], [[1e30, 1e30, -1e30, 1e30]]], np.float32)}
    node = helper.make_node(f"Compressed{op_type}", ["x", "w", "r"], ["y"], "layer", domain=DOMAIN, hidden_size=8)
    (found,) = run(model(node, feeds, {"w": w.payload, "r": r.payload}), feeds, 1)
    plain = helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=8)
    assert np.isfinite(found).all()
    assert_close(found, run(model(plain, feeds, {"w": w.tensor, "r": r.tensor}), feeds, 1)[0])


@BOTH
def test_both_weights_may_be_members_of_one_pool(op_type: str) -> None:
    rows = GATES[op_type] * 6
    views = [View((1, rows, 6), (0, 1, 2), 1, rows) for _ in range(3)]
    members = [Member(TensorProto.FLOAT, view, form_of("grid", view.shape, np.random.default_rng(seed))) for seed, view in enumerate(views)]
    pool = np.frombuffer(writer.write_pool(members), np.uint8)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 2, 6)).astype(np.float32)}
    node = helper.make_node(f"Compressed{op_type}", ["x", "q", "q"], ["y"], "layer", domain=DOMAIN, hidden_size=6, members=[2, 1])
    plain = helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=6)
    expected = run(model(plain, feeds, {"w": coded(members[2]).tensor, "r": coded(members[1]).tensor}), feeds, 1)
    assert_close(run(model(node, feeds, {"q": pool}), feeds, 1)[0], expected[0])


@BOTH
def test_payloads_that_arrive_at_a_run_are_used(op_type: str) -> None:
    rows = GATES[op_type] * 6
    w, r = (weight(View((1, rows, k), (0, 1, 2), 1, rows), seed=seed) for seed, k in enumerate((4, 6)))
    feeds = {"x": np.ones((2, 1, 4), np.float32), "w": w.payload, "r": r.payload}
    node = helper.make_node(f"Compressed{op_type}", ["x", "w", "r"], ["y"], "layer", domain=DOMAIN, hidden_size=6)
    plain = helper.make_node(op_type, ["x", "w", "r"], ["y"], hidden_size=6)
    dense = {"x": feeds["x"], "w": w.tensor, "r": r.tensor}
    assert_close(run(model(node, feeds, {}), feeds, 1)[0], run(model(plain, dense, {}), dense, 1)[0])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"attributes": {"hidden_size": 8}}, "is not one of 1 directions with 4 gates of 8 units"),
        ({"attributes": {"direction": "sideways"}}, "direction 'sideways' is unknown"),
        ({"attributes": {"members": [1]}}, "members has 1 values"),
        ({"attributes": {"members": [0, 1]}}, "member 1 of a payload that has 1"),
        ({"feeds": {"x": np.ones((3, 2, 4), np.float32)}}, r"X has shape \[3, 2, 4\]"),
        ({"feeds": {"lengths": np.array([1, 4], np.int32)}}, r"sequence_lens\[1\] is 4, legal is 0..3"),
        ({"feeds": {"lengths": np.array([1], np.int32)}}, "sequence_lens has 1 values, the batch 2"),
        ({"feeds": {"h": np.zeros((1, 2, 6), np.float32)}}, r"initial_h has shape \[1, 2, 6\]"),
    ],
)
def test_what_does_not_fit_is_named(wrong: dict[str, Any], sentence: str) -> None:
    w, r = (weight(View((1, 28, k), (0, 1, 2), 1, 28), seed=seed) for seed, k in enumerate((5, 7)))
    feeds = {"x": np.ones((3, 2, 5), np.float32)} | wrong.get("feeds", {})
    names = [name if name in ("w", "r") or name in feeds else "" for name in INPUTS["LSTM"]]
    attributes = {"hidden_size": 7} | wrong.get("attributes", {})
    node = helper.make_node("CompressedLSTM", names, ["y"], "layer", domain=DOMAIN, **attributes)
    with pytest.raises(Exception, match=f"layer.*{sentence}"):
        run(model(node, feeds, {"w": w.payload, "r": r.payload}), feeds, 1)
