"""What is known of the inputs: data or made-up inputs, and what each weight is multiplied with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.feedback import Factor, factorize
from .bias import bias_of, centred
from .calibrate import Feed, load_calibration, samples
from .factors import Factors
from .moments import Moments, measure
from .plan import Layer
from .report import Request
from .synthetic import synthesize
from .weights import Weight
from .work import measure as measure_work

PROBE_SAMPLES = (8, 96)
"""Samples in the probes, at least and at most: sensitivities of few samples are flattered ones."""

PROBE_RUNS = 2048
"""Samples that all probes of one round run through the model, unless a sample is small."""

PROBE_VALUES = 1 << 20
"""Input values in each probe where that is more samples: a probe of a small model costs next to nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Feeds for probes and verification, the layers with what was measured of their inputs, a description for the report, and the calibration data, if any."""

    probes: tuple[Feed, ...]
    layers: tuple[Layer, ...]
    description: str
    calibration: tuple[Feed, ...] = ()


def observe(model: ir.Model, layers: Sequence[Layer], untouchable: frozenset[str], request: Request, scratch: Path, tick: Callable[[float], None]) -> Evidence:
    """Loads calibration data, or makes inputs, and measures what the weights are multiplied with. Raises UsageError, CompressError."""
    feeds = load_calibration(request.calibration, model.graph.inputs) if request.calibration else synthesize(model, request.seed, request.input_shapes)
    known = {layer.weight.name: layer for layer in layers}
    factors = Factors(scratch)

    def take(weight: Weight, moments: Moments) -> None:
        known[weight.name] = informed(known[weight.name], moments, untouchable, factors.hold)

    probes = subset(feeds, request.level.probes * probe_samples(feeds, len(layers)))
    measure(model, [layer.weight for layer in layers], feeds, take, bool(request.calibration) and request.level.feedback, tick)
    work = measure_work(model, [layer.weight for layer in layers], feeds)
    count, used = samples(feeds), samples(probes)
    share = f"{used} of {count}" if used < count else f"{count}"
    description = f"{share} {'calibration' if request.calibration else 'synthetic'} sample{'s' * (count != 1)}"
    layers = tuple(replace(layer, work=work[name]) for name, layer in known.items())
    return Evidence(probes, layers, description, tuple(feeds) if request.calibration else ())


Hold = Callable[[str, Factor], Callable[[], Factor]]
"""Keeps the factor of a weight, by its name, and gives what fetches it."""


def informed(layer: Layer, moments: Moments, untouchable: frozenset[str], hold: Hold) -> Layer:
    """A layer with what was measured: errors count by the second moments, centred where a bias takes up the mean."""
    if moments.square.shape[1:] == (layer.weight.view.rows, 1):  # an embedding: how often each row is asked for
        return replace(layer, context=replace(layer.context, rows=moments.square.reshape(-1) / moments.square.mean()))
    bias = bias_of(layer.weight)
    corrected = bias is not None and bias.name not in untouchable and bool(moments.mean.any())
    square = centred(moments) if corrected else moments.square
    matrix = moments.covariance
    if matrix is not None and not corrected:
        matrix = np.add(matrix, outer := _outer(moments), out=outer)
    factor = None if matrix is None else factorize(matrix)
    context = replace(layer.context, square=square, factor=None if factor is None else hold(layer.weight.name, factor))
    if corrected:
        return replace(layer, context=context, bias=bias, moments=replace(moments, covariance=None), optimism=moments.optimism, shrinkage=moments.shrinkage)
    return replace(layer, context=context, optimism=moments.optimism, shrinkage=moments.shrinkage)


def _outer(moments: Moments) -> NDArray[np.float32]:
    """E[x] E[x]^T, [m, k, k], where its columns meet."""
    assert moments.covariance is not None
    parts, k, _ = moments.covariance.shape
    mean = np.broadcast_to(moments.mean, (*moments.mean.shape[:2], k)).reshape(-1, k)
    mean = mean[:: max(len(mean) // parts, 1)]
    outer = mean[:, :, None] * mean[:, None, :]
    if moments.apart > 1:
        place = np.arange(k) % moments.apart
        outer *= place[:, None] == place
    return np.asarray(outer)


def probe_samples(feeds: Sequence[Feed], weights: int) -> int:
    """How many samples probes use, by the number of weights and the size of a sample."""
    values = sum(array.size for feed in feeds for array in feed.values()) / max(samples(feeds), 1)
    return int(np.clip(max(PROBE_RUNS // max(weights, 1), PROBE_VALUES // max(values, 1)), *PROBE_SAMPLES))


def subset(feeds: Sequence[Feed], wanted: int) -> tuple[Feed, ...]:
    """Whole feeds, evenly spread, with about `wanted` samples in all, at least one feed."""
    total = samples(feeds)
    keep = max(1, round(len(feeds) * min(1.0, wanted / max(total, 1))))
    return tuple(feeds[(number * len(feeds)) // keep] for number in range(keep))
