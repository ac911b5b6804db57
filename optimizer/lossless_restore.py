"""Restores a lossless file: its original, byte for byte, checked by the sha256 that was recorded before anything gets its name."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.errors import FormatError
from ..runtime.header import FORMAT_KEY, LOSSLESS_VERSION
from . import wire
from .errors import CompressError, UsageError, VerificationError
from .files import data_name
from .flush import Flushed
from .lossless_pieces import Sink, in_order, pieces_of
from .lossless_source import Source
from .protos import TENSOR_EXTERNAL, Tensor, metadata_entries, read_metadata, read_model
from .recipe import BEFORE_BYTES, RECIPE_KEY, Original, Recipe, unpack
from .splice import Edit, spans, with_lengths
from .wire import Data, Field


def read_recipe(path: Path) -> Recipe:
    """The recipe of a lossless file. Raises UsageError, CompressError."""
    with Source(path) as held:
        entries = {key: (value, place.start) for key, value, place in metadata_entries(held.data)}
        record, start = entries.get(RECIPE_KEY, ("", 0))
        before = bytes(held.data[max(0, start - BEFORE_BYTES) : start])
    if not record:
        raise UsageError(f"{path} was not written by onnx-compress --lossless: it has no record of its original")
    if (written := entries.get(FORMAT_KEY, ("none", 0))[0]) != LOSSLESS_VERSION:
        raise CompressError(f"{path} has payload format {written}, this version reads {LOSSLESS_VERSION} only: install the onnx-compress that wrote it")
    return unpack(record, before)


def is_lossless(path: Path) -> bool:
    """Whether a file says that it was compressed losslessly; false for what is no model at all."""
    try:
        with Source(path) as held:
            return RECIPE_KEY in read_metadata(held.data)
    except (CompressError, OSError, ValueError):
        return False


def verified(path: Path, recipe: Recipe, original: Source, threads: int) -> Recipe:
    """The same recipe with the sha256 of each original file: decodes everything from the file at `path`, which needs no record yet, and compares it with the
    originals, byte by byte. Raises VerificationError, CompressError."""
    with Source(path) as held:
        return replace(recipe, files=tuple(replace(file, sha256=_verified(held, recipe, file, original, threads)) for file in recipe.files))


def _verified(held: Source, recipe: Recipe, file: Original, original: Source, threads: int) -> bytes:
    where = _where(original, file)

    def compare(at: int, data: bytes | memoryview) -> None:
        if not original.holds(file.name, at, data):
            raise VerificationError(f"{where} is not what the compressed file decodes to, from byte {at:,} on: if nothing has changed it meanwhile, please report this as a bug")

    digest = _put_together(held, recipe, file, threads, compare)
    if original.size(file.name) != file.size:
        raise VerificationError(f"{where} has {original.size(file.name):,} bytes now and had {file.size:,}: let nothing write to it, and compress it again")
    return digest


def _put_together(held: Source, recipe: Recipe, file: Original, threads: int, sink: Sink) -> bytes:
    """Gives the bytes of an original file to `sink`, piece by piece, and gives their sha256. Raises CompressError."""
    digest = hashlib.sha256()
    try:
        with closing(in_order(pieces_of(held, recipe, file), threads, sink)) as pieces:  # after Ctrl-C, too, nobody stores any more
            for piece in pieces:
                digest.update(piece)
    except (FormatError, ValueError, IndexError, OverflowError) as error:
        raise CompressError(f"{_where(held, file)} cannot be restored ({error}): the file is damaged, copy it again") from error
    return digest.digest()


def _restore(held: Source, recipe: Recipe, file: Original, threads: int, sink: Sink) -> None:
    """The same, where the sha256 is the one that was recorded. Raises CompressError."""
    if _put_together(held, recipe, file, threads, sink) != file.sha256:
        raise CompressError(
            f"{_where(held, file)} cannot be restored: what it decodes to is not what was compressed (the checksum differs), so the file is damaged; copy it again"
        )


def _where(held: Source, file: Original) -> str:
    return f"{held.path}: {file.name or 'the model'}"


@dataclass(frozen=True, slots=True)
class LosslessRestored:
    """What was restored: the files, their bytes and those of the compressed model."""

    source: str
    target: str
    files: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    sha256: str
    note: str


def restore_lossless(source: Path, target: Path, force: bool, rename_data: bool, threads: int = 0) -> LosslessRestored:
    """Writes the original files; the model as `target`, its data files beside it under their own names. Raises UsageError, CompressError."""
    recipe = read_recipe(source)
    names = [file.name for file in recipe.files[1:]]
    renamed = {name: f"{target.name}.{number}.data" for number, name in enumerate(names)} if rename_data else {}
    places = [target, *(target.parent / renamed.get(name, name) for name in names)]
    _check_places(source, target, places, force, names)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".tmp", dir=target.parent))
    try:
        written = [folder / str(number) for number in range(len(places))]
        with Source(source) as held:
            for file, path in zip(recipe.files, written, strict=True):
                with Flushed(path) as opened:
                    _restore(held, recipe, file, threads or os.cpu_count() or 1, opened.store)
                    opened.sync()
            before = held.size() + (held.size(data_name(source)) if any(place.external for place in recipe.payloads) else 0)
        if renamed:
            _rename_locations(written[0], renamed)
        for path, place in reversed(list(zip(written, places, strict=True))):  # the model last
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    note = "the data files have new names, so the .onnx differs from the original in these names alone" if renamed else ""
    after = sum(file.size for file in recipe.files)
    return LosslessRestored(str(source), str(target), tuple(map(str, places)), before, after, "" if renamed else recipe.files[0].sha256.hex(), note)


def _check_places(source: Path, target: Path, places: list[Path], force: bool, names: list[str]) -> None:
    """Refuses names that are taken, or lie outside of the target's folder."""
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} of the output does not exist: create it first, or write elsewhere")
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CompressError(f"{source} would restore a data file to {name!r}, outside of the target's folder: use --rename-data")
    inputs = [file for file in (source, source.with_name(data_name(source))) if file.exists()]
    for place in places:
        if place.exists() and any(place.samefile(file) for file in inputs):
            raise UsageError(f"{place} is a file of the input itself, which is never changed: write to another folder")
        if os.path.lexists(place) and not (force and place.is_file()):
            remedy = "give another name for the output, or -f to replace it" if place == target else "write to another folder, or --rename-data"
            raise UsageError(f"{place} exists already: {remedy}")


def _rename_locations(path: Path, renamed: dict[str, str]) -> None:
    """Lets the tensors of a restored model refer to data files by their new names."""
    with Source(path) as held:
        model = read_model(held.data)
        edits = [edit for tensor, around in model.placed_tensors() for edit in _location_edits(held.data, tensor, around, renamed)]
        out = path.with_suffix(".renamed")
        with out.open("wb") as file:
            for span in spans(with_lengths(held.data, edits), len(held.data)):
                if isinstance(span, Edit):
                    file.writelines(one for one in span.new if isinstance(one, bytes))
                else:
                    file.writelines(held.blocks("", *span))
    out.replace(path)


def _location_edits(data: Data, tensor: Tensor, around: tuple[Field, ...], renamed: dict[str, str]) -> Iterator[Edit]:
    """The value of the entry `location` of an external tensor."""
    for entry in wire.fields(data, tensor.place.body, tensor.place.end):
        if entry.number != TENSOR_EXTERNAL:
            continue
        parts = {one.number: one for one in wire.fields(data, entry.body, entry.end)}
        if 1 in parts and 2 in parts and wire.text(data, parts[1]) == "location" and (new := renamed.get(wire.text(data, parts[2]))):
            value = parts[2]
            yield Edit(value.start, value.end, (wire.block(2, new),), (*around, tensor.place, entry))
