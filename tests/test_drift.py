"""Following the drift: a weight makes up for what those before it became, as far as data that had no say in it agrees; the file keeps its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_compress.optimizer import Request, compress, drift
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.evidence import informed
from onnx_compress.optimizer.factors import Factors
from onnx_compress.optimizer.plan import Choice, Layer
from onnx_compress.optimizer.rig import Rig, RunError
from onnx_compress.optimizer.study import Study
from onnx_compress.optimizer.trial import Sample, coded_bits
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Context
from onnx_compress.runtime.evaluate import viewed_values
from onnx_compress.runtime.form import Form

from models.network import Network, tensor
from tests.measuring import collected, correlated, finished, loaded

Floats = NDArray[np.float32]
FINE = Quantize(0.004, power=0.0, feedback=True)


def chain(biased: bool) -> onnx.ModelProto:
    """Two multiplications: x [n, 24] w1 [24, 40] + b1, Relu, then w2 [40, 30], plus b2 if `biased`."""
    net = Network(0)
    hidden = net.add("Relu", [net.add("Gemm", ["x", net.weight("w1", (24, 40)), net.bias("b1", 40)])])
    inputs = [hidden, net.weight("w2", (40, 30)), net.bias("b2", 30)]
    return finished(net, net.add("Gemm", inputs) if biased else net.add("MatMul", inputs[:2]), [tensor("x", ["n", 24])], 2)


def batches(count: int = 12, size: int = 200) -> list[Feed]:
    return [{"x": part} for part in np.array_split(correlated(count * size, 24), count)]


def known(model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path) -> tuple[ir.Model, dict[str, Choice]]:
    """The model, and a fine grid with feedback for each weight, by name."""
    read, weights = loaded(model, folder)
    found, factors = collected(read, weights, feeds, matrices=True), Factors(folder / "scratch")
    layers = [informed(Layer(weight, Context()), found[weight.name], frozenset(), factors.hold) for weight in weights]
    return read, {layer.weight.name: Choice(layer, FINE, "grid", 0.0) for layer in layers}


def follow(read: ir.Model, choices: dict[str, Choice], changed: dict[str, Floats], feeds: Sequence[Feed], threads: int = 2) -> dict[str, Choice]:
    """The choices, settled behind what is `changed`."""
    old = {name: value.const_value.numpy() for name, value in read.graph.initializers.items() if value.const_value is not None}
    road = drift.Road(read, feeds, frozenset(), threads)
    found = drift.followed(list(choices.values()), old | changed, road, 1.0, lambda _: None)
    return {choice.weight.name: choice for choice in found}


def settled(choice: Choice) -> Floats:
    """What the weight decodes to, in its own dims."""
    assert choice.layer.remade is not None
    return choice.weight.view.unsee(viewed_values(choice.made()[1]))


def original(read: ir.Model, name: str) -> Floats:
    value = read.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


@pytest.mark.parametrize("biased", [False, True])
def test_a_weight_makes_up_for_what_the_one_before_became(tmp_path: Path, biased: bool) -> None:
    feeds = batches()
    read, choices = known(chain(biased), feeds, tmp_path)
    smaller = {name: original(read, name) * np.float32(0.8) for name in ("w1", "b1")}
    found = follow(read, choices, smaller, feeds)["w2"]
    hidden = np.maximum(feeds[0]["x"] @ original(read, "w1") + original(read, "b1"), 0)
    left = hidden @ original(read, "w2") - 0.8 * hidden @ settled(found)
    assert left.std(axis=0).max() < 0.05 * (hidden @ original(read, "w2")).std(axis=0).mean()  # 0.2 without


def test_a_bias_takes_up_the_mean_of_the_drift_and_the_weight_stays(tmp_path: Path) -> None:
    feeds = batches()
    read, choices = known(chain(biased=True), feeds, tmp_path)
    high = original(read, "b1") + 50  # nothing meets what Relu cuts
    read.graph.initializers["b1"].const_value = ir.Tensor(high)
    found = follow(read, choices, {"b1": high + 1}, feeds)["w2"]
    np.testing.assert_allclose(settled(found), original(read, "w2"), atol=0.01)
    assert found.layer.remade is not None
    assert found.layer.remade.bias is not None
    np.testing.assert_allclose(found.layer.remade.bias, original(read, "b2") - original(read, "w2").sum(axis=0), atol=0.5)


def test_what_meets_the_inputs_of_the_model_stays_as_it_is(tmp_path: Path) -> None:
    feeds = batches()
    read, choices = known(chain(biased=True), feeds, tmp_path)
    assert follow(read, choices, {}, feeds)["w1"] is choices["w1"]


def test_the_step_is_the_least_squares_fit_where_the_judge_agrees() -> None:
    x = correlated(4000, 20)[None]
    matrix, wanted = np.matmul(x.transpose(0, 2, 1), x) / 4000, np.random.default_rng(0).standard_normal((1, 7, 20)).astype(np.float32)
    asked = (matrix, wanted @ matrix)
    np.testing.assert_allclose(drift._step(asked, asked), wanted, atol=0.3 * np.abs(wanted).mean())


def test_no_step_is_taken_that_the_judge_does_not_agree_with() -> None:
    x = correlated(4000, 20)[None]
    matrix, wanted = np.matmul(x.transpose(0, 2, 1), x) / 4000, np.random.default_rng(0).standard_normal((1, 7, 20)).astype(np.float32)
    assert not drift._step((matrix, wanted @ matrix), (matrix, -wanted @ matrix)).any()


def test_a_step_is_taken_in_part_where_the_judge_saw_less_of_the_drift() -> None:
    matrix, wanted = np.eye(20, dtype=np.float32)[None], np.random.default_rng(0).standard_normal((1, 7, 20)).astype(np.float32)
    np.testing.assert_allclose(drift._step((matrix, wanted), (matrix, 0.25 * wanted)), 0.25 * wanted, rtol=1e-3)


def test_inputs_that_never_move_ask_for_nothing() -> None:
    matrix = np.zeros((2, 9, 9), np.float32)
    matrix[1] = np.eye(9)
    step = drift._solved(matrix, np.stack([np.zeros((3, 9)), np.ones((3, 9))]).astype(np.float32), 0.1)
    assert not step[0].any()
    np.testing.assert_allclose(step[1], 1, rtol=1e-3)


def test_a_covariance_that_is_none_asks_for_nothing() -> None:
    matrix, cross = np.array([[[1.0, 5.0], [5.0, 1.0]]], np.float32), np.ones((1, 3, 2), np.float32)
    assert not drift._solved(matrix, cross, 0.05).any()


def test_a_weight_takes_the_bits_that_it_had(tmp_path: Path) -> None:
    _, weights = loaded(chain(biased=False), tmp_path)
    choice = Choice(Layer(weights[1], Context()), Quantize(0.3, power=0.0), "grid", 0.0)
    aim = choice.weight.viewed() ** 3  # heavier tails: fewer bits at the same step
    sample = Sample(aim, choice.layer.context, 1.0, pooled=True)

    def bits(form: object) -> float:
        assert isinstance(form, Form)
        return coded_bits(form, sample) or 0.0

    had = bits(choice.made()[1].form)
    as_it_is = bits(Quantize(0.3, power=0.0).apply(aim, choice.layer.context))
    nearer = bits(drift._rounded(choice, aim, choice.layer.context, 1.0))
    assert abs(nearer - had) < 0.5 * abs(as_it_is - had)


def test_stages_follow_the_graph_and_leave_out_lookups_and_weights_of_several_uses(tmp_path: Path) -> None:
    net = Network(0)
    looked_up = net.add("Gather", [net.weight("table", (50, 24)), "x"])
    first = net.add("Relu", [looked_up])
    left, right = net.add("MatMul", [first, net.weight("left", (24, 24))]), net.add("MatMul", [first, net.weight("right", (24, 24))])
    both = net.add("Add", [left, right])
    shared = net.weight("shared", (24, 24))
    twice = net.add("MatMul", [net.add("MatMul", [both, shared]), shared])
    last = net.add("MatMul", [twice, net.weight("last", (24, 24))])
    read, weights = loaded(finished(net, last, [tensor("x", ["n", 5], onnx.TensorProto.INT64)], 3), tmp_path)
    choices = [Choice(Layer(weight, Context()), FINE, "grid", 0.0) for weight in reversed(weights)]
    stages = [sorted(choice.weight.name for choice in members) for _, members in drift._stages(read, choices)]
    assert stages == [["left", "right"], ["last"]]


def test_the_recurrent_matrix_follows_the_one_for_inputs(tmp_path: Path) -> None:
    net = Network(0)
    before = net.add("MatMul", ["x", net.weight("before", (16, 16))])
    outputs = net.add_many("LSTM", [before, net.weight("w", (1, 64, 16)), net.weight("r", (1, 64, 16))], 2, {"hidden_size": 16})
    read, weights = loaded(finished(net, outputs[0], [tensor("x", ["t", "n", 16])], 4), tmp_path)
    choices = [Choice(Layer(weight, Context()), FINE, "grid", 0.0) for weight in reversed(weights)]
    assert [[choice.weight.name for choice in members] for _, members in drift._stages(read, choices)] == [["w"], ["r"]]


def test_a_rig_that_is_not_whole_computes_nothing_behind_what_is_watched(tmp_path: Path) -> None:
    net = Network(0)
    hidden = net.add("Relu", [net.add("MatMul", ["x", net.weight("w", (24, 40))])])
    impossible = net.add("Reshape", [hidden, net.constant("shape", [7, 11, 13], "int64")])
    read, _ = loaded(finished(net, impossible, [tensor("x", ["n", 24])], 3), tmp_path)
    feed = batches()[0]
    with pytest.raises(RunError):
        Rig(read, (), [hidden]).run(feed, ["y"])
    found = Rig(read, (), [hidden], whole=False).run(feed, [hidden])[hidden]
    np.testing.assert_allclose(found, np.maximum(feed["x"] @ original(read, "w"), 0), rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    feeds = batches()
    read, choices = known(chain(biased=True), feeds, tmp_path)
    coarse = {name: replace(choice, technique=Quantize(0.5, power=0.0, feedback=True, trellis=True)) for name, choice in choices.items()}
    changed = {"w1": np.round(original(read, "w1"), 1)}
    one, three = (settled(follow(read, coarse, changed, feeds, threads)["w2"]) for threads in (1, 3))
    assert np.array_equal(one, three)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in.onnx").write_bytes(deep().SerializeToString())
    np.savez(tmp_path / "data.npz", x=correlated(400, 24))
    return tmp_path / "in.onnx"


def deep() -> onnx.ModelProto:
    net, value = Network(0), "x"
    for number, (rows, columns) in enumerate([(24, 96), (96, 96), (96, 96), (96, 40)]):
        value = net.add("Relu", [net.add("Gemm", [value, net.weight(f"w{number}", (rows, columns)), net.bias(f"b{number}", columns)])])
    return finished(net, value, [tensor("x", ["n", 24])], 2)


def compressed(source: Path, **wishes: object) -> tuple[bytes, float, dict[str, float]]:
    """(the file, its divergence on the calibration data, seconds by phase); a tenth of the size, unless they wish for something else."""
    target = source.with_name("out.onnx")
    goal = {} if "max_divergence" in wishes else {"target_ratio": 10}
    request = Request(calibration=(source.with_name("data.npz"),), force=True, threads=2, **goal, **wishes)  # type: ignore[arg-type]
    report = compress(source, target, request)
    return target.read_bytes(), report.divergence, dict(report.seconds)


def unfollowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Study, "followed", lambda _, emitted, most_bytes: emitted)


def test_a_file_that_follows_moves_the_outputs_less_and_is_as_small(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, divergence, seconds = compressed(source)
    assert "following the drift" in seconds
    assert len(data) <= source.stat().st_size / 10
    unfollowed(monkeypatch)
    assert divergence < 0.9 * compressed(source)[1]


def test_the_smallest_file_within_a_divergence_follows(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 0.003
    data, divergence, seconds = compressed(source, max_divergence=limit)
    assert "following the drift" in seconds
    assert 0.9 * limit <= divergence <= limit
    unfollowed(monkeypatch)
    assert len(data) < 0.98 * len(compressed(source, max_divergence=limit)[0])


def test_a_file_is_left_as_it_was_where_following_moves_the_outputs_more(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_step", lambda seen, _: np.ones_like(seen[1]))
    harmed = compressed(source)[0]
    unfollowed(monkeypatch)
    assert harmed == compressed(source)[0]


def test_fast_does_not_follow(source: Path) -> None:
    assert "following the drift" not in compressed(source, effort="fast")[2]


def test_a_file_that_came_out_too_small_is_followed_once_more(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, shares = drift.followed, []

    def meagre(choices: Sequence[Choice], arrays: dict[str, Floats], road: drift.Road, share: float, tick: Callable[[float], None]) -> list[Choice]:
        shares.append(share)
        return real(choices, arrays, road, share * (0.9 if len(shares) == 1 else 1.0), tick)

    monkeypatch.setattr(drift, "followed", meagre)
    assert len(compressed(source)[0]) <= source.stat().st_size / 10
    assert len(shares) > 1
    assert shares[1] > shares[0]
