"""Models with data files: they come back under their names, and nothing outside of them is read."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer import Request, compress, lossless, restore
from onnx_compress.optimizer.errors import CompressError, UsageError, VerificationError
from onnx_compress.optimizer.lossless_restore import read_recipe, verified
from onnx_compress.optimizer.lossless_source import COMPARED_BYTES, Source
from onnx_compress.optimizer.lossless_tensors import Coder
from onnx_compress.optimizer.protos import read_model
from onnx_compress.optimizer.recipe import COPY_MODEL
from onnx_compress.runtime import session

from tests.lossless_models import (
    COLUMNS,
    ROWS,
    constant_model,
    matmul_model,
    plain_options,
    pressed,
    sha,
    weight,
)


def external_model(folder: Path) -> Path:
    """Weights in a data file, with a gap before the second, and a small tensor there too."""
    model = matmul_model(weight(1), weight(2))
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3, dtype=np.int64), "small"))
    model.graph.node.append(helper.make_node("Identity", ["small"], ["s"]))
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [3]))
    data = bytearray(b"head")
    for tensor in model.graph.initializer:
        data += b"\0" * (-len(data) % 64)
        entries = {"location": "weights.bin", "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    (folder / "weights.bin").write_bytes(data + b"tail")
    path = folder / "in.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("inline", [True, False])
def test_external_data_comes_back_under_its_names(tmp_path: Path, inline: bool) -> None:
    source, out = external_model(tmp_path), tmp_path / "there"
    out.mkdir()
    compress(source, tmp_path / "out.onnx", Request(lossless=True, external_data=not inline))
    found = session(tmp_path / "out.onnx", plain_options()).run(None, {"x": weight(4, (1, ROWS))})
    expected = ort.InferenceSession(source, plain_options(), providers=["CPUExecutionProvider"]).run(None, {"x": weight(4, (1, ROWS))})
    assert all(one.tobytes() == other.tobytes() for one, other in zip(found, expected, strict=True))
    restore(tmp_path / "out.onnx", out / "again.onnx")
    assert sha(out / "again.onnx") == sha(source)
    assert sha(out / "weights.bin") == sha(tmp_path / "weights.bin")


def as_external(folder: Path, model: onnx.ModelProto, **entries: str) -> Path:
    """A model of one weight whose bytes are in weights.bin; `entries` of external_data as given."""
    (tensor,) = model.graph.initializer
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    for key, value in ({"location": "weights.bin", "length": str(len(tensor.raw_data))} | entries).items():
        tensor.external_data.add(key=key, value=value)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    path = folder / "in.onnx"
    onnx.save(model, path)
    return path


def test_data_that_no_form_makes_smaller_is_held_once(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 1_000_000, np.uint8)
    source, out = as_external(tmp_path, constant_model(noise.shape, noise.tobytes(), TensorProto.UINT8)), tmp_path / "there"
    out.mkdir()
    report = compress(source, tmp_path / "out.onnx", Request(lossless=True))
    assert report.bytes_after < 1.01 * report.bytes_before
    restore(tmp_path / "out.onnx", out / "again.onnx")
    assert sha(out / "again.onnx") == sha(source)
    assert sha(out / "weights.bin") == sha(tmp_path / "weights.bin")


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("entries", [{"offset": "-64"}, {"offset": str(1 << 62)}, {"length": "49153"}], ids=str)
def test_places_outside_of_a_data_file_are_refused(tmp_path: Path, entries: dict[str, str], inline: bool) -> None:
    source = as_external(tmp_path, constant_model((ROWS, COLUMNS), weight().tobytes(), TensorProto.FLOAT), **entries)
    with pytest.raises(CompressError, match=r"weights\.bin has 49,152 bytes, and .* are asked for: .* copy or export it again"):
        compress(source, tmp_path / "out.onnx", Request(lossless=True, external_data=not inline))
    assert not (tmp_path / "out.onnx").exists()


def test_places_outside_of_a_data_file_are_not_read_when_it_is_judged(tmp_path: Path) -> None:
    source = as_external(tmp_path, constant_model((ROWS, COLUMNS), weight().tobytes(), TensorProto.FLOAT), offset="-64")
    with Source(source) as held, ThreadPoolExecutor(1) as pool:
        packed = Coder(held, Request(lossless=True), pool, None).pack(read_model(held.data), lambda _: None)
    assert [(name, size) for name, _, size in packed.left_alone] == [("w", 49_152)]


OUTSIDE = r"out\.onnx has [0-9,]* bytes, and .* are asked for"


@pytest.mark.parametrize(
    ("change", "said"), [({"size": 1 << 60}, r"its record says how to make [0-9,]* bytes of"), ({"at": 1 << 60}, OUTSIDE), ({"at": -64}, OUTSIDE)], ids=str
)
def test_a_record_of_places_outside_of_the_file_is_refused(tmp_path: Path, change: dict[str, int], said: str) -> None:
    source, target, _ = pressed(tmp_path, matmul_model(weight()).SerializeToString())
    recipe = read_recipe(target)
    payloads = replace(recipe, payloads=tuple(replace(place, **change) for place in recipe.payloads))
    (file,) = recipe.files
    copies = replace(recipe, files=(replace(file, segments=tuple(replace(one, **change) if one.kind == COPY_MODEL else one for one in file.segments)),))
    for bad, reason in ((payloads, OUTSIDE), (copies, said)):
        with Source(source) as original, pytest.raises(CompressError, match=reason):
            verified(target, bad, original, 1)


def test_a_taken_name_of_a_data_file_is_refused_or_renamed(tmp_path: Path) -> None:
    source = external_model(tmp_path)
    compress(source, tmp_path / "out.onnx", Request(lossless=True))
    with pytest.raises(UsageError, match=r"weights\.bin exists already.*--rename-data"):
        restore(tmp_path / "out.onnx", tmp_path / "again.onnx")
    report = restore(tmp_path / "out.onnx", tmp_path / "again.onnx", rename_data=True)
    assert "differs" in report.note  # type: ignore[union-attr]
    found = ort.InferenceSession(tmp_path / "again.onnx", plain_options(), providers=["CPUExecutionProvider"])
    assert len(found.run(None, {"x": weight(4, (1, ROWS))})) == 3
    assert sha(tmp_path / "weights.bin") == hashlib.sha256((tmp_path / "again.onnx.0.data").read_bytes()).hexdigest()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("change", "said"), [(b"\x01", "is not what the compressed file decodes to"), (b"", "has .* bytes now and had")], ids=["changed", "longer"])
def test_an_original_that_changes_while_it_is_compressed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes, said: str, threads: int
) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(data := matmul_model(weight()).SerializeToString())
    pack = Coder.pack

    def packed_and_changed(coder: Coder, *given: object) -> object:
        done = pack(coder, *given)  # type: ignore[arg-type]
        with source.open("r+b") as file:
            file.seek(data.index(weight().tobytes()) + 1000 if change else len(data))
            file.write(change or b"more")
        return done

    monkeypatch.setattr(Coder, "pack", packed_and_changed)
    with pytest.raises(VerificationError, match=said):
        compress(source, tmp_path / "out.onnx", Request(lossless=True, threads=threads))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.onnx"]


def test_a_record_that_reads_otherwise_than_it_was_written_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossless, "read_recipe", lambda path: replace(read_recipe(path), literals=b""))
    with pytest.raises(VerificationError, match="reads otherwise than it was written"):
        pressed(tmp_path, matmul_model(weight()).SerializeToString())
    assert not (tmp_path / "out.onnx").exists()


def test_bytes_are_compared_with_those_of_a_file_in_blocks(tmp_path: Path) -> None:
    content = np.random.default_rng(5).bytes(2 * COMPARED_BYTES + 77)
    (tmp_path / "any.onnx").write_bytes(content)
    with Source(tmp_path / "any.onnx") as held:
        assert held.holds("", 5, content[5:])
        assert held.holds("", 70, memoryview(content)[70:90])
        assert not held.holds("", 4, content[5:])
        assert not held.holds("", 5, content[5:] + b"1")
        for at in (0, COMPARED_BYTES - 1, COMPARED_BYTES, len(content) - 1):
            assert not held.holds("", 0, content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
