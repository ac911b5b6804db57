"""Every case of bad input: one sentence that names what, where and the remedy; its exit code; nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_compress.optimizer.cli import main

from tests.bad_places import Place, contents, save_model


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    save_model(tmp_path / "in.onnx")
    return Place(tmp_path, capsys)


def test_a_missing_input(place: Place) -> None:
    place.refuses_compression("none.onnx", 2, "none.onnx", "does not exist")


def test_an_input_that_is_a_folder(place: Place) -> None:
    place.path("folder").mkdir()
    place.refuses_compression("folder", 2, "folder")


@pytest.mark.parametrize("content", [b"", b"\x00" * 5000, b"PK\x03\x04 a zip file", b"<html>404 not found</html>"], ids=["empty", "zeros", "zip", "html"])
def test_an_input_that_is_no_model(place: Place, content: bytes) -> None:
    place.path("junk.onnx").write_bytes(content)
    place.refuses_compression("junk.onnx", 1, "junk.onnx")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_model(place: Place, kept: float) -> None:
    content = place.path("in.onnx").read_bytes()
    place.path("cut.onnx").write_bytes(content[: int(len(content) * kept)])
    place.refuses_compression("cut.onnx", 1, "cut.onnx")


def test_a_model_whose_external_data_is_missing(place: Place) -> None:
    onnx.save(onnx.load(place.path("in.onnx")), place.path("ext.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    place.path("w.bin").unlink()
    place.refuses_compression("ext.onnx", 1, "w.bin")


@pytest.mark.parametrize("ratio", ["0.5", "0", "nan", "1e9", "-3", "many"])
def test_an_impossible_ratio(place: Place, ratio: str) -> None:
    place.refuses_compression("in.onnx", 2, "target ratio", more=("--target-ratio", ratio))


def test_a_target_that_cannot_be_met_says_what_stands_in_the_way(place: Place) -> None:
    place.refuses_compression("in.onnx", 3, "graph", more=("--target-ratio", "5000"))


def test_an_output_that_exists(place: Place) -> None:
    place.path("out.onnx").write_text("old")
    place.refuses_compression("in.onnx", 2, "out.onnx exists already", "-f")


def test_an_output_that_is_the_input(place: Place) -> None:
    place.refuses([place.path("in.onnx"), place.path("in.onnx"), "--target-ratio", "4", "-f"], 2, "never changed")


def test_an_output_in_a_folder_that_is_missing(place: Place) -> None:
    place.refuses([place.path("in.onnx"), place.path("none/out.onnx"), "--target-ratio", "4"], 2, "does not exist", "create it")


def may_mount() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mounting a small tmpfs needs root and unshare")
@pytest.mark.parametrize(("options", "sentence"), [("size=16k", "is full"), ("ro", "nothing can be written in the folder")])
def test_an_output_on_a_full_or_read_only_disk(place: Place, options: str, sentence: str) -> None:
    disk = place.path("disk")
    disk.mkdir()
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && "$3" -m onnx_compress.optimizer.cli "$4" "$2/out.onnx" --target-ratio 4; echo code $? left $(ls -A "$2")'
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", options, str(disk), sys.executable, str(place.path("in.onnx"))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(word for word in sys.path if word)},
    )
    assert run.stdout == "code 1 left\n", run
    assert sentence in run.stderr
    assert run.stderr.count("\n") == 1


@dataclass
class Explosive:
    """A pickle that would do harm."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harm",)

CALIBRATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, "data.npz"),
    "junk": (lambda path: path.write_text("no zip") and None, "data.npz"),
    "wrong name": (lambda path: np.savez(path, z=np.zeros((4, 64), np.float32)), "its inputs are x ("),
    "wrong shape": (lambda path: np.savez(path, x=np.zeros((4, 63), np.float32)), "63"),
    "wrong rank": (lambda path: np.savez(path, x=np.zeros((4, 8, 8), np.float32)), "x"),
    "wrong dtype": (lambda path: np.savez(path, x=np.array([["a"] * 64])), "x"),
    "nan": (lambda path: np.savez(path, x=np.full((4, 64), np.nan, np.float32)), "x"),
    "pickle": (lambda path: np.savez(path, x=np.array([Explosive()], object)), "data.npz"),
    "no samples": (lambda path: np.savez(path, x=np.zeros((0, 64), np.float32)), "sample"),
    "no arrays": (lambda path: np.savez(path), "data.npz"),
}


@pytest.mark.parametrize("case", CALIBRATIONS)
def test_calibration_data_that_does_not_fit(place: Place, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    write, sentence = CALIBRATIONS[case]
    write(place.path("data.npz"))
    code = 2 if case == "missing" else 1
    words = [place.path("in.onnx"), place.path("out.onnx"), "--target-ratio", "4", "--calibration", place.path("data.npz")]
    before = contents(place.folder)
    assert main([str(word) for word in words]) in {code, 2}
    errors = place.capture.readouterr().err
    assert errors.count("\n") == 1, errors
    assert "unexpected" not in errors
    assert sentence in errors
    assert contents(place.folder) == before


@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_a_regex_that_is_none(place: Place, option: str) -> None:
    place.refuses_compression("in.onnx", 2, "'fc[' is no regular expression", more=("--target-ratio", "4", option, "fc["))


@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_a_regex_that_matches_nothing(place: Place, option: str) -> None:
    place.refuses_compression("in.onnx", 2, "conv", more=("--target-ratio", "4", option, "conv"))


def test_an_input_shape_for_an_input_that_does_not_exist(place: Place) -> None:
    place.refuses_compression("in.onnx", 2, "z=1,64", more=("--target-ratio", "4", "--input-shape", "z=1,64"))


def test_a_model_without_float_weights(place: Place) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info("x", 1, [4])], [info("y", 1, [4])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), place.path("none.onnx"))
    place.refuses_compression("none.onnx", 2, "none.onnx", "no weights")


def test_a_model_that_onnxruntime_cannot_load(place: Place) -> None:
    save_model(place.path("strange.onnx"), domain="com.example")
    place.refuses_compression("strange.onnx", 1, "strange.onnx", "onnxruntime")


def test_a_plain_model_is_neither_restored_nor_inspected(place: Place) -> None:
    place.refuses(["restore", place.path("in.onnx"), place.path("out.onnx")], 2, "not written by onnx-compress")
    place.refuses(["inspect", place.path("in.onnx")], 2, "not written by onnx-compress")


def test_a_divergence_above_the_allowed_one_is_exit_code_4(place: Place) -> None:
    place.refuses_compression("in.onnx", 4, "1e-09", more=("--target-ratio", "20", "--max-divergence", "1e-9"))
