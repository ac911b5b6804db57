"""`--lossless`: the file's own bytes with payloads in the place of tensors, and the recipe that gives the original back, byte for byte.

The model is never parsed into objects and never in memory as a whole: tensors are read, coded and written one after the other.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ..runtime.header import FORMAT_KEY
from .errors import CompressError, UsageError, VerificationError
from .files import Workspace, check_source
from .flush import Flushed
from .lossless_packed import Packed, Weight
from .lossless_restore import read_recipe, verified
from .lossless_source import Source
from .lossless_tensors import Coder
from .lossless_threads import Threads
from .lossless_write import Target, write_model, write_record
from .protos import Model, read_model
from .recipe import Recipe
from .report import EXACT, Progress, Report, Request, WeightReport, silent
from .save import goes_external


def compress_lossless(source: Path, target: Path, request: Request, progress: Progress = silent) -> Report:
    """Compresses the model at `source` without changing a bit. Raises UsageError, CompressError, VerificationError."""
    source, target = Path(source), Path(target)
    check_source(source)
    threads, seconds, since = request.threads or os.cpu_count() or 1, {}, time.monotonic()
    with Workspace(source, target, request.force, request.dry_run) as work, Source(source) as held:
        with Flushed(work.model) as file, Threads(threads) as pool:  # the file is closed when nobody writes any more
            progress("reading", 0.0)
            model = read_model(held.data)
            _refuse(source, model)
            external = goes_external(sum(held.stored_bytes(tensor) for tensor in model.tensors()), request.external_data)
            progress("compressing", 0.0)
            coder = Coder(held, request, pool, work.data if external else None)
            packed = coder.pack(model, lambda done: progress("compressing", done))
            written = write_model(held, model, packed, Target(file, pool))
            seconds["compressing"] = time.monotonic() - since
            progress("verifying", 0.0)
            since = time.monotonic()
            recipe = verified(work.model, written.recipe, held, threads)
            record_bytes = write_record(recipe, written.stream, file)
            if read_recipe(work.model) != recipe:
                raise VerificationError(f"the record of {source} reads otherwise than it was written: please report this as a bug")
            seconds["verifying"] = time.monotonic() - since
        notes = *written.notes, _restoring(recipe, record_bytes)
        report = replace(_report(source, target, recipe, packed, work), seconds=seconds, notes=notes)
        work.publish()
    return report


def _restoring(recipe: Recipe, record_bytes: int) -> str:
    files = "the input" if len(recipe.files) == 1 else f"all {len(recipe.files)} input files"
    return f"restore gives {files} back byte for byte; the record for that takes {record_bytes:,} bytes"


def _report(source: Path, target: Path, recipe: Recipe, packed: Packed, work: Workspace) -> Report:
    after = sum(file.stat().st_size for file in (work.model, work.data) if file.exists())
    before = sum(file.size for file in recipe.files)
    rows = tuple(_row(weight) for weight in packed.weights)
    graph = after - sum(row.bytes_after for row in rows)
    return Report(
        str(source), str(target), before, after, before / after, graph, 0.0, EXACT, "every byte of the restored files",
        0.0, 0.0, rows, tuple(packed.left_alone), (), (), {}, resident_bytes=sum(row.resident_bytes for row in rows),
    )  # fmt: skip


def _row(weight: Weight) -> WeightReport:
    tensor, readers = weight.item.tensor, weight.item.readers
    return WeightReport(
        name=weight.name,
        dims=tensor.dims,
        dtype=ir.DataType(tensor.dtype).name.lower(),
        operator=readers.fused[0].operator if readers.fused else "Decompress",
        form=weight.form,
        bytes_before=weight.bytes_before,
        bytes_after=weight.bytes_after,
        bits_per_weight=8 * weight.bytes_after / tensor.size,
        zeros=0.0,
        predicted=0.0,
        measured=0.0,
        placement="decompressed" if readers.whole else "fused",
        resident_bytes=weight.bytes_after,
    )


def _refuse(source: Path, model: Model) -> None:
    if FORMAT_KEY in model.metadata:
        raise UsageError(f"{source} is compressed already: compress its original, or restore it first")
    if not model.graphs or not model.graphs[0].outputs:
        raise CompressError(f"{source} is no ONNX model (its graph has no outputs): export or copy it again")
    if model.stray_external:
        raise CompressError(f"{source} has tensors with external data in functions or attributes, which --lossless does not follow: save it with that data inside")

