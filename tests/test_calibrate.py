"""Calibration data is cut into batches that the model takes, and what is wrong with it is said; inputs made up by rule run."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_compress.optimizer.calibrate import BATCH, Feed, load_calibration, masked
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.optimizer.model import load
from onnx_compress.optimizer.synthetic import images, synthesize
from onnx_compress.passes.simplify import simplify

from models.network import Network, tensor
from models.structures import STRUCTURES

SHARED = Path(__file__).parents[2] / "shared" / "models"
TEXT = [tensor("ids", ["n", "t"], TensorProto.INT64), tensor("attention_mask", ["n", "t"], TensorProto.INT64)]


def inputs(*values: onnx.ValueInfoProto) -> list[ir.Value]:
    graph = helper.make_graph([], "g", values, [])
    return list(ir.serde.deserialize_graph(graph).inputs)


def written(folder: Path, name: str = "data.npz", **arrays: NDArray[np.generic]) -> Path:
    path = folder / name
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def loaded(model: onnx.ModelProto, folder: Path, slim: bool = True) -> ir.Model:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    result = load(path)
    if slim:
        simplify(result)
    return result


def joined(feeds: tuple[Feed, ...], name: str) -> NDArray[np.generic]:
    return np.concatenate([feed[name] for feed in feeds])


def test_samples_come_in_small_batches_and_in_order(tmp_path: Path) -> None:
    x = np.arange(20 * 3, dtype=np.float32).reshape(20, 3)
    feeds = load_calibration([written(tmp_path, x=x)], inputs(tensor("x", ["n", 3])))
    assert max(len(feed["x"]) for feed in feeds) == BATCH
    np.testing.assert_array_equal(joined(feeds, "x"), x)


def test_large_samples_come_in_smaller_batches(tmp_path: Path) -> None:
    feeds = load_calibration([written(tmp_path, x=np.zeros((4, 3, 512, 512), np.float32))], inputs(tensor("x", ["n", 3, "h", "w"])))
    assert [len(feed["x"]) for feed in feeds] == [1, 1, 1, 1]


def test_a_fixed_batch_is_respected(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(6, 1)
    for fixed, count in ((1, 6), (2, 3)):
        feeds = load_calibration([written(tmp_path, x=x)], inputs(tensor("x", [fixed, 1])))
        assert len(feeds) == count
        np.testing.assert_array_equal(joined(feeds, "x"), x)


def test_an_input_without_samples_goes_into_every_batch(tmp_path: Path) -> None:
    path = written(tmp_path, x=np.zeros((20, 4), np.float32), rate=np.int64(16000), state=np.ones((2, 1, 8), np.float32))
    wanted = inputs(tensor("x", ["n", 4]), tensor("rate", [], TensorProto.INT64), tensor("state", [2, 1, 8]))
    feeds = load_calibration([path], wanted)
    assert len(feeds) == 3
    assert all(feed["rate"] == 16000 and feed["state"].shape == (2, 1, 8) for feed in feeds)


def test_several_files_and_folders_may_differ_in_length(tmp_path: Path) -> None:
    for index, length in enumerate((5, 7)):
        written(tmp_path, f"{index}.npz", ids=np.ones((2, length), np.int64), attention_mask=np.ones((2, length), np.int64))
    from_folder = load_calibration([tmp_path], inputs(*TEXT))
    from_files = load_calibration([tmp_path / "0.npz", tmp_path / "1.npz"], inputs(*TEXT))
    assert [feed["ids"].shape for feed in from_folder] == [feed["ids"].shape for feed in from_files] == [(2, 5), (2, 7)]


def test_doubles_and_short_integers_are_taken_where_nothing_is_lost(tmp_path: Path) -> None:
    path = written(tmp_path, x=np.ones((2, 3)), ids=np.array([[1], [2]], np.int32))
    (feed,) = load_calibration([path], inputs(tensor("x", ["n", 3]), tensor("ids", ["n", 1], TensorProto.INT64)))
    assert feed["x"].dtype == np.float32
    assert feed["ids"].dtype == np.int64


def test_positions_that_a_mask_leaves_out_of_the_whole_batch_are_cut(tmp_path: Path) -> None:
    mask = (np.arange(10) < np.array([[3], [5]])).astype(np.int64)
    (feed,) = load_calibration([written(tmp_path, ids=mask * 7, attention_mask=mask)], inputs(*TEXT))
    assert feed["ids"].shape == feed["attention_mask"].shape == (2, 5)
    found = masked(feed)
    assert found is not None
    np.testing.assert_array_equal(found, mask[:, :5] == 1)


def test_only_masks_of_zeros_and_ones_leave_anything_out() -> None:
    zeros = np.zeros((2, 3), np.int64)
    half = np.array([[1, 1, 0], [1, 0, 0]])
    assert masked({"ids": half}) is None
    assert masked({"mask": np.ones((2, 3))}) is None
    assert masked({"mask": zeros}) is None
    assert masked({"mask": np.where(half, 0.0, -1e4)}) is None
    four = masked({"Attention_Mask": half.reshape(2, 1, 1, 3)})
    assert four is not None
    assert four.shape == (2, 3)


X = [tensor("x", ["n", 3])]
GOOD = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": GOOD}, "y is no input of the model"),
        ({}, "no array x"),
        ({"x": GOOD, "label": GOOD}, "label is no input"),
        ({"x": np.ones((2, 4), np.float32)}, r"\[2, 4\].*\[n, 3\].*axis 1"),
        ({"x": np.ones(3, np.float32)}, "2 axes"),
        ({"x": np.ones((2, 3), np.uint8)}, "uint8.*save it as float32"),
        ({"x": np.full((2, 3), "a")}, "save it as float32"),
        ({"x": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}, "NaN.*sample 1"),
        ({"x": np.full((2, 3), 1e300)}, "too large for float32"),
        ({"x": np.ones((0, 3), np.float32)}, "no samples"),
        ({"x": np.array([[None, 1, {}]], object)}, "pickled objects"),
    ],
)
def test_bad_arrays_are_usage_errors_that_name_file_and_array(tmp_path: Path, arrays: dict[str, NDArray[np.generic]], words: str) -> None:
    path = written(tmp_path, **arrays)
    with pytest.raises(UsageError, match=words) as caught:
        load_calibration([path], inputs(*X))
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_integers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ids=np.array([[1 << 40]]))
    with pytest.raises(UsageError, match="save it as int32"):
        load_calibration([path], inputs(tensor("ids", ["n", 1], TensorProto.INT32)))


def test_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ids=np.ones((2, 4), np.int64), attention_mask=np.ones((3, 4), np.int64))
    with pytest.raises(UsageError, match="ids 2, attention_mask 3"):
        load_calibration([path], inputs(*TEXT))


def test_samples_that_do_not_fill_fixed_batches_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, x=np.ones((5, 3), np.float32))
    with pytest.raises(UsageError, match="multiple of 2"):
        load_calibration([path], inputs(tensor("x", [2, 3])))


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    whole = written(tmp_path, x=GOOD).read_bytes()
    contents = {"junk": b"junk", "empty": b"", "cut": whole[:-30], "pickle": pickle.dumps({"x": 1})}
    np.save(tmp_path / "single.npy", GOOD)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "single.npy", "nowhere.npz"):
        with pytest.raises(UsageError, match=str(tmp_path / name)):
            load_calibration([tmp_path / name], inputs(*X))


def test_a_folder_without_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \.npz files"):
        load_calibration([tmp_path], inputs(*X))


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
