"""The files of a model: which they are, how large they are, and how new ones appear, whole or not at all.

A model is written in a temporary folder beside its target, under its final name (the model names its data file), verified
there and then moved: data file first, model last. Whatever goes wrong before, nothing is left behind.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .errors import CompressError, UsageError
from .protos import data_locations
from .wire import mapped

if TYPE_CHECKING:
    import onnx_ir as ir

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
LEAST_FREE_BYTES = 65536
"""numpy's tofile reports a full disk without a number; with less than this free, that is what it was."""


def data_name(target: Path) -> str:
    """The name of the one external data file of a model called `target`."""
    return f"{target.name}.data"


def check_source(path: Path) -> None:
    """Raises UsageError where `path` is no file, CompressError where it is an empty one."""
    if not path.exists():
        raise UsageError(f"{path} does not exist: check the name and the folder")
    if not path.is_file():
        raise UsageError(f"{path} is no file: give the name of an .onnx file")
    if not path.stat().st_size:
        raise CompressError(f"{path} is no ONNX model (it is empty): export or copy it again")


def model_files(path: Path) -> tuple[Path, ...]:
    """The .onnx file and then all data files that it refers to, sorted. Raises UsageError, CompressError."""
    check_source(path)
    with mapped(path) as data:
        return (path, *(path.parent / location for location in sorted(data_locations(data))))


def model_bytes(path: Path) -> int:
    """Bytes of a model over all of its files. Raises UsageError, CompressError."""
    sizes = []
    for file in model_files(path):
        try:
            sizes.append(file.stat().st_size)
        except OSError:
            raise CompressError(
                f"the data file {file} of {path} is missing or cannot be read: put it where the model refers to, under that name"
            ) from None
    return sum(sizes)


def load_graph(path: Path) -> ir.Model:
    """The model at `path`; its external data is not read yet. Raises UsageError, CompressError."""
    import onnx_ir as ir

    check_source(path)
    try:
        model = ir.load(path)
    except OSError as error:
        raise CompressError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from None
    except Exception as error:  # protobuf and onnx_ir raise many kinds
        root = error
        while root.__cause__ is not None:
            root = root.__cause__  # type: ignore[assignment]
        if isinstance(root, NotImplementedError):
            raise CompressError(f"{path} holds what is not read here ({root}): only --lossless and restore look at no more than its weights") from error
        raise CompressError(f"{path} is no ONNX model, or only a part of one ({type(root).__name__}): export or copy it again") from error
    if not model.graph.outputs:  # much junk is a valid protobuf
        raise CompressError(f"{path} is no ONNX model (its graph has no outputs): export or copy it again")
    return model


def check_target(source: Path, target: Path, force: bool) -> None:
    """Refuses a target that cannot or must not be written, before any work is done. Raises UsageError, CompressError."""
    folder = target.parent
    if not folder.exists():
        raise UsageError(f"the folder {folder} of the output does not exist: create it first, or write elsewhere")
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, no folder: the output {target} cannot be in it")
    if target.is_dir():
        raise UsageError(f"the output {target} is a folder: give the name of a file, such as {target / 'out.onnx'}")
    if source.exists():
        _check_input_is_kept(source, target)
    for file in (target, target.with_name(data_name(target))):
        if not os.path.lexists(file):
            continue
        if not force:
            raise UsageError(f"{file} exists already: give another name for the output, or -f to replace it")
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise UsageError(f"{file} is no regular file, so it is not replaced: give another name for the output")


def _check_input_is_kept(source: Path, target: Path) -> None:
    """The input, its data files included, is never touched, by whatever name it goes."""
    written = [file for file in (target, target.with_name(data_name(target))) if file.exists()]
    if any(file.samefile(source) for file in written):
        raise UsageError(f"the output {target} is the input {source} itself, which is never changed: give another name for the output")
    if not written or not source.is_file():
        return
    for used in (file for file in model_files(source)[1:] if file.exists()):
        if any(file.samefile(used) for file in written):
            raise UsageError(f"writing {target} would destroy {used}, a data file of the input {source}: give another name for the output")


class Workspace:
    """A temporary folder beside the target: `with Workspace(source, target, force) as work: ...; work.publish()`.

    Write the model to `work.model` and its data file, if any, to `work.data`. Leaving the block without `publish` (on an error,
    Ctrl-C, SIGTERM) leaves nothing. A dry run works in the system's temporary folder and publishes nothing.
    Entering raises UsageError or CompressError where the target cannot be written; leaving turns a full disk into a CompressError.
    """

    def __init__(self, source: Path, target: Path, force: bool = False, dry_run: bool = False) -> None:
        self._source, self._target = Path(source), Path(target)
        self._force, self._dry_run = force, dry_run
        self._folder = Path()

    def __enter__(self) -> Self:
        if not self._dry_run:
            check_target(self._source, self._target, self._force)
        place = Path(tempfile.gettempdir()) if self._dry_run else self._target.parent
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=f".{self._target.name[:40]}.", suffix=".tmp", dir=place))
        except OSError as error:
            raise _write_error(error, place) from None
        return self

    @property
    def model(self) -> Path:
        """Where to write the model, under its final name."""
        return self._folder / self._target.name

    @property
    def data(self) -> Path:
        """Where to write the model's external data, under its final name."""
        return self._folder / data_name(self._target)

    @property
    def scratch(self) -> Path:
        """A folder for what does not fit into memory; nothing makes it but its user, and it goes with the workspace."""
        return self._folder / "scratch"

    def publish(self) -> None:
        """Moves what was written to its place: data file first, model last. Raises UsageError, CompressError."""
        if self._dry_run:
            return
        check_target(self._source, self._target, self._force)  # much time has passed
        try:
            for file in (file for file in (self.data, self.model) if file.exists()):
                _sync(file)
            stale = None if self.data.exists() else _stale_data(self._target)
            for file in (file for file in (self.data, self.model) if file.exists()):
                file.replace(self._target.with_name(file.name))
            if stale is not None:
                stale.unlink(missing_ok=True)
        except OSError as error:
            raise _write_error(error, self._target.parent) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        written = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        full = isinstance(error, OSError) and _is_full(error, self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        if full:
            raise CompressError(_full_sentence(self._folder.parent, written)) from error


def _sync(file: Path) -> None:
    """Makes the bytes reach the disk before the name does."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _stale_data(target: Path) -> Path | None:
    """The data file of the model that is about to be replaced, where it is that model's alone by its name."""
    data = target.with_name(data_name(target))
    if not (target.is_file() and data.is_file()):
        return None
    try:
        return data if data in model_files(target) else None
    except CompressError:  # what is replaced is no model: its neighbour is none of our business
        return None


def _is_full(error: OSError, folder: Path) -> bool:
    if error.errno is None:
        return shutil.disk_usage(folder).free < LEAST_FREE_BYTES
    return error.errno in DISK_FULL


def _full_sentence(folder: Path, written_bytes: int) -> str:
    return f"the disk of {folder} is full (after {written_bytes:,} bytes of the new model): free some space there, or write elsewhere"


def _write_error(error: OSError, folder: Path) -> CompressError:
    if error.errno in DISK_FULL:
        return CompressError(_full_sentence(folder, 0))
    return CompressError(f"nothing can be written in the folder {folder} ({error.strerror}): change its permissions, or write elsewhere")
