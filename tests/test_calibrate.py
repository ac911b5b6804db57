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
from onnx_compress.optimizer.errors import UsageError

from models.network import tensor

TEXT = [tensor("ids", ["n", "t"], TensorProto.INT64), tensor("attention_mask", ["n", "t"], TensorProto.INT64)]


def inputs(*values: onnx.ValueInfoProto) -> list[ir.Value]:
    graph = helper.make_graph([], "g", values, [])
    return list(ir.serde.deserialize_graph(graph).inputs)


def written(folder: Path, name: str = "data.npz", **arrays: NDArray[np.generic]) -> Path:
    path = folder / name
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


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
