"""For each weight the candidates that compete: a technique at an operating point, its rate and its layer error.

The layer error is the expected squared error of the layer's outputs on the measured second moments, in the weight's own unit (`Context.unit`): a probe of
the model's outputs turns it into divergence (`sensitivity.py`). Large weights are tried on a sample of their panels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..passes import tables
from ..passes.codebook import Chain, Cluster
from ..passes.distinct import Distinct
from ..passes.mapping import LearnedMap
from ..passes.prune import Prune
from ..passes.quantize import Quantize
from ..passes.technique import Adjustable, Context, Refusal, Technique
from ..passes.thin import Thin
from ..passes.writer import POOL_BELOW
from ..runtime.evaluate import viewed_values
from ..runtime.form import PANEL_ROWS, Form, Grid, Mapped, Member, View
from ..runtime.members import class_bits
from ..runtime.trellis import quantizers
from .parallel import spread
from .plan import Layer

MARGIN_BITS = (3.0, 4.0)
"""How far below and above the average rate candidates are made, in bits a weight."""

TRELLIS_MARGIN_BITS = (1.5, 2.0)
"""The same for trellis-coded levels, which take twenty times as long."""

HIGH_BITS = 11.0
"""A higher average counts as this one: so fine a grid costs more than its entropy (a class covers 256 levels at most), so coarser ones compete too."""

GRID_OCTAVE, TRELLIS_OCTAVE = 4, 3
"""Steps of the grid per factor of two: 19 % apart, 0.25 bit. `refined` looks closer where a weight is in the end."""

TRELLIS_STEP = 0.6
"""The step of a trellis relative to that of a plain grid of the same rate."""

CENTROIDS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

MAPS = ((1, True), (1, False), (4, False))
"""(groups, whether rows have a scale) of learned maps: groups take the place of scales."""

EVEN_BITS, KMEANS_BITS = (1.85, 0.0, 3.3), (0.6, 2.5, 16.0)
"""(bits that their entropy lies below the logarithm of their number, least and largest entropy) of centroids that start evenly spread, and with k-means."""

SAMPLE_VALUES = 1 << 19
"""Values of a weight that candidates are tried on: 0.3 % of accuracy in bits and in error."""


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


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What candidates are tried on: some panels of a weight, each value of them standing for `share` of the weight's.

    `classes` is what tables by row and column make of the bits that single ones would take, where that is known; it hardly depends on the step.
    """

    values: NDArray[np.float32]
    context: Context
    share: float
    pooled: bool
    classes: float | None = None

    @staticmethod
    def of(layer: Layer) -> Sample:
        """Evenly spread panels of a large weight that has one set of moments for all its rows; else the weight itself."""
        values, context, size = layer.weight.viewed(), layer.context, layer.weight.view.size
        one_for_all = values.shape[0] == 1 and (context.square is None or context.square.shape[:2] == (1, 1))
        panels = values.shape[1] // PANEL_ROWS
        wanted = max(1, SAMPLE_VALUES // (PANEL_ROWS * values.shape[2]))
        if not one_for_all or panels <= wanted:
            return Sample(values, context, 1.0, size < POOL_BELOW)
        rows = ((np.arange(wanted) * panels // wanted)[:, None] * PANEL_ROWS + np.arange(PANEL_ROWS)).reshape(-1)
        part = np.ascontiguousarray(values[:, rows])
        return Sample(part, replace(context, rows=None if context.rows is None else context.rows[rows]), size / part.size, False)


Offering = Iterator[Candidate | Refusal]
Maker = Callable[[str, Sample, float], Offering]
"""(the family's name, a weight, the average bits a weight) to candidates."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is tried on every weight: families, around an average rate in bits; a trellis for as many of the plain grids, the best first."""

    families: Sequence[str]
    average_bits: float
    trellises: int = 1


def offers(layers: Sequence[Layer], wanted: Wanted, threads: int, tick: Callable[[float], None] = lambda _: None) -> list[Offer]:
    """The candidates of every weight, in order."""
    done: list[int] = []

    def made(layer: Layer) -> Offer:
        offer = _offer(layer, wanted)
        done.append(layer.weight.view.size)
        tick(sum(done) / max(sum(one.weight.view.size for one in layers), 1))
        return offer

    return spread(made, layers, lambda layer: layer.weight.view.size, threads)


def _offer(layer: Layer, wanted: Wanted) -> Offer:
    sample = Sample.of(layer)
    found: dict[str, tuple[Candidate, ...]] = {}
    refusals = []
    for family in wanted.families:
        if family in TRELLIS_OF.values() and family not in _best_trellises(found, wanted, layer.weight.view.size):
            continue
        candidates = list(FAMILIES[family](family, sample, wanted.average_bits))
        refusals += [one.reason for one in candidates if isinstance(one, Refusal)]
        usable = tuple(one for one in candidates if isinstance(one, Candidate))
        if usable:
            found[family] = usable
    return Offer(layer, found, "" if found else (refusals or ["no technique applies"])[0])


def _best_trellises(found: Mapping[str, Sequence[Candidate]], wanted: Wanted, values: int) -> list[str]:
    """The trellises of the plain grids with the least error at about the average rate: a trellis takes twenty times as long, so only those get one."""
    size = wanted.average_bits * values / 8
    grids = {family: sorted(many, key=lambda one: one.bytes) for family, many in found.items() if family in TRELLIS_OF}
    errors = {family: float(np.interp(size, [one.bytes for one in many], [np.log(one.error + 1e-30) for one in many])) for family, many in grids.items()}
    return [TRELLIS_OF[family] for family in sorted(errors, key=lambda family: errors[family])[: wanted.trellises]]


def refined(layer: Layer, chosen: Candidate, factors: Sequence[float]) -> list[Candidate]:
    """The chosen technique at rates close by, these factors away, where it has such."""
    technique = chosen.technique
    if not isinstance(technique, Adjustable):
        return []
    sample = Sample.of(layer)
    made = (_tried(chosen.family, technique.at(factor), sample) for factor in factors)
    return [one for one in made if isinstance(one, Candidate)]


def _grid(power: float, columns: float = 0.0, rows: float = 0.0, trellis: bool = False) -> Maker:
    def candidates(family: str, sample: Sample, average_bits: float) -> Offering:
        # The entropy of a Gaussian on a fine grid of step s is about 2.05 - log2(s) bits.
        middle, octave = min(average_bits, HIGH_BITS), TRELLIS_OCTAVE if trellis else GRID_OCTAVE
        below, above = TRELLIS_MARGIN_BITS if trellis else MARGIN_BITS
        coarsest, finest = min(2.05 - (middle - below), 2.5), 2.05 - (middle + above)
        numbers = range(int(np.floor(finest * octave)), int(np.ceil(coarsest * octave)) + 1)
        unit, feedback = TRELLIS_STEP if trellis else 1.0, sample.context.factor is not None
        techniques = [Quantize(float(2.0 ** (number / octave)) * unit, power, columns, rows, feedback, trellis) for number in numbers]
        known = replace(sample, classes=_class_saving(techniques[len(techniques) // 2], sample))
        for technique in techniques:
            yield _tried(family, technique, known)

    return candidates


def _class_saving(technique: Quantize, sample: Sample) -> float | None:
    """What tables by row and column make of the bits of a grid; None where it refuses."""
    made = technique.made(sample.values, sample.context)
    if isinstance(made, Refusal):
        return None
    single, several = coded_bits(made.form, replace(sample, classes=1.0)), coded_bits(made.form, sample)
    return several / single if single and several else None


def _codebook(family: str, sample: Sample, average_bits: float) -> Offering:
    for count in CENTROIDS:
        if average_bits - 2.5 <= np.log2(count) <= average_bits + 2.5:
            yield _tried(family, Cluster(count), sample)


def _distinct(family: str, sample: Sample, average_bits: float) -> Offering:  # noqa: ARG001  one rate
    if sample.share == 1.0:
        yield _tried(family, Distinct(), sample)


def _deep_compression(family: str, sample: Sample, average_bits: float) -> Offering:
    for sparsity in SPARSITIES:
        for count in CENTROIDS:
            entropy = (1 - sparsity) * np.log2(count)
            if count > 3 and average_bits - 2 <= entropy + 1 <= average_bits + 2.5:
                yield _tried(family, Chain(Prune(sparsity), Cluster(count)), sample)


def _mapped(family: str, sample: Sample, average_bits: float) -> Offering:
    for even, (saved, least, most) in ((True, EVEN_BITS), (False, KMEANS_BITS)):
        for count in CENTROIDS[1:]:
            entropy = max(np.log2(count) - saved, 0.0)
            if max(average_bits - 1.2, least) <= entropy <= min(average_bits + 1.5, most):
                for groups, row_scale in MAPS:
                    yield _tried(family, LearnedMap(count, groups, row_scale, sample.context.factor is not None, even=even), sample)


def _thinned(family: str, sample: Sample, average_bits: float) -> Offering:
    for sparsity in SPARSITIES:
        for number in range(-8, 5):
            step = 2.0 ** (number / 2)
            bits = (1 - sparsity) * max(2.05 - np.log2(step), 1.0) + min(1.0, 4 * sparsity * (1 - sparsity))
            if average_bits - 2 <= bits <= average_bits + 2.5:
                yield _tried(family, Thin(Prune(sparsity), Quantize(step, feedback=sample.context.factor is not None)), sample)


FAMILIES: dict[str, Maker] = {
    "grid": _grid(1.0),
    "grid, one step": _grid(0.0),
    "grid by lookup": _grid(1.0, rows=0.5),
    "trellis": _grid(1.0, trellis=True),
    "trellis, one step": _grid(0.0, trellis=True),
    "trellis by lookup": _grid(1.0, rows=0.5, trellis=True),
    "codebook": _codebook,
    "distinct values": _distinct,
    "deep-compression": _deep_compression,
    "mapped": _mapped,
    "pruned grid": _thinned,
}

TRELLIS_OF = {"grid": "trellis", "grid, one step": "trellis, one step", "grid by lookup": "trellis by lookup"}
"""The families of plain grids, and what a trellis makes of them."""

GRIDS = tuple(TRELLIS_OF)

AUTO = (*GRIDS, *TRELLIS_OF.values(), "codebook", "distinct values")

TECHNIQUES = {
    "auto": AUTO,
    "lowrank": AUTO,
    "quantize": GRIDS,
    "codebook": ("codebook", "distinct values"),
    "deep-compression": ("deep-compression", "distinct values"),
    "mapped": ("mapped", "distinct values"),
    "prune": ("pruned grid", "distinct values"),
}
"""The families that compete under each `--technique`."""

CALIBRATED_ONLY = ("grid by lookup", "trellis by lookup")
"""Families that trust the moments of single inputs: on made-up inputs they lose (mobilenet at 4x: KL 0.0016 with, 0.0004 without)."""


def _tried(family: str, technique: Technique, sample: Sample) -> Candidate | Refusal:
    """A candidate whose rate and error are those of the form itself."""
    form: Form | Refusal
    if isinstance(technique, Adjustable):
        made = technique.made(sample.values, sample.context)
        form, error = (made, 0.0) if isinstance(made, Refusal) else (made.form, made.error)
    else:
        form = technique.apply(sample.values, sample.context)
        error = 0.0 if isinstance(form, Refusal) else layer_error(sample, form)
    if isinstance(form, Refusal):
        return form
    bits = coded_bits(form, sample)
    if bits is None:
        return Refusal("levels span more than 16 bits")
    side = _side_bytes(form, sample)
    return Candidate(family, technique, sample.share * bits / 8 + side + _header(sample), sample.share * error)


def coded_bits(form: Form, sample: Sample) -> float | None:
    """Bits of the sample's symbols and tables, as the writer plans them; None where levels need more than 16 bits."""
    levels = _member(form, sample).symbols.levels
    paths = quantizers(levels) if isinstance(form, Grid) and form.levels.quantizers > 1 else None
    coding = tables.plan(levels, paths, pooled=sample.pooled, effort=1 if sample.classes is None else 0)
    if coding is None:
        return None
    batch, rows, k = levels.shape
    padding = 0 if sample.pooled else batch * k * coding.raw_bits * (-rows % 8)  # raw bits of all lanes fill whole bytes
    return coding.bits * (sample.classes or 1.0) + padding


def _side_bytes(form: Form, sample: Sample) -> float:
    """Bytes of scales (one a row counts for the whole weight), column scales, centroids and row groups."""
    leaves: Iterable = (getattr(form, name, None) for name in ("scale", "column_scale", "centroids"))
    rows = sample.values.shape[0] * sample.values.shape[1]
    groups = class_bits(form.groups) * rows * sample.share / 8 if isinstance(form, Mapped) else 0.0
    return groups + float(sum(leaf.codes.nbytes * (sample.share if len(leaf.codes) == rows else 1) for leaf in leaves if leaf is not None))


def _member(form: Form, sample: Sample) -> Member:
    shape = sample.values.shape
    return Member(1, View(shape, (0, 1, 2), shape[0], shape[1]), form)


def layer_error(sample: Sample, form: Form) -> float:
    """Sum of importance * (w - w')^2, in `Context.unit`."""
    difference = sample.values - viewed_values(_member(form, sample))
    return float(np.einsum("brk,brk,brk->", sample.context.importance(sample.values.shape), difference, difference, dtype=np.float64))


HEADER_BYTES = 45
"""Of a payload beside tables and scales: framing, dims, form tags, directory; a guess that the bisection on real sizes corrects."""


def _header(sample: Sample) -> float:
    """Bytes of header and stream heads."""
    return HEADER_BYTES + 1.5 * min(sample.values.shape[1], 128)
