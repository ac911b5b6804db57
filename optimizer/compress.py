"""The pipeline: a model in, a smaller model out, and a report of what was done. Readable top to bottom."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ..passes.simplify import overridable, simplify
from ..passes.technique import Context
from .bias import bias_of, centred
from .calibrate import Feed, load_calibration, samples
from .candidates import CALIBRATED_ONLY, TECHNIQUES, offers
from .drop_channels import Drop, drop_channels
from .emit import Emitted
from .errors import CompressError, UsageError
from .files import Workspace, data_name, model_bytes
from .fit import Market, Sizer, fit
from .model import Rules, find_weights, load, unwanted
from .moments import Moments, measure
from .outcome import Contents, Setting, contents, summarize
from .plan import Choice, Layer
from .probe import Prober
from .report import Progress, Report, Request, silent
from .save import is_external, save
from .sensitivity import predict
from .synthetic import synthesize
from .verify import check

PROBE_SAMPLES = (32, 128)
"""Samples in the probes, at least and at most: sensitivities of few samples are flattered ones."""

PROBE_VALUES = 1 << 20
"""Input values in the probes where that is more than the least number of samples: a probe of a small model costs next to nothing."""


LEAST_BITS = 0.05
"""Candidates are made around this rate where the target leaves less."""


def compress(source: str | Path, target: str | Path, request: Request, progress: Progress = silent) -> Report:
    """Compresses the model at `source` into `target` as `request` says.

    Raises UsageError, CompressError, TargetError or VerificationError; `target` then is what it was before.
    """
    source, target = Path(source), Path(target)
    clock = Clock(progress)
    with Workspace(source, target, request.force, request.dry_run) as work:
        with named(source):
            held, setting, probes = _write(source, target, request, work, clock)
        clock.start("verifying")
        checked = check(source, work.model, probes, request.max_divergence)
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
    clock.start("calibrating")
    evidence = observe(prepared, request)
    emitted, refused = decide(prepared, evidence, request, clock)
    save(emitted, work.model, work.data if is_external(emitted, request.external_data) else None)
    left_alone = (*prepared.left_alone, *refused)
    setting = Setting(str(source), str(target), prepared.bytes, evidence.description, bool(request.calibration), left_alone, prepared.notes, clock.seconds)
    return contents(emitted), setting, evidence.probes


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A slimmed model, its weights (floats and integers) and what is left alone; `bytes` are the input's, over all files."""

    model: ir.Model
    layers: tuple[Layer, ...]
    integers: tuple[Layer, ...]
    left_alone: tuple[tuple[str, str, int], ...]
    untouchable: frozenset[str]
    notes: tuple[str, ...]
    bytes: int
    target_bytes: int
    data_name: str


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
    found = find_weights(model, rules)
    if not found.weights:
        reasons = "; ".join(sorted({reason for _, reason, _ in found.left_alone})) or "it has no large constants"
        raise UsageError(f"{source} has no weights to compress ({reasons}): nothing was written")
    layers = tuple(Layer(weight, Context(seed=request.seed)) for weight in found.weights)
    floats = tuple(layer for layer in layers if layer.weight.is_float)
    integers = tuple(layer for layer in layers if not layer.weight.is_float)
    size = model_bytes(source)
    target_bytes = request.target_bytes or int(size / (request.target_ratio or 1.0))
    return Prepared(model, floats, integers, found.left_alone, untouchable, notes, size, target_bytes, data_name(target))


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What is known of the inputs: feeds for probes and verification, moments by weight name, and a description for the report."""

    probes: tuple[Feed, ...]
    moments: dict[str, Moments]
    description: str


def observe(prepared: Prepared, request: Request) -> Evidence:
    """Loads calibration data, or makes inputs, and measures what the weights are multiplied with. Raises UsageError, CompressError."""
    if request.calibration:
        feeds = load_calibration(request.calibration, prepared.model.graph.inputs)
    else:
        feeds = synthesize(prepared.model, request.seed, request.input_shapes)
    weights = [layer.weight for layer in prepared.layers]
    count = samples(feeds)
    description = f"{count} {'calibration' if request.calibration else 'synthetic'} sample{'s' * (count != 1)}"
    return Evidence(subset(feeds, probe_samples(feeds)), measure(prepared.model, weights, feeds), description)


def decide(prepared: Prepared, evidence: Evidence, request: Request, clock: Clock) -> tuple[Emitted, list[tuple[str, str, int]]]:
    """Candidates, probes and allocation: the compressed model, and (name, reason, bytes) of weights that no technique took.

    Raises TargetError.
    """
    threads = request.threads or os.cpu_count() or 1
    sizer = Sizer(prepared.model, prepared.untouchable, request.external_data, threads, prepared.bytes, prepared.data_name)
    fixed = [Choice(layer, None, "lossless", 0.0) for layer in prepared.integers]
    layers = [informed(layer, evidence.moments.get(layer.weight.name), prepared.untouchable) for layer in prepared.layers]
    clock.start("making candidates")
    bits = _average_bits(sizer, layers, fixed, prepared.target_bytes)
    families = [name for name in TECHNIQUES[request.technique] if request.calibration or name not in CALIBRATED_ONLY]
    offered = offers(layers, families, bits, threads)
    usable = [offer for offer in offered if offer.families]
    clock.start("probing")
    biases = [layer.bias for layer in layers if layer.bias is not None]
    prober = Prober(prepared.model, [*(layer.weight for layer in layers), *biases], evidence.probes, threads)
    candidates = predict(usable, prober, threads, clock.tick)
    del prober
    clock.start("fitting the size")
    market = Market([offer.layer for offer in usable], candidates, fixed)
    refused = [(offer.layer.weight.name, offer.refusal, stored_bytes(offer.layer)) for offer in offered if not offer.families]
    return fit(market, sizer, prepared.target_bytes, clock.tick), refused


def stored_bytes(layer: Layer) -> int:
    """Bytes of a weight in the input."""
    tensor = layer.weight.value.const_value
    return 0 if tensor is None else tensor.nbytes


def informed(layer: Layer, moments: Moments | None, untouchable: frozenset[str]) -> Layer:
    """A layer with what was measured: errors count by the second moments, centred where a bias takes up the mean."""
    bias = bias_of(layer.weight)
    if moments is None or bias is None or bias.name in untouchable or not moments.mean.any():
        square = None if moments is None else moments.square
        return Layer(layer.weight, Context(square, seed=layer.context.seed))
    return Layer(layer.weight, Context(centred(moments), seed=layer.context.seed), bias, moments)


def _average_bits(sizer: Sizer, layers: Sequence[Layer], fixed: Sequence[Choice], target_bytes: int) -> float:
    """Bits a weight that the target leaves beside the graph; where it leaves none, few enough to find out what the smallest file is."""
    count = sum(layer.weight.view.size for layer in layers)
    return max(LEAST_BITS, 8 * (target_bytes - sizer.skeleton_bytes(layers, fixed)) / max(count, 1))


def probe_samples(feeds: Sequence[Feed]) -> int:
    """How many samples probes use, by the size of a sample."""
    values = sum(array.size for feed in feeds for array in feed.values()) / max(samples(feeds), 1)
    return int(np.clip(PROBE_VALUES // max(values, 1), *PROBE_SAMPLES))


def subset(feeds: Sequence[Feed], wanted: int) -> tuple[Feed, ...]:
    """Whole feeds, evenly spread, with about `wanted` samples in all, at least one feed."""
    total = samples(feeds)
    keep = max(1, round(len(feeds) * min(1.0, wanted / max(total, 1))))
    return tuple(feeds[(number * len(feeds)) // keep] for number in range(keep))


class Clock:
    """Names the phase that runs, and remembers how long each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase, self._since = "", 0.0
        self.seconds: dict[str, float] = {}

    def start(self, phase: str) -> None:
        """Ends the running phase and begins another."""
        self.stop()
        gc.collect()  # graphs are full of cycles: without this the model of an earlier phase stays in memory
        self._phase, self._since = phase, time.monotonic()
        self._progress(phase, 0.0)

    def tick(self, fraction: float) -> None:
        """Tells how much of the running phase is done, 0..1."""
        self._progress(self._phase, fraction)

    def stop(self) -> None:
        """Ends the running phase."""
        if self._phase:
            self.seconds[self._phase] = time.monotonic() - self._since
        self._phase = ""
