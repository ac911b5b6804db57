"""The cost model: microseconds that a weight takes in one run on one sample with one thread, by placement and form.

    dense or folded = sum over uses of call + max(products / rate, values * 4 / bandwidth)
    fused           = sum over uses of call + products / rate + values / decoding rate
    Decompress      = values / decoding rate + values * 4 / bandwidth, and no products: those are onnxruntime's in either placement

products = positions * values: a weight meets `positions` vectors in a run (`work.py`). Rates depend on what multiplies. A weight in a pool is decoded
when the session is created. The constants were measured (docs/decisions.md, "Placement"; `benchmarks/runtime/rates.py` measures them again); what
another machine does is not modelled: decisions must be the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..passes.quantize import Quantize
from ..passes.technique import Technique
from ..passes.writer import POOL_BELOW
from .plan import Layer
from .work import Times


@dataclass(frozen=True, slots=True)
class Rates:
    """Of one kind of multiply: products a nanosecond, onnxruntime's and ours."""

    dense: float
    fused: float


PRODUCTS = {
    "matrix": Rates(48.0, 40.0),
    "vector": Rates(20.0, 8.0),
    "pointwise": Rates(40.0, 14.0),
    "spatial": Rates(40.0, 14.0),
    "depthwise": Rates(8.0, 2.0),
}
"""By kind of work."""

DECODED = {"grid": 0.5, "trellis": 0.25, "other": 0.25, "pooled": 4.0}
"""Values a nanosecond by form; those of pools are int8 already."""

BANDWIDTH = 10.0
"""Bytes a nanosecond that one thread reads of a weight that is in no cache, or writes."""

CALL_US = {"dense": 2.0, "fused": 4.0}
"""Microseconds that a node takes beside its products."""

LOOKED_UP_PANELS = 2.5
"""Panels of 64 rows that a Gather decodes for each row that is asked for, on average: it begins at the head of a chunk of 1 to 4."""


def times(layer: Layer, technique: Technique | None) -> Times:
    """The times of a weight in the form that the technique makes."""
    view = layer.weight.view
    rate = DECODED["pooled" if view.size < POOL_BELOW else _form(technique)]
    fused = folded = 0.0
    for work in layer.work:
        products = work.positions * view.size / 1000
        touched = view.size / 1000
        if work.kind == "lookup":
            folded += CALL_US["dense"]
            fused += CALL_US["fused"] + min(work.positions * LOOKED_UP_PANELS * 64, view.rows) * view.k / rate / 1000
        elif work.kind == "other":
            fused += touched / rate + 4 * touched / BANDWIDTH
        else:
            folded += CALL_US["dense"] + max(products / PRODUCTS[work.kind].dense, 4 * touched / BANDWIDTH)
            fused += CALL_US["fused"] + products / PRODUCTS[work.kind].fused + touched / rate
    return Times(fused, folded)


def _form(technique: Technique | None) -> str:
    if isinstance(technique, Quantize):
        return "trellis" if technique.trellis else "grid"
    return "other"

