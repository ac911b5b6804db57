"""The operator library: what it exports, where it is found, its decoder, and `session`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from onnx_compress.passes import writer
from onnx_compress.runtime import library, library_path, session
from onnx_compress.runtime.errors import CorruptionError, FormatError, TruncatedError, UnsupportedVersionError
from onnx_compress.runtime.form import Member, Symbols, View
from onnx_compress.runtime.reader import read_header
from onnx_compress.runtime.session import FORMAT_KEY, FORMAT_VERSION
from operator_models import linear, model, node, weight

EXPORTED = {"RegisterCustomOps", "onnx_compress_version", "onnx_compress_decode"}


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("nm") is None, reason="needs nm")
def test_exactly_three_symbols_are_exported() -> None:
    listing = subprocess.run(["nm", "-D", "--defined-only", library_path()], check=True, capture_output=True, text=True).stdout
    assert {line.split()[-1] for line in listing.splitlines()} == EXPORTED


def test_importing_the_runtime_loads_neither_onnx_nor_numba() -> None:
    check = "import sys, onnx_compress.runtime; sys.exit(bool({'onnx', 'numba', 'onnx_ir'} & set(sys.modules)))"
    folder = Path(__file__).resolve().parent.parent / ".typing"
    subprocess.run([sys.executable, "-c", check], check=True, env={"PYTHONPATH": str(folder)})


def test_a_missing_library_is_an_error_that_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "_HERE", tmp_path / "runtime")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(library, "_installed_places", list)
    with pytest.raises(library.LibraryNotFoundError, match=r"neither in .*runtime.*pip install"):
        library_path()


def test_the_version_is_a_version() -> None:
    assert library.library_version()[0].isdigit()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_decode_gives_the_tensor(dtype: type) -> None:
    made = weight(linear(130, 70), dtype={np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}[dtype])
    assert np.array_equal(library.decode(made.payload.tobytes(), np.empty((70, 130), dtype)), made.tensor)


@pytest.mark.parametrize("count", [12, 13])
def test_4_bit_integers_come_one_a_byte_or_packed(count: int) -> None:
    levels = np.random.default_rng(0).integers(-8, 8, (1, 1, count)).astype(np.int32)
    payload = writer.write(Member(TensorProto.INT4, View((count,), (0,), 1, 1), Symbols(levels)))
    assert np.array_equal(library.decode(payload, np.empty(count, np.int8)), levels.reshape(-1))
    halves = np.append(levels.reshape(-1) & 15, 0)
    packed = halves[: count + count % 2 : 2] | halves[1 : count + count % 2 : 2] << 4
    assert np.array_equal(library.decode(payload, np.empty((count + 1) // 2, np.uint8)), packed)


def test_parts_are_decoded_to_their_places_and_nothing_else_is_touched() -> None:
    made = weight(linear(700, 130))
    out = np.full_like(made.tensor, np.nan)
    library.decode(made.payload, out, part=(1, 3))
    there = ~np.isnan(out)
    assert 0 < there.sum() < out.size
    assert np.array_equal(out[there], made.tensor[there])
    for number in (0, 2):
        library.decode(made.payload, out, part=(number, 3))
    assert np.array_equal(out, made.tensor)
    with pytest.raises(ValueError, match="part 3 of 3"):
        library.decode(made.payload, out, part=(3, 3))


def test_errors_of_the_decoder_are_those_of_the_reader() -> None:
    payload, out = weight(linear(130, 70)).payload, np.empty((70, 130), np.float32)
    flipped = payload.copy()
    flipped[read_header(payload).header_bytes + 5] ^= 1
    draft = payload.copy()
    draft[2] = 200
    for data, error in ((flipped, CorruptionError), (draft, UnsupportedVersionError), (payload[:-1], TruncatedError), (np.append(payload, 0), FormatError)):
        with pytest.raises(error):
            library.decode(data.astype(np.uint8), out)


@pytest.mark.parametrize(("out", "member", "message"), [
    (np.empty(3, np.float32), 0, "the output has 12 bytes, expected 36400"),
    (np.empty((70, 130), np.float32), 4, "member 4 of a payload that has 1"),
    (np.empty((130, 70), np.float32).T, 0, "C-contiguous"),
])  # fmt: skip
def test_bad_arguments_are_value_errors(out: np.ndarray, member: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        library.decode(weight(linear(130, 70)).payload, out, member)
    assert not isinstance(caught.value, FormatError)


def saved(folder: Path, version: str) -> Path:
    made = weight(linear(70, 40))
    proto = model([node("CompressedMatMul", ["x", "w"])], {"x": np.zeros((1, 40), np.float32)}, {"w": made.payload}, TensorProto.FLOAT)
    proto.metadata_props.add(key=FORMAT_KEY, value=version)
    path = folder / "model.onnx"
    onnx.save(proto, path)
    return path


def test_session_runs_a_compressed_model_twice_with_the_same_options(tmp_path: Path) -> None:
    path, options = saved(tmp_path, FORMAT_VERSION), onnxruntime.SessionOptions()
    for _ in range(2):
        outputs = session(path, options, verify_checksums=True).run(None, {"x": np.ones((2, 40), np.float32)})
        assert outputs[0].shape == (2, 70)


def test_session_refuses_another_draft_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedVersionError, match=rf"payload format 0.7, this onnx-compress reads {FORMAT_VERSION}: install"):
        session(saved(tmp_path, "0.7"))
