"""Files: external data without orphan bytes, under its final name, with an identity; sizes over all files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx.external_data_helper import ExternalDataInfo
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.errors import CompressError
from onnx_compress.optimizer.save import ALIGNMENT, IDENTITY_BYTES, IDENTITY_KEY, MAGIC
from onnx_compress.runtime import session

from models.storage import plain, write_external
from models.structures import STRUCTURES, feeds
from tests.outcomes import WINDOW, compressed, compressed_file, nodes, run


def references(path: Path) -> Iterator[ExternalDataInfo]:
    """Where the external tensors of a model are."""
    model = onnx.load(path, load_external_data=False)
    yield from (ExternalDataInfo(one) for one in model.graph.initializer if one.external_data)


def identity(path: Path) -> str:
    return next(entry.value for entry in onnx.load(path, load_external_data=False).metadata_props if entry.key == IDENTITY_KEY)


def check_data_file(target: Path) -> None:
    """Every byte of the data file belongs to the identity, to alignment, or to exactly one tensor."""
    data = target.with_name(f"{target.name}.data")
    content, at = data.read_bytes(), IDENTITY_BYTES
    found = sorted(references(target), key=lambda one: one.offset or 0)
    assert {one.location for one in found} == {data.name}
    for one in found:
        offset, length = one.offset or 0, one.length or 0
        assert offset % ALIGNMENT == 0
        assert 0 <= offset - at < ALIGNMENT
        assert not any(content[at:offset])
        at = offset + length
    assert at == len(content)
    assert content[: len(MAGIC)] == MAGIC
    assert content[len(MAGIC) : IDENTITY_BYTES].hex() == identity(target)


@pytest.mark.parametrize("name", ["plain", "tied_transformer", "loop_body", "bfloat16_cast", "float16_activations", "odd_shapes"])
def test_external_data_holds_every_byte_once(tmp_path: Path, name: str) -> None:
    outcome = compressed(tmp_path, STRUCTURES[name](0), 4, external_data=True)
    check_data_file(outcome.target)
    assert 4 <= outcome.report.ratio <= 4 * WINDOW
    outcome.check(tolerance=4e-3 if name == "float16_activations" else 1e-4)


def test_large_payloads_are_external_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_compress.optimizer.save.EXTERNAL_FROM_BYTES", 50_000)
    outcome = compressed(tmp_path, plain(0), 4)
    check_data_file(outcome.target)
    assert 4 <= outcome.report.ratio <= 4 * WINDOW
    small = compressed(tmp_path, plain(0), 8)
    assert not (tmp_path / "out.onnx.data").exists()
    assert not list(references(small.target))


def test_payloads_stay_inline_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_compress.optimizer.save.EXTERNAL_FROM_BYTES", 50_000)
    outcome = compressed(tmp_path, plain(0), 4, external_data=False)
    assert not list(references(outcome.target))


def test_what_cannot_be_inline_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_compress.optimizer.save.PROTOBUF_LIMIT_BYTES", 50_000)
    onnx.save(plain(0), tmp_path / "in.onnx")
    with pytest.raises(CompressError, match="do not fit into one"):
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=4, external_data=False))
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


def test_there_is_no_data_file_where_everything_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_compress.optimizer.save.KEPT_INLINE_BYTES", 10**6)
    outcome = compressed(tmp_path, plain(0), 4, external_data=True)
    assert not (tmp_path / "out.onnx.data").exists()
    outcome.check()


def test_the_data_file_of_another_model_is_recognised(tmp_path: Path) -> None:
    first = compressed(tmp_path, plain(0), 4, external_data=True)
    foreign = tmp_path / "other"
    foreign.mkdir()
    compressed(foreign, plain(1), 4, external_data=True)
    (tmp_path / "out.onnx.data").write_bytes((foreign / "out.onnx.data").read_bytes())
    with pytest.raises(CompressError, match="belongs to another model"):
        restore(first.target, tmp_path / "again.onnx")


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, plain(0), 4, external_data=True)
    (tmp_path / "out.onnx.data").unlink()
    with pytest.raises(CompressError, match=r"out\.onnx\.data.* put it beside the model"):
        restore(outcome.target, tmp_path / "again.onnx")


def test_a_pair_can_be_moved_together(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, plain(0), 4, external_data=True)
    feed = feeds(outcome.original, 0)
    (before,) = run(session(outcome.target), feed)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("out.onnx", "out.onnx.data"):
        (tmp_path / name).rename(moved / name)
    assert (run(session(moved / "out.onnx"), feed)[0] == before).all()
    restore(moved / "out.onnx", moved / "plain.onnx")


@pytest.mark.parametrize("one_file", [True, False])
def test_sizes_are_counted_over_all_files_of_the_input(tmp_path: Path, one_file: bool) -> None:
    source = write_external(plain(0), tmp_path / "in.onnx", one_file)
    outcome = compressed_file(source, 4)
    assert outcome.report.bytes_before == sum(file.stat().st_size for file in tmp_path.glob("in.onnx*"))
    assert 4 <= outcome.report.ratio <= 4 * WINDOW
    outcome.check()


def test_the_input_and_its_data_are_left_as_they_are(tmp_path: Path) -> None:
    source = write_external(plain(0), tmp_path / "in.onnx", one_file=False)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    compressed_file(source, 4, external_data=True)
    assert {file: file.read_bytes() for file in before} == before


def test_a_second_compression_replaces_the_whole_data_file(tmp_path: Path) -> None:
    compressed(tmp_path, plain(0), 2, external_data=True)
    size = (tmp_path / "out.onnx.data").stat().st_size
    outcome = compressed(tmp_path, plain(0), 8, external_data=True)
    check_data_file(outcome.target)
    assert (tmp_path / "out.onnx.data").stat().st_size < size / 2


def test_a_replacement_without_a_data_file_takes_the_old_one_away(tmp_path: Path) -> None:
    compressed(tmp_path, plain(0), 4, external_data=True)
    outcome = compressed(tmp_path, plain(0), 4)
    assert not (tmp_path / "out.onnx.data").exists()
    outcome.check()


def test_the_metadata_says_what_wrote_the_file(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, plain(0), 4)
    found = {entry.key: entry.value for entry in onnx.load(outcome.target).metadata_props}
    assert found["onnx_compress.format"] == "0.4"
    assert found["onnx_compress.package"].startswith("pip install onnx-compress")
    assert all(opset.version == 1 for opset in onnx.load(outcome.target).opset_import if opset.domain == "onnx_compress")
    assert any(node.domain for node in nodes(onnx.load(outcome.target).graph))
