"""Gates of recurrent layers: which weights have some, how much each matters, and that steps follow from that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer import Request, compress
from onnx_compress.optimizer.gates import weighed
from onnx_compress.optimizer.plan import Layer
from onnx_compress.optimizer.probe import Prober
from onnx_compress.passes.quantize import Quantize, Rounded
from onnx_compress.passes.technique import Context
from onnx_compress.runtime import evaluate, reader
from onnx_compress.runtime.form import Grid

from models.network import Network, tensor
from tests.measuring import loaded, normal

HIDDEN = 24


def recurrent(op_type: str, directions: int = 1, quiet: tuple[int, ...] = ()) -> onnx.ModelProto:
    """One layer whose states are the output; the gates `quiet` are so far in saturation (a bias of 30) that their weights hardly matter."""
    net, gates = Network(0), {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    w, r = (net.weight(name, (directions, gates * HIDDEN, k), k) for name, k in (("w", 16), ("r", HIDDEN)))
    bias = np.zeros((directions, 2, gates, HIDDEN), np.float32)
    bias[:, 0, list(quiet)] = 30
    inputs = ["x", w, r, net.constant("b", bias.reshape(directions, -1))]
    states, _ = net.add_many(op_type, inputs, 2, {"hidden_size": HIDDEN, "direction": "bidirectional" if directions > 1 else "forward"})
    net.named(net.add("Identity", [states]), "y")
    return net.model("recurrent", [tensor("x", ["n", "batch", 16])], [tensor("y", ["n", directions, "batch", HIDDEN])])


def layers_of(model: onnx.ModelProto, folder: Path) -> tuple[dict[str, Layer], Prober]:
    read, weights = loaded(model, folder)
    return {weight.name: Layer(weight, Context()) for weight in weights}, Prober(read, weights, [{"x": normal(12, 4, 16, seed=seed)} for seed in range(2)], 1)


@pytest.mark.parametrize(("op_type", "directions", "gates"), [("LSTM", 1, 4), ("LSTM", 2, 8), ("GRU", 1, 3), ("GRU", 2, 6), ("RNN", 1, 1)])
def test_every_direction_has_gates_of_its_own(tmp_path: Path, op_type: str, directions: int, gates: int) -> None:
    layers, prober = layers_of(recurrent(op_type, directions), tmp_path)
    assert {layer.gates for layer in layers.values()} == {gates}
    for layer in weighed(tuple(layers.values()), prober, 2):
        rows = layer.context.rows
        if gates == 1:
            assert rows is None
            continue
        assert rows is not None
        parts = rows.reshape(gates, -1)
        assert (parts == parts[:, :1]).all()
        assert rows.mean() == pytest.approx(1, rel=1e-5)


def test_a_weight_with_another_reader_has_no_gates(tmp_path: Path) -> None:
    model = recurrent("LSTM")
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["w"], ["z"], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, []))
    layers, _ = layers_of(model, tmp_path)
    assert {name: layer.gates for name, layer in layers.items()} == {"w": 1, "r": 4}


def test_the_importance_of_a_gate_is_what_its_error_does_to_the_outputs(tmp_path: Path) -> None:
    layers, prober = layers_of(recurrent("LSTM", quiet=(1,)), tmp_path)
    (found,) = weighed([layers["w"]], prober, 1)
    rows = found.context.rows
    assert rows is not None
    weight, view = layers["w"].weight.viewed(), layers["w"].weight.view
    made = Quantize(0.35, 0.0).rounded(weight, Context())
    assert isinstance(made, Rounded)
    wanted = []
    for gate in range(4):
        part = slice(gate * HIDDEN, (gate + 1) * HIDDEN)
        changed = weight.copy()
        changed[:, part] = made.form.levels.levels[:, part] * evaluate.dense_values(made.form.scale)
        wanted.append(prober.divergence({"w": view.unsee(changed)}) / made.errors[part].sum())
    by_gate = rows[::HIDDEN]
    np.testing.assert_allclose(by_gate / by_gate.max(), np.maximum(np.array(wanted) / max(wanted), 1 / 64), rtol=1e-4)
    assert by_gate[1] == pytest.approx(by_gate.max() / 64)


def test_a_weight_of_zeros_is_left_as_it_is(tmp_path: Path) -> None:
    model = recurrent("GRU")
    zeros = next(one for one in model.graph.initializer if one.name == "w")
    zeros.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(zeros.dims), np.float32), "w"))
    layers, prober = layers_of(model, tmp_path)
    found = weighed(tuple(layers.values()), prober, 1)
    assert [layer.context.rows is None for layer in found] == [layer.weight.name == "w" for layer in found]


def test_gates_are_not_weighed_on_made_up_inputs(tmp_path: Path) -> None:
    onnx.save(recurrent("LSTM", quiet=(1,)), tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=3.5))
    assert not any("by gate" in weight.form for weight in report.weights)


def test_steps_are_the_finer_the_more_a_gate_matters(tmp_path: Path) -> None:
    onnx.save(recurrent("LSTM", quiet=(1,)), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=normal(12, 8, 16))
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=3.5, calibration=(tmp_path / "data.npz",)))
    assert any("by gate" in weight.form for weight in report.weights)
    payloads = [np.frombuffer(one.raw_data, np.uint8) for one in onnx.load(tmp_path / "out.onnx").graph.initializer if one.raw_data[:2] == b"OC"]
    scales = [evaluate.dense_values(member.form.scale) for payload in payloads for member in reader.read(payload).members if isinstance(member.form, Grid)]
    by_gate = [scale.reshape(4, -1)[:, 0] for scale in scales if len(scale) > 1]
    assert by_gate
    assert all(steps[1] == steps.max() > 2 * steps.min() for steps in by_gate)
