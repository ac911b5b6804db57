"""A model's files appear whole or not at all; its size counts all of them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.optimizer.files import Workspace, check_target, data_name, model_bytes, model_files


def save_model(path: Path, external: str | None = None) -> Path:
    """One MatMul with 4 KB of weights, beside the model if `external` names a file."""
    weight = numpy_helper.from_array(np.arange(1024, dtype=np.float32).reshape(32, 32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 32]) for name in "xy")
    model = helper.make_model(helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight]))
    if external:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save(model, path)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_model(tmp_path / "in.onnx")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_size_of_a_model_counts_its_external_data(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", "weights.bin")
    assert model_files(path) == (path, tmp_path / "weights.bin")
    assert model_bytes(path) == path.stat().st_size + 4096


def test_a_data_file_that_only_a_branch_uses_is_counted(tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "inner")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    inner = helper.make_graph([helper.make_node("Identity", ["inner"], ["z"])], "b", [], [helper.make_tensor_value_info("z", 1, [4])], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [y]))
    for branch in model.graph.node[0].attribute:
        onnx.external_data_helper.set_external_data(branch.g.initializer[0], "inner.bin", 0, 16)
        branch.g.initializer[0].ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "inner.bin").write_bytes(bytes(16))
    assert model_files(tmp_path / "m.onnx")[1:] == (tmp_path / "inner.bin",)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.onnx", "weights.bin")
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(CompressError, match=r"weights\.bin of .*m\.onnx is missing"):
        model_bytes(path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08" * 100], ids=["empty", "text", "bytes"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "junk.onnx").write_bytes(content)
    with pytest.raises(CompressError, match=r"junk\.onnx is no ONNX model"):
        model_bytes(tmp_path / "junk.onnx")


def test_an_existing_output_is_refused_without_force_and_taken_with_it(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("old")
    with pytest.raises(UsageError, match=r"out\.onnx exists already.*-f"):
        check_target(source, target, force=False)
    check_target(source, target, force=True)


def test_an_existing_data_file_of_the_output_is_refused_too(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx.data").write_text("old")
    with pytest.raises(UsageError, match=r"out\.onnx\.data exists already"):
        check_target(source, tmp_path / "out.onnx", force=False)


@pytest.mark.parametrize("way", ["itself", "dots", "symlink", "hardlink", "symlinked folder"])
def test_the_input_is_never_the_output_by_whatever_name(source: Path, tmp_path: Path, way: str) -> None:
    target = tmp_path / "out.onnx"
    if way == "itself":
        target = source
    elif way == "dots":
        (tmp_path / "sub").mkdir()
        target = tmp_path / "sub" / ".." / "in.onnx"
    elif way == "symlink":
        target.symlink_to(source)
    elif way == "hardlink":
        target.hardlink_to(source)
    else:
        (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
        target = tmp_path / "link" / "in.onnx"
    with pytest.raises(UsageError, match="never changed"):
        check_target(source, target, force=True)


def test_a_data_file_of_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = save_model(tmp_path / "in.onnx", "out.onnx.data")
    (tmp_path / "out.onnx").write_text("old")
    with pytest.raises(UsageError, match=r"would destroy .*out\.onnx\.data, a data file of the input"):
        check_target(source, tmp_path / "out.onnx", force=True)
    with pytest.raises(UsageError, match="would destroy"):
        check_target(source, tmp_path / "out.onnx.data", force=True)


@pytest.mark.parametrize(
    ("target", "message"),
    [("none/out.onnx", "folder .*none of the output does not exist"), ("in.onnx/out.onnx", "is a file, no folder"), (".", "is a folder")],
)
def test_a_folder_that_cannot_hold_the_output_is_named(source: Path, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_target(source, source.parent / target, force=True)


def test_a_device_is_never_replaced(source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="no regular file"):
        check_target(source, tmp_path / "pipe", force=True)


def test_both_files_appear_under_their_final_names_and_nothing_else(source: Path, tmp_path: Path) -> None:
    with Workspace(source, tmp_path / "out.onnx") as work:
        assert work.model.name == "out.onnx"
        assert work.data.name == data_name(Path("out.onnx"))
        assert work.model.parent.parent == tmp_path
        work.model.write_text("model")
        work.data.write_text("data")
        assert not (tmp_path / "out.onnx").exists()
        work.publish()
    assert names(tmp_path) == ["in.onnx", "out.onnx", "out.onnx.data"]


def test_the_data_file_is_moved_before_the_model(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    replace = os.replace

    def record(old: Path, new: Path) -> None:
        moved.append(Path(new).name)
        replace(old, new)

    monkeypatch.setattr(os, "replace", record)
    with Workspace(source, tmp_path / "out.onnx") as work:
        work.model.write_text("model")
        work.data.write_text("data")
        work.publish()
    assert moved == ["out.onnx.data", "out.onnx"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, None])
def test_nothing_is_left_when_the_block_ends_without_publishing(source: Path, tmp_path: Path, error: type[BaseException] | None) -> None:
    def work_and_fail() -> None:
        with Workspace(source, tmp_path / "out.onnx") as work:
            work.model.write_text("half a model")
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work_and_fail()
    else:
        work_and_fail()
    assert names(tmp_path) == ["in.onnx"]


def test_an_old_output_survives_a_failure(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_text("old")
    with pytest.raises(RuntimeError), Workspace(source, tmp_path / "out.onnx", force=True) as work:
        work.model.write_text("new")
        raise RuntimeError
    assert (tmp_path / "out.onnx").read_text() == "old"
    assert names(tmp_path) == ["in.onnx", "out.onnx"]


def test_the_data_file_of_a_replaced_model_does_not_stay_behind(source: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "out.onnx", "out.onnx.data")
    with Workspace(source, tmp_path / "out.onnx", force=True) as work:
        save_model(work.model)
        work.publish()
    assert names(tmp_path) == ["in.onnx", "out.onnx"]


def test_a_neighbour_that_the_replaced_model_does_not_use_stays(source: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "out.onnx")
    (tmp_path / "out.onnx.data").write_text("somebody else's")
    with Workspace(source, tmp_path / "out.onnx", force=True) as work:
        save_model(work.model)
        work.publish()
    assert (tmp_path / "out.onnx.data").read_text() == "somebody else's"


def test_an_output_that_appears_meanwhile_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), Workspace(source, tmp_path / "out.onnx") as work:
        work.model.write_text("new")
        (tmp_path / "out.onnx").write_text("another program's")
        work.publish()
    assert (tmp_path / "out.onnx").read_text() == "another program's"
    assert names(tmp_path) == ["in.onnx", "out.onnx"]


def test_a_dry_run_touches_neither_the_folder_nor_an_existing_output(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_text("old")
    with Workspace(source, tmp_path / "out.onnx", dry_run=True) as work:
        work.model.write_text("new")
        folder = work.model.parent
        work.publish()
        assert names(tmp_path) == ["in.onnx", "out.onnx"]
    assert (tmp_path / "out.onnx").read_text() == "old"
    assert not folder.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(source: Path, tmp_path: Path, code: int) -> None:
    with pytest.raises(CompressError, match=r"disk of .* is full \(after 4 bytes"), Workspace(source, tmp_path / "out.onnx") as work:
        work.model.write_text("half")
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == ["in.onnx"]


def test_other_errors_pass_through_unchanged(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="numpy failed"), Workspace(source, tmp_path / "out.onnx"):
        raise OSError("numpy failed")


def may_mount() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mounting a small tmpfs needs root and unshare")
@pytest.mark.parametrize(("options", "message"), [("size=64k", "is full"), ("ro", "nothing can be written in the folder")])
def test_a_disk_that_is_really_full_or_read_only_is_one_sentence(source: Path, tmp_path: Path, options: str, message: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    code = (
        "import sys; from pathlib import Path; from onnx_compress.optimizer.files import Workspace\n"
        "try:\n"
        "    with Workspace(Path(sys.argv[1]), Path(sys.argv[2]) / 'out.onnx') as work:\n"
        "        work.model.write_bytes(bytes(1 << 20)); work.publish()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print('left', sorted(p.name for p in Path(sys.argv[2]).iterdir()))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    command = 'mount -t tmpfs -o "$1" tmpfs "$2" && exec "$3" "$4" "$5" "$2"'
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", options, str(disk), sys.executable, str(script), str(source)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout.startswith("CompressError"), run
    assert message in run.stdout
    assert "left []" in run.stdout
