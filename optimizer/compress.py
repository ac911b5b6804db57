"""The pipeline: a model in, a smaller model out, and a report of what was done. Readable top to bottom."""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from threadpoolctl import threadpool_limits

from ..passes.simplify import overridable, simplify
from ..passes.technique import Context
from . import epilogues
from .calibrate import Feed, load_calibration
from .decide import decide
from .drop_channels import Drop, drop_channels
from .emit import Emitted
from .errors import CompressError, UsageError
from .evidence import Evidence, observe
from .factoring import factor
from .files import Workspace, data_name, model_bytes
from .loading import load
from .lossless import compress_lossless
from .outcome import Contents, Setting, contents, summarize
from .plan import Choice, Layer
from .report import Progress, Report, Request, silent
from .save import is_external, save
from .study import Task
from .verify import check
from .weights import Rules, find_weights, unwanted

FACTORING = ("lowrank",)
"""Techniques that look for low rank: an eigendecomposition of each matrix."""


def compress(source: str | Path, target: str | Path, request: Request, progress: Progress = silent) -> Report:
    """Compresses the model at `source` into `target` as `request` says.

    Raises UsageError, CompressError, TargetError or VerificationError; `target` then is what it was before.
    """
    source, target = Path(source), Path(target)
    request.check_goal()
    if request.lossless:
        return compress_lossless(source, target, request, progress)
    clock = Clock(progress)
    with Workspace(source, target, request.force, request.dry_run) as work:
        with named(source):
            held, setting, probes = _write(source, target, request, work, clock)
        checked = check(source, work.model, probes, request.max_divergence, clock.start("verifying"))
        clock.stop()
        report = summarize(setting, held, checked, work.model)
        work.publish()
    return report


@contextmanager
def named(source: Path) -> Iterator[None]:
    """Every error says which model it is about."""
    try:
        yield
    except CompressError as error:
        if source.name in str(error):
            raise
        raise type(error)(f"{source}: {error}") from error


def _write(source: Path, target: Path, request: Request, work: Workspace, clock: Clock) -> tuple[Contents, Setting, tuple[Feed, ...]]:
    """Writes the compressed model into the workspace; no weight is in memory any more when this returns."""
    clock.start("reading")
    prepared = prepare(source, target, request)
    with threadpool_limits(1):  # sums of BLAS depend on its number of threads; the threads are ours
        prepared, evidence = observed(prepared, request, work.scratch, clock)

        def confirm(emitted: Emitted) -> float:
            _save(emitted, request, work)
            return check(source, work.model, evidence.probes, None, clock.start("verifying")).divergence

        decision = decide(prepared.task(request), evidence, request, confirm, clock.start)
    _save(decision.emitted, request, work)
    left_alone = (*prepared.left_alone, *decision.refused)
    setting = Setting(str(source), str(target), prepared.bytes, evidence.description, bool(request.calibration), left_alone, prepared.notes, clock.seconds)
    return contents(decision.emitted, decision.measured), setting, evidence.probes


def observed(prepared: Prepared, request: Request, scratch: Path, clock: Clock) -> tuple[Prepared, Evidence]:
    """What is known of the inputs; low rank is looked for on it, and changes the model. Raises UsageError, CompressError."""
    if request.technique in FACTORING and not request.has_target:
        raise UsageError("how much low rank saves depends on the size: give --target-ratio or --target-size with --technique lowrank")
    evidence = observe(prepared.model, prepared.layers, prepared.untouchable, request, scratch, clock.start("calibrating"))
    if request.technique not in FACTORING:
        return prepared, evidence
    clock.start("looking for factors")
    prepared, changed = prepared.factored(evidence, request)
    if changed:
        evidence = observe(prepared.model, prepared.layers, prepared.untouchable, request, scratch, clock.start("calibrating again"))
    return prepared, evidence


def _save(emitted: Emitted, request: Request, work: Workspace) -> None:
    """Writes a compressed model into the workspace, in place of one that was there."""
    work.data.unlink(missing_ok=True)
    save(emitted, work.model, work.data if is_external(emitted, request.external_data) else None)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A slimmed model, its weights, those that keep every bit (integers, and what the user names) and what is left alone; `bytes` are the input's, over all files."""

    model: ir.Model
    layers: tuple[Layer, ...]
    exact: tuple[Layer, ...]
    left_alone: tuple[tuple[str, str, int], ...]
    untouchable: frozenset[str]
    notes: tuple[str, ...]
    bytes: int
    target_bytes: int
    data_name: str

    def task(self, request: Request) -> Task:
        """What is to be decided."""
        fixed = [Choice(layer, None, "lossless", 0.0) for layer in self.exact]
        return Task(self.model, self.untouchable, fixed, self.bytes, self.target_bytes, self.data_name, request.threads or os.cpu_count() or 1)

    def factored(self, evidence: Evidence, request: Request) -> tuple[Prepared, bool]:
        """The same with two weights in the place of each that factors serve better; whether there is any."""
        left_bytes = self.target_bytes - sum(size for _, _, size in self.left_alone)
        found = factor(self.model, evidence.layers, self.untouchable, left_bytes, request.threads or os.cpu_count() or 1)
        notes = (*self.notes, *found.notes(asked=request.technique == "lowrank"))
        return replace(self, layers=found.layers if found.names else self.layers, notes=notes), bool(found.names)


def prepare(source: Path, target: Path, request: Request) -> Prepared:
    """Loads and slims the model and finds its weights. Raises UsageError, CompressError."""
    model = load(source)
    rules = Rules(request.include, request.exclude)
    untouchable = unwanted(model, rules)
    if request.keep_overridable and (names := overridable(model)):
        raise UsageError(f"{len(names)} initializers such as {names[0]!r} are inputs too, so callers may replace them: leave out --keep-overridable to fix them")
    notes = simplify(model, untouchable)
    if request.drop_channels:
        notes += drop_channels(model, load_calibration(request.calibration, model.graph.inputs), Drop(request.drop_channels, request.threads, request.seed))
    epilogues.mark(model)
    found = find_weights(model, rules)
    if not found.weights:
        reasons = "; ".join(sorted({reason for _, reason, _ in found.left_alone})) or "it has no large constants"
        raise UsageError(f"{source} has no weights to compress ({reasons}): nothing was written")
    layers = tuple(Layer(weight, Context(seed=request.seed), pool_values=request.pool_values) for weight in found.weights)
    exact = tuple(layer for layer in layers if not layer.weight.is_float or any(re.search(one, layer.weight.name) for one in request.lossless_weights))
    floats = tuple(layer for layer in layers if layer not in exact)
    size = model_bytes(source)
    target_bytes = request.target_bytes or int(size / (request.target_ratio or 1.0))
    return Prepared(model, floats, exact, found.left_alone, untouchable, notes, size, target_bytes, data_name(target))


class Clock:
    """Names the phase that runs, and remembers how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase, self._since = "", 0.0
        self.seconds: dict[str, float] = {}

    def start(self, phase: str) -> Callable[[float], None]:
        """Ends the running phase and begins another; gives what to tell its progress."""
        self.stop()
        gc.collect()  # graphs are full of cycles: without this the model of an earlier phase stays in memory
        self._phase, self._since = phase, time.monotonic()
        self._progress(phase, 0.0)
        return self.tick

    def tick(self, fraction: float) -> None:
        """Tells how much of the running phase is done, 0..1."""
        self._progress(self._phase, fraction)

    def stop(self) -> None:
        """Ends the running phase."""
        if self._phase:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + time.monotonic() - self._since
        self._phase = ""
