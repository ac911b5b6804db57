"""Compressed files that are damaged, mixed up, or asked for what they cannot do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx_compress.optimizer.cli import main

from tests.bad_places import Place, save_model


@pytest.fixture(scope="session")
def compressed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in.onnx, and its compressed form inline (c.onnx) and with external data (e.onnx)."""
    folder = tmp_path_factory.mktemp("compressed")
    save_model(folder / "in.onnx")
    assert main([str(folder / "in.onnx"), str(folder / "c.onnx"), "--target-ratio", "4", "-q"]) == 0
    for seed, name in ((0, "e.onnx"), (1, "other.onnx")):
        source = save_model(folder / f"source{seed}.onnx", seed)
        assert main([str(source), str(folder / name), "--target-ratio", "4", "-q", "--external-data"]) == 0
    return folder


@pytest.fixture
def compressed(compressed_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    shutil.copytree(compressed_folder, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path, capsys)


def test_a_compressed_model_is_not_compressed_again(compressed: Place) -> None:
    compressed.refuses_compression("c.onnx", 2, "c.onnx", "compressed")


def largest(model: onnx.ModelProto) -> onnx.TensorProto:
    return max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Rewrites the largest payload of an inline model."""
    model = onnx.load(path)
    tensor = largest(model)
    tensor.raw_data = change(tensor.raw_data)
    tensor.dims[0] = len(tensor.raw_data)
    onnx.save(model, path)


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 16]) + data[len(data) // 2 + 1 :]

DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "flipped bit": (flipped, "checksum"),
    "truncated": (lambda data: data[:-20], "bytes"),
    "unknown draft": (lambda data: data[:2] + b"\x63" + data[3:], "draft 99"),
    "no payload": (lambda data: bytes(len(data)), "no onnx-compress payload"),
}


@pytest.mark.parametrize("case", DAMAGES)
@pytest.mark.parametrize("command", ["restore", "inspect", "verify"])
def test_a_damaged_payload(compressed: Place, command: str, case: str) -> None:
    change, sentence = DAMAGES[case]
    damage(compressed.path("c.onnx"), change)
    words: dict[str, list[str | Path]] = {
        "restore": ["restore", compressed.path("c.onnx"), compressed.path("dense.onnx")],
        "inspect": ["inspect", compressed.path("c.onnx")],
        "verify": ["verify", compressed.path("in.onnx"), compressed.path("c.onnx")],
    }
    compressed.refuses(words[command], 1, "c.onnx", sentence)


@pytest.mark.parametrize("command", ["restore", "inspect"])
def test_the_data_file_of_another_model(compressed: Place, command: str) -> None:
    shutil.copy(compressed.path("other.onnx.data"), compressed.path("e.onnx.data"))
    more = [compressed.path("dense.onnx")] if command == "restore" else []
    compressed.refuses([command, compressed.path("e.onnx"), *more], 1, "belongs to another model")


@pytest.mark.parametrize("command", ["restore", "inspect"])
def test_a_data_file_that_is_missing(compressed: Place, command: str) -> None:
    compressed.path("e.onnx.data").unlink()
    more = [compressed.path("dense.onnx")] if command == "restore" else []
    compressed.refuses([command, compressed.path("e.onnx"), *more], 1, "e.onnx.data", "beside the model")


def test_a_file_of_an_unknown_format(compressed: Place) -> None:
    model = onnx.load(compressed.path("c.onnx"))
    next(entry for entry in model.metadata_props if entry.key == "onnx_compress.format").value = "7.3"
    onnx.save(model, compressed.path("c.onnx"))
    compressed.refuses(["restore", compressed.path("c.onnx"), compressed.path("dense.onnx")], 1, "format 7.3", "install")


def test_a_verification_against_another_model(compressed: Place) -> None:
    compressed.refuses(["verify", compressed.path("source1.onnx"), compressed.path("c.onnx"), "--max-divergence", "1e-6"], 4)


def test_a_session_without_the_library_names_our_operators(compressed: Place) -> None:
    with pytest.raises(Exception, match="onnx_compress"):
        onnxruntime.InferenceSession(compressed.path("c.onnx"), providers=["CPUExecutionProvider"])
