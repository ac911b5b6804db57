"""For each weight the candidates that compete: the techniques of each family at the operating points around a rate (`trial.py` tries each one)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from ..passes.codebook import Chain, Cluster
from ..passes.distinct import Distinct
from ..passes.mapping import LearnedMap
from ..passes.prune import Prune
from ..passes.quantize import Quantize
from ..passes.technique import Adjustable, Refusal, Technique
from ..passes.thin import Thin
from .cost import times
from .parallel import spread
from .plan import Layer
from .trial import Candidate, Sample, coded_bits, tried

MARGIN_BITS = (3.0, 4.0)
"""How far below and above the average rate candidates are made, in bits a weight."""

TRELLIS_MARGIN_BITS = (1.5, 2.0)
"""The same for trellis-coded levels, which take ten times as long."""

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


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """A weight's candidates by family, or why there are none."""

    layer: Layer
    families: dict[str, tuple[Candidate, ...]]
    refusal: str = ""


Offering = Iterator[Candidate | Refusal]
Maker = Callable[[str, Sample, float], Offering]
"""(the family's name, a weight, the average bits a weight) to candidates."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is tried on every weight: families, around an average rate in bits; a trellis for as many of the plain grids, the best first.

    `folds` says whether weights are tried as folded ones, too, where that is faster.
    """

    families: Sequence[str]
    average_bits: float
    trellises: int = 1
    folds: bool = False


def offers(layers: Sequence[Layer], wanted: Wanted, threads: int, tick: Callable[[float], None] = lambda _: None) -> list[Offer]:
    """The candidates of every weight, in order."""
    done: list[int] = []
    values = max(sum(layer.weight.view.size for layer in layers), 1)

    def made(layer: Layer) -> Offer:
        offer = _offer(layer, wanted)
        done.append(layer.weight.view.size)
        tick(sum(done) / values)
        return offer

    return spread(made, layers, lambda layer: layer.weight.view.size, threads)


def _offer(layer: Layer, wanted: Wanted) -> Offer:
    sample = Sample.of(layer)
    found: dict[str, tuple[Candidate, ...]] = {}
    refusals = []
    for family in (*wanted.families, *(FOLDED if wanted.folds and _is_faster_folded(layer) else ())):
        if family in FOLDED and any(one.error == 0 for many in found.values() for one in many):
            continue  # a weight of few values stays without loss
        if family in (BY_LOOKUP if layer.gates > 1 else BY_GATE):
            continue
        if family in TRELLIS_OF.values() and family not in _best_trellises(found, wanted, layer.weight.view.size):
            continue
        candidates = list(FAMILIES[family](family, sample, wanted.average_bits))
        refusals += [one.reason for one in candidates if isinstance(one, Refusal)]
        usable = tuple(one for one in candidates if isinstance(one, Candidate))
        if usable:
            found[family] = usable
    return Offer(layer, found, "" if found else (refusals or ["no technique applies"])[0])


def _is_faster_folded(layer: Layer) -> bool:
    known = times(layer.weight.view, layer.work, Quantize(1.0), layer.is_pooled)
    return known.fused > known.folded


def _best_trellises(found: Mapping[str, Sequence[Candidate]], wanted: Wanted, values: int) -> list[str]:
    """The trellises of the plain grids with the least error at about the average rate: a trellis takes ten times as long, so only those get one."""
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
    made = (tried(chosen.family, technique.at(factor), sample) for factor in factors)
    return [one for one in made if isinstance(one, Candidate)]


def _grid(power: float, rows: float = 0.0, trellis: bool = False, folded: bool = False) -> Maker:
    def candidates(family: str, sample: Sample, average_bits: float) -> Offering:
        # The entropy of a Gaussian on a fine grid of step s is about 2.05 - log2(s) bits.
        middle, octave = min(average_bits, HIGH_BITS), TRELLIS_OCTAVE if trellis else GRID_OCTAVE
        below, above = TRELLIS_MARGIN_BITS if trellis else MARGIN_BITS
        coarsest, finest = min(2.05 - (middle - below), 2.5), 2.05 - (middle + above)
        numbers = range(int(np.floor(finest * octave)), int(np.ceil(coarsest * octave)) + 1)
        unit, feedback = TRELLIS_STEP if trellis else 1.0, sample.context.factor is not None
        base = Quantize(unit, power, rows=rows, feedback=feedback, trellis=trellis, folded=folded)
        techniques = [base.at(float(2.0 ** (number / octave))) for number in numbers]
        known = sample if folded else replace(sample, classes=_class_saving(techniques[len(techniques) // 2], sample))
        for technique in techniques:
            yield tried(family, technique, known)

    return candidates


def _class_saving(technique: Quantize, sample: Sample) -> float | None:
    """What tables by row and column make of the bits of a grid; None where it refuses."""
    made = technique.made(sample.values, sample.context)
    if isinstance(made, Refusal):
        return None
    single, several = coded_bits(made.form, replace(sample, classes=1.0)), coded_bits(made.form, sample)
    return several / single if single and several else None


def _near(family: str, sample: Sample, average_bits: float, reach: tuple[float, float], rated: Sequence[tuple[float, Technique]]) -> Offering:
    """Of techniques with their rates in bits those within reach below and above the average; of the highest rate where the average is beyond it."""
    middle = min(average_bits, max(rate for rate, _ in rated))
    for rate, technique in rated:
        if middle - reach[0] <= rate <= middle + reach[1]:
            yield tried(family, technique, sample)


def _codebook(family: str, sample: Sample, average_bits: float) -> Offering:
    return _near(family, sample, average_bits, (2.5, 2.5), [(float(np.log2(count)), Cluster(count)) for count in CENTROIDS])


def _distinct(family: str, sample: Sample, average_bits: float) -> Offering:  # noqa: ARG001  one rate
    if sample.share == 1.0:
        yield tried(family, Distinct(), sample)


def _deep_compression(family: str, sample: Sample, average_bits: float) -> Offering:
    rated = [
        ((1 - sparsity) * float(np.log2(count)) + 1, Chain(Prune(sparsity), Cluster(count))) for sparsity, count in product(SPARSITIES, CENTROIDS) if count > 3
    ]
    return _near(family, sample, average_bits, (2.0, 2.5), rated)


def _mapped(family: str, sample: Sample, average_bits: float) -> Offering:
    rated = []
    for (even, (saved, least, most)), count in product(((True, EVEN_BITS), (False, KMEANS_BITS)), CENTROIDS[1:]):
        entropy = max(float(np.log2(count)) - saved, 0.0)
        if least <= entropy <= most:
            rated += [(entropy, LearnedMap(count, groups, row_scale, sample.context.factor is not None, even=even)) for groups, row_scale in MAPS]
    return _near(family, sample, average_bits, (1.2, 1.5), rated)


def _thinned(family: str, sample: Sample, average_bits: float) -> Offering:
    rated = []
    for sparsity, number in product(SPARSITIES, range(-8, 5)):
        step = 2.0 ** (number / 2)
        bits = (1 - sparsity) * max(2.05 - float(np.log2(step)), 1.0) + min(1.0, 4 * sparsity * (1 - sparsity))
        rated.append((bits, Thin(Prune(sparsity), Quantize(step, feedback=sample.context.factor is not None))))
    return _near(family, sample, average_bits, (2.0, 2.5), rated)


FAMILIES: dict[str, Maker] = {
    "grid": _grid(1.0),
    "grid, one step": _grid(0.0),
    "grid by lookup": _grid(1.0, rows=0.5),
    "trellis": _grid(1.0, trellis=True),
    "trellis, one step": _grid(0.0, trellis=True),
    "trellis by lookup": _grid(1.0, rows=0.5, trellis=True),
    "grid by gate": _grid(0.0, rows=1.0),
    "trellis by gate": _grid(0.0, rows=1.0, trellis=True),
    "codebook": _codebook,
    "distinct values": _distinct,
    "deep-compression": _deep_compression,
    "mapped": _mapped,
    "pruned grid": _thinned,
    "folded": _grid(1.0, folded=True),
    "folded, one step": _grid(0.0, folded=True),
}

TRELLIS_OF = {"grid": "trellis", "grid, one step": "trellis, one step", "grid by lookup": "trellis by lookup", "grid by gate": "trellis by gate"}
"""The families of plain grids, and what a trellis makes of them."""

GRIDS = tuple(TRELLIS_OF)

FOLDED = ("folded", "folded, one step")
"""The families of folded weights, which compete under techniques that have grids, where a weight is slower fused."""

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

BY_GATE, BY_LOOKUP = ("grid by gate", "trellis by gate"), ("grid by lookup", "trellis by lookup")
"""Families for weights of recurrent layers, whose gates matter differently, and for all other weights whose rows do."""

CALIBRATED_ONLY = BY_LOOKUP
"""Families that trust how often a row is asked for: made-up tokens say nothing about that."""
