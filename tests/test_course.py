"""Stages of a course: each sees what running the whole model would show, and goes on from what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_compress.optimizer import course
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.course import Array, Course, fronts
from onnx_compress.optimizer.rig import Rig, as_input

from models.network import Network, tensor
from tests.measuring import correlated, finished, loaded

FEEDS: list[Feed] = [{"x": correlated(5 + number, 8, seed=number)} for number in range(6)]
SOURCES = ("first", "second", "chosen")


def network() -> onnx.ModelProto:
    """Layers whose third is in the branches of an If, which read values of the first one, too."""
    net = Network(0)
    net.named(net.add("ReduceSum", ["x", net.constant("axes", [1], "int64")]), "sums")
    net.named(net.add("Relu", [net.add("Add", [net.add("MatMul", ["x", net.weight("a", (8, 8))]), "sums"])]), "first")
    net.named(net.add("Tanh", [net.add("MatMul", ["first", net.weight("b", (8, 8))])]), "second")
    positive = net.add("Greater", [net.add("ReduceSum", ["second"], {"keepdims": 0}), net.constant("zero", 0.0)])
    branches = {}
    for name, operator in (("then_branch", "Add"), ("else_branch", "Sub")):
        body = net.body(name)
        result = body.add(operator, [body.add(operator, [body.add("MatMul", ["second", body.weight("c", (8, 8))]), "first"]), "sums"])
        branches[name] = body.graph(name, [], [tensor(result, ["n", 8])])
    net.named(net.add("If", [positive], branches), "chosen")
    return finished(net, net.add("MatMul", ["chosen", net.weight("d", (8, 8))]), [tensor("x", ["n", 8])], 2)


@pytest.fixture
def model(tmp_path: Path) -> ir.Model:
    return loaded(network(), tmp_path)[0]


def replaced(model: ir.Model, name: str) -> dict[str, ort.OrtValue]:
    """Half of a weight."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return {name: as_input(tensor.numpy() / 2, int(tensor.dtype))}


def stages(model: ir.Model, constants: Sequence[dict[str, ort.OrtValue]]) -> list[list[tuple[int, Array, Array]]]:
    """What the work gets: the feed's number, x and x', at each stage."""
    held = [model.graph.initializers[name] for name in ("a", "b", "d")]
    track = Course(model, held, SOURCES, FEEDS, 2)
    return [list(track.stage(number, one, lambda *seen: seen)) for number, one in enumerate(constants)]


def test_a_front_is_all_that_later_stages_read_of_what_is_done(model: ir.Model) -> None:
    assert fronts(model.graph, SOURCES) == [{"first", "sums"}, {"first", "sums", "second"}, set()]


@pytest.mark.parametrize("kept", [0, course.KEPT_BYTES])
def test_each_stage_sees_what_the_whole_model_shows(model: ir.Model, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(course, "KEPT_BYTES", kept)
    a, b = replaced(model, "a"), replaced(model, "b")
    whole = Rig(model, [model.graph.initializers[name] for name in ("a", "b")], SOURCES)
    for source, constants, found in zip(SOURCES, (a, a | b, a | b), stages(model, [a, a | b, a | b]), strict=True):
        for number, (feed, x, met) in enumerate(found):
            assert feed == number
            np.testing.assert_allclose(x, whole.run(FEEDS[feed], [source])[source], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(met, whole.run(FEEDS[feed], [source], constants)[source], rtol=1e-5, atol=1e-6)
            assert not np.allclose(x, met)


@pytest.mark.parametrize(("kept", "computed"), [(0, True), (course.KEPT_BYTES, False)])
def test_what_is_kept_is_not_computed_again(model: ir.Model, monkeypatch: pytest.MonkeyPatch, kept: int, computed: bool) -> None:
    monkeypatch.setattr(course, "KEPT_BYTES", kept)
    _, found = stages(model, [{}, replaced(model, "a")])  # too late: the first stage is over
    assert [np.allclose(x, met) for _, x, met in found] == [not computed] * len(FEEDS)


def test_what_would_take_too_much_is_not_kept(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = sum(len(feed["x"]) for feed in FEEDS)
    monkeypatch.setattr(course, "KEPT_BYTES", 2 * 4 * rows * (8 + 1))  # the first front: `first` and `sums`; not the second
    a, b = replaced(model, "a"), replaced(model, "b")
    *_, found = stages(model, [a, a, b])
    whole = Rig(model, [model.graph.initializers[name] for name in ("a", "b")], SOURCES)
    for feed, _, met in found:
        np.testing.assert_allclose(met, whole.run(FEEDS[feed], ["chosen"], a | b)["chosen"], rtol=1e-5, atol=1e-6)


def test_a_value_that_numpy_has_no_type_for_is_not_kept(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("Cast", [net.add("MatMul", ["x", net.weight("a", (8, 8))])], {"to": onnx.TensorProto.BFLOAT16}), "half")
    net.named(net.add("Cast", ["half"], {"to": onnx.TensorProto.FLOAT}), "first")
    second = net.add("Add", [net.add("Cast", ["half"], {"to": onnx.TensorProto.FLOAT}), net.add("MatMul", ["first", net.weight("b", (8, 8))])])
    net.named(second, "second")
    read, _ = loaded(finished(net, net.add("MatMul", ["second", net.weight("c", (8, 8))]), [tensor("x", ["n", 8])], 2), tmp_path)
    track = Course(read, (), ("first", "second"), FEEDS, 1)
    assert all(len(list(track.stage(number, {}, lambda *seen: seen))) == len(FEEDS) for number in (0, 1))
    assert not track._kept[0][0]
