"""For each weight the candidates that compete: a technique at an operating point, its exact rate and its layer error.

The layer error is sum of E[x^2] * (w - w')^2, in arbitrary units: a probe of the model's outputs turns it into divergence (`sensitivity.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..passes import tables
from ..passes.codebook import Chain, Cluster
from ..passes.distinct import Distinct
from ..passes.prune import Prune
from ..passes.quantize import Quantize
from ..passes.technique import Context, Refusal, Technique
from ..runtime.evaluate import viewed_values
from ..runtime.form import Member, View
from .parallel import spread
from .plan import Layer

OCTAVE = 4
"""Steps of the grid per factor of two: 19 % apart, 0.25 bit."""

MARGIN_BITS = (3.0, 4.0)
"""How far below and above the average rate candidates are made, in bits a weight."""

HIGH_BITS = 11.0
"""A higher average counts as this one: so fine a grid costs more than its entropy (a class covers 256 levels at most), so coarser ones compete too."""

CENTROIDS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to write a weight: `bytes` of its streams, tables, scales and header; `error` as above."""

    family: str
    technique: Technique
    bytes: float
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A weight's candidates by family, or why there are none."""

    layer: Layer
    families: dict[str, tuple[Candidate, ...]]
    refusal: str = ""


def offers(layers: Sequence[Layer], families: Sequence[str], average_bits: float, threads: int) -> list[Offer]:
    """The candidates of every weight, in order; `average_bits` a weight is what the target leaves."""
    return spread(lambda layer: _offer(layer, families, average_bits), layers, lambda layer: layer.weight.view.size, threads)


def _offer(layer: Layer, families: Sequence[str], average_bits: float) -> Offer:
    values = layer.weight.viewed()
    found, refusals = {}, []
    for family in families:
        candidates = list(FAMILIES[family](values, layer.context, average_bits))
        refusals += [one.reason for one in candidates if isinstance(one, Refusal)]
        usable = tuple(one for one in candidates if isinstance(one, Candidate))
        if usable:
            found[family] = usable
    return Offer(layer, found, "" if found else (refusals or ["no technique applies"])[0])


def _grid(power: float, columns: float = 0.0) -> Callable[..., Iterator[Candidate | Refusal]]:
    def candidates(values: NDArray[np.float32], context: Context, average_bits: float) -> Iterator[Candidate | Refusal]:
        # The entropy of a Gaussian on a fine grid of step s is about 2.05 - log2(s) bits.
        middle = min(average_bits, HIGH_BITS)
        coarsest, finest = 2.05 - (middle - MARGIN_BITS[0]), 2.05 - (middle + MARGIN_BITS[1])
        for number in range(int(np.floor(finest * OCTAVE)), int(np.ceil(min(coarsest, 2.5) * OCTAVE)) + 1):
            technique = Quantize(float(2.0 ** (number / OCTAVE)), power, columns)
            trial = technique.trial(values, context)
            if isinstance(trial, Refusal):
                yield trial
                continue
            histograms, low, error = trial
            bits = tables.plan_histograms(histograms, low)
            scales = 1 if power == 0 else values.shape[0] * values.shape[1]
            scales += values.shape[2] if columns else 0
            yield Candidate("grid" if columns == 0 else "grid with column scale", technique, bits / 8 + scales + _header(values), error)

    return candidates


def _codebook(values: NDArray[np.float32], context: Context, average_bits: float) -> Iterator[Candidate | Refusal]:
    for count in CENTROIDS:
        if average_bits - 2.5 <= np.log2(count) <= average_bits + 2.5:
            yield _tried("codebook", Cluster(count), values, context)


def _distinct(values: NDArray[np.float32], context: Context, average_bits: float) -> Iterator[Candidate | Refusal]:  # noqa: ARG001  one rate
    yield _tried("distinct values", Distinct(), values, context)


def _deep_compression(values: NDArray[np.float32], context: Context, average_bits: float) -> Iterator[Candidate | Refusal]:
    for sparsity in SPARSITIES:
        for count in CENTROIDS:
            entropy = (1 - sparsity) * np.log2(count)
            if count > 3 and average_bits - 2 <= entropy + 1 <= average_bits + 2.5:
                yield _tried("deep-compression", Chain(Prune(sparsity), Cluster(count)), values, context)


FAMILIES: dict[str, Callable[..., Iterator[Candidate | Refusal]]] = {
    "grid^0": _grid(0.0),
    "grid^1": _grid(1.0),
    "grid^1 by column": _grid(1.0, 0.5),
    "codebook": _codebook,
    "distinct values": _distinct,
    "deep-compression": _deep_compression,
}

TECHNIQUES = {
    "auto": ("grid^0", "grid^1", "grid^1 by column", "codebook", "distinct values"),
    "quantize": ("grid^0", "grid^1", "grid^1 by column"),
    "codebook": ("codebook", "distinct values"),
    "deep-compression": ("deep-compression", "distinct values"),
}
"""The families that compete under each `--technique`."""

CALIBRATED_ONLY = ("grid^1 by column",)
"""Families that trust the moments of single inputs: on made-up inputs they lose (mobilenet at 4x: KL 0.0016 with, 0.0004 without)."""


def _tried(family: str, technique: Technique, values: NDArray[np.float32], context: Context) -> Candidate | Refusal:
    """A candidate whose rate and error are those of the form itself."""
    form = technique.apply(values, context)
    if isinstance(form, Refusal):
        return form
    made = Member(1, View(values.shape, (0, 1, 2), values.shape[0], values.shape[1]), form)
    coding = tables.plan(_levels(made))
    if coding is None:
        return Refusal("codes span more than 16 bits")
    scale, centroids = getattr(form, "scale", None), getattr(form, "centroids", None)
    side = sum(leaf.codes.nbytes for leaf in (scale, centroids) if leaf is not None)
    return Candidate(family, technique, coding.bits / 8 + side + _header(values), layer_error(values, made, context))


def _levels(made: Member) -> NDArray[np.int32]:
    return made.symbols.levels


def layer_error(values: NDArray[np.float32], made: Member, context: Context) -> float:
    """Sum of importance * (w - w')^2."""
    difference = values - viewed_values(made)
    return float(np.einsum("brk,brk,brk->", context.importance(values.shape), difference, difference, dtype=np.float64))


HEADER_BYTES = 45
"""Of a payload beside tables and scales: framing, dims, form tags, directory; a guess that the bisection on real sizes corrects."""


def _header(values: NDArray[np.float32]) -> float:
    """Bytes of header and stream heads."""
    return HEADER_BYTES + 1.5 * min(values.shape[1], 128)

