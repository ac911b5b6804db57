"""One candidate: a technique at an operating point, tried on a weight or on a sample of its panels; its rate and its layer error.

The layer error is the expected squared error of the layer's outputs on the measured second moments, in the weight's own unit (`Context.unit`): a probe of
the model's outputs turns it into divergence (`sensitivity.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..passes import golomb, tables
from ..passes.quantize import Quantize
from ..passes.technique import Adjustable, Context, Refusal, Technique
from ..runtime.evaluate import viewed_values
from ..runtime.form import PANEL_ROWS, Form, Grid, Mapped, Member, View
from ..runtime.members import class_bits
from ..runtime.trellis import quantizers
from .plan import Layer

SAMPLE_VALUES = 1 << 19
"""Values of a weight that candidates are tried on: 0.3 % of accuracy in bits and in error."""

HEADER_BYTES = 45
"""Of a payload beside tables and scales: framing, dims, form tags, directory; a guess that the bisection on real sizes corrects."""

POOLED_BYTES = 25.0
"""The same of a weight in a pool."""

FOLDED_BYTES = 90.0
"""Of a folded weight beside levels and scales: its nodes and shapes."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to write a weight: `bytes` of its streams, tables, scales and header; `error` as the module says."""

    family: str
    technique: Technique
    bytes: float
    error: float

    @property
    def is_folded(self) -> bool:
        """As `Choice.is_folded`."""
        return isinstance(self.technique, Quantize) and self.technique.folded


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
            return Sample(values, context, 1.0, layer.is_pooled)
        rows = ((np.arange(wanted) * panels // wanted)[:, None] * PANEL_ROWS + np.arange(PANEL_ROWS)).reshape(-1)
        part = np.ascontiguousarray(values[:, rows])
        return Sample(part, replace(context, rows=None if context.rows is None else context.rows[rows]), size / part.size, False)


def tried(family: str, technique: Technique, sample: Sample) -> Candidate | Refusal:
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
    if isinstance(technique, Quantize) and technique.folded:
        bits, header = float(golomb.coded_bits(_member(form, sample).symbols.levels).min()), FOLDED_BYTES
    else:
        coded, header = coded_bits(form, sample), _header(sample)
        if coded is None:
            return Refusal("levels span more than 16 bits")
        bits = coded
    return Candidate(family, technique, sample.share * bits / 8 + _side_bytes(form, sample) + header, sample.share * error)


def coded_bits(form: Form, sample: Sample) -> float | None:
    """Bits of the sample's symbols and tables, as the writer plans them; None where levels need more than 16 bits."""
    levels = _member(form, sample).symbols.levels
    paths = quantizers(levels) if isinstance(form, Grid) and form.levels.quantizers > 1 else None
    coding = tables.plan(levels, paths, pooled=sample.pooled, effort=1 if sample.classes is None else 0)
    return None if coding is None else coding.bits * (sample.classes or 1.0)


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


def _header(sample: Sample) -> float:
    """Bytes of header and stream heads; a pool shares both."""
    if sample.pooled:
        return POOLED_BYTES
    return HEADER_BYTES + 1.5 * min(sample.values.shape[1], 128)
