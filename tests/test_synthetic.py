"""Inputs made up by rule run, and look like what models are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_compress.optimizer import Request, compress
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.synthetic import images, synthesize
from onnx_compress.passes.simplify import simplify

from models.network import Network, tensor
from models.structures import STRUCTURES

SHARED = Path(__file__).parents[2] / "shared" / "models"


def joined(feeds: tuple[Feed, ...], name: str) -> NDArray[np.generic]:
    return np.concatenate([feed[name] for feed in feeds])


def loaded(model: onnx.ModelProto, folder: Path, slim: bool = True) -> ir.Model:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    result = load(path)
    if slim:
        simplify(result)
    return result


@pytest.mark.parametrize("name", STRUCTURES)
def test_inputs_made_up_for_a_structure_run_and_depend_on_the_seed_alone(tmp_path: Path, name: str) -> None:
    model = loaded(STRUCTURES[name](0), tmp_path)
    first, again, other = synthesize(model, 3), synthesize(model, 3), synthesize(model, 4)
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(one[key], two[key]) for key in one)
    assert any(not np.array_equal(one[key], two[key]) for one, two in zip(first, other, strict=True) for key in one)


def test_token_ids_stay_below_the_rows_that_they_look_up(tmp_path: Path) -> None:
    net = Network(0)
    shifted = net.add("Add", [net.add("Cast", ["ids"], {"to": TensorProto.INT64}), net.constant("offset", [2], "int64")])
    x = net.add("Gather", [net.weight("table", (10, 64)), net.add("Unsqueeze", [shifted, net.constant("axis", [1], "int64")])])
    net.named(x, "y")
    model = net.model("m", [tensor("ids", ["n", "t"], TensorProto.INT32)], [tensor("y", ["n", 1, "t", 64])])
    values = joined(synthesize(loaded(model, tmp_path), 0), "ids")
    assert values.min() == 0
    assert values.max() == 7


def test_masks_types_and_lengths_follow_the_rules(tmp_path: Path) -> None:
    net = Network(0)
    names = ("attention_mask", "token_type_ids", "position_ids")
    total = net.add("Sum", [net.add("Cast", [name], {"to": TensorProto.FLOAT}) for name in names])
    net.named(total, "y")
    model = net.model("m", [tensor(name, ["batch", "seq"], TensorProto.INT64) for name in names], [tensor("y", ["batch", "seq"])])
    feed = synthesize(loaded(model, tmp_path, slim=False), 0)[0]
    assert (feed["attention_mask"] == 1).all()
    assert not feed["token_type_ids"].any()
    np.testing.assert_array_equal(feed["position_ids"][0], np.arange(32))


def test_input_shapes_are_used_and_bind_the_same_symbols_elsewhere(tmp_path: Path) -> None:
    model = loaded(STRUCTURES["tied_transformer"](0), tmp_path)
    feed = synthesize(model, 0, {"input_ids": (2, 9)})[0]
    assert {array.shape for array in feed.values()} == {(2, 9)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nobody": (1,)}, "no such input"),
        ({"image": (1, 3, 16)}, "does not fit"),
        ({"image": (1, 4, 16, 16)}, "does not fit"),
        ({"image": (0, 3, 16, 16)}, "at least 1"),
    ],
)
def test_wrong_input_shapes_are_usage_errors(tmp_path: Path, given: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        synthesize(loaded(STRUCTURES["depthwise_batchnorm"](0), tmp_path), 0, given)


def test_sizes_that_do_not_run_are_replaced_by_others_that_do(tmp_path: Path) -> None:
    net = Network(0)  # a table of 8 positions is added to the whole sequence: only lengths 1 and 8 broadcast
    net.named(net.add("Add", ["x", net.weight("positions", (8, 64))]), "y")
    model = net.model("m", [tensor("x", ["n", "t", 64])], [tensor("y", ["n", "t", 64])])
    feed = synthesize(loaded(model, tmp_path), 0)[0]
    assert feed["x"].shape[1] in (1, 8)


def test_minus_one_is_an_open_size(tmp_path: Path) -> None:
    """As Paddle's exporter writes it."""
    net = Network(0)
    net.named(net.add("Conv", ["x", net.weight("w", (16, 3, 3, 3))]), "y")
    model = net.model("m", [tensor("x", [-1, 3, -1, -1])], [tensor("y", [-1, 16, -1, -1])])
    assert synthesize(loaded(model, tmp_path), 0)[0]["x"].shape == (3, 3, 224, 224)
    compress(tmp_path / "model.onnx", tmp_path / "out.onnx", Request(target_ratio=2.5))


def test_states_of_recurrent_layers_have_the_samples_on_axis_1_and_short_sounds_are_tried(tmp_path: Path) -> None:
    """As in a detector of voices: windows of 512 samples, their edges reflected, and a state that has no symbols in common with them."""
    net = Network(0)
    padded = net.add("Pad", ["input", net.constant("pads", [0, 0, 0, 200], "int64")], {"mode": "reflect"})
    framed = net.add("Conv", [net.add("Unsqueeze", [padded, net.constant("axis", [1], "int64")]), net.weight("frames", (64, 1, 256))], {"strides": [256]})
    steps = net.add("Transpose", [framed], {"perm": [2, 0, 1]})
    gates = [net.weight("w", (1, 128, 64)), net.weight("r", (1, 128, 32)), net.constant("b", np.zeros((1, 256), np.float32))]
    hidden = net.add_many("LSTM", [steps, *gates, "", "state", "state"], 2, {"hidden_size": 32})
    net.named(hidden[1], "y")
    model = net.model("m", [tensor("input", [None, None]), tensor("state", [1, None, 32])], [tensor("y", [1, None, 32])])
    feed = synthesize(loaded(model, tmp_path), 0)[0]
    assert feed["state"].shape == (1, len(feed["input"]), 32)
    assert feed["input"].shape[1] > 200


def test_hidden_states_of_an_encoder_are_a_sequence(tmp_path: Path) -> None:
    net = Network(0)
    masked = net.add("Mul", ["encoder_hidden_states", net.add("Unsqueeze", ["mask", net.constant("axis", [2], "int64")])])
    net.named(net.add("MatMul", [masked, net.weight("w", (64, 64))]), "y")
    given = [tensor("encoder_hidden_states", [None, None, 64]), tensor("mask", [None, None])]
    feed = synthesize(loaded(net.model("m", given, [tensor("y", [None, None, 64])]), tmp_path), 0)[0]
    assert feed["encoder_hidden_states"].shape == (8, 32, 64)


def test_a_model_that_runs_on_nothing_made_up_asks_for_data(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("MatMul", ["x", net.weight("w", (77, 64))]), "y")
    model = net.model("m", [tensor("x", ["n", "t"])], [tensor("y", ["n", 64])])
    with pytest.raises(CompressError, match=r"--calibration.*--input-shape"):
        synthesize(loaded(model, tmp_path), 0)
    assert synthesize(loaded(model, tmp_path), 0, {"x": (2, 77)})[0]["x"].shape == (2, 77)


def test_a_model_that_onnxruntime_cannot_load_gives_its_reason(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("Unheard", ["x"], domain="nowhere"), "y")
    model = net.model("m", [tensor("x", ["n"])], [tensor("y", ["n"])])
    model.opset_import.append(helper.make_opsetid("nowhere", 1))
    with pytest.raises(CompressError, match=r"cannot load.*Unheard"):
        synthesize(loaded(model, tmp_path, slim=False), 0)


def test_images_are_smooth_and_within_their_range() -> None:
    pictures = images((16, 3, 64, 64), 1, np.random.default_rng(0))
    assert np.abs(pictures).max() <= 2.5
    assert 0.7 < pictures.std() < 1.2
    neighbours = np.corrcoef(pictures[:, :, :, 1:].ravel(), pictures[:, :, :, :-1].ravel())[0, 1]
    assert neighbours > 0.7


def test_one_image_in_two_has_edges_and_spectrograms_have_none() -> None:
    def sharpness(*size: int) -> NDArray[np.float64]:
        """The fourth moment of differences of neighbours over their squared variance: 3 for noise, more where there are edges."""
        steps = np.diff(images((64, 1, *size), 1, np.random.default_rng(0))).reshape(64, -1)
        return np.asarray((steps**4).mean(axis=1) / (steps**2).mean(axis=1) ** 2)

    assert 20 <= (sharpness(64, 64) > 8).sum() <= 44
    assert not (sharpness(64, 10) > 8).any()


def test_a_model_that_divides_by_255_gets_bytes(tmp_path: Path) -> None:
    net = Network(0)
    x = net.add("Div", ["image", net.constant("scale", 255.0)])
    net.named(net.add("Conv", [x, net.weight("w", (16, 3, 3, 3))]), "y")
    model = net.model("m", [tensor("image", ["n", 3, 32, 32])], [tensor("y", ["n", 16, 30, 30])])
    values = joined(synthesize(loaded(model, tmp_path, slim=False), 0), "image")
    assert values.min() >= 0
    assert 150 < values.max() <= 255


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no models in {SHARED}")
@pytest.mark.parametrize("name", ["minilm_l6_v2", "nanodet_m", "charrnn_shakespeare_wbf16", "mnist_cntk", "mobilenet_v1_075_w16"])
def test_real_models_run_on_inputs_made_up(name: str) -> None:
    model = load(SHARED / f"{name}.onnx")
    simplify(model)
    feeds = synthesize(model, 0)
    assert sum(next(iter(feed.values())).shape[0] for feed in feeds) >= 16
