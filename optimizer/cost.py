"""The cost model: microseconds that a weight takes in one run on one sample with one thread, by placement and form.

    dense or folded = sum over uses of call + products / rate + moved / rate + values * 4 / bandwidth
    fused           = sum over uses of call + products / rate + moved / rate + values / decoding rate
    Decompress      = values / decoding rate + values * 4 / bandwidth, and no products: those are onnxruntime's in either placement

A weight [batch, rows, k] meets `positions` vectors in a run (`work.py`): products = positions * batch * rows * k, with rows filled up to what is
multiplied with together; `moved` are the values that leave, of depthwise convolutions those that come in, where these are more. A weight in a pool is
decoded when the session is created. What reordering takes where folded and fused convolutions meet belongs to no weight alone (`layout.py`). The constants
were measured (docs/decisions.md, "Placement"; `benchmarks/runtime/rates.py` compares model and machine again); what another machine does is not modelled:
decisions are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..passes.codebook import Chain, Cluster
from ..passes.distinct import Distinct
from ..passes.quantize import Quantize
from ..passes.technique import Technique
from ..runtime.form import PANEL_ROWS, View
from .work import Times, Work


@dataclass(frozen=True, slots=True)
class Rates:
    """Onnxruntime's and ours; `unblocked` is onnxruntime's where a convolution's channels do not fill blocks."""

    dense: float
    fused: float
    unblocked: float = 0.0


PRODUCTS = {
    "matrix": Rates(82.0, 85.0),
    "vector": Rates(82.0, 57.0),
    "pointwise": Rates(90.0, 71.0, 65.0),
    "spatial": Rates(80.0, 74.0, 45.0),
    "depthwise": Rates(39.0, 27.0, 4.0),
}
"""Products a nanosecond by kind of work."""

MOVED = {
    "matrix": Rates(30.0, 15.0),
    "vector": Rates(30.0, 15.0),
    "pointwise": Rates(13.0, 8.0),
    "spatial": Rates(5.0, 1.4),
    "depthwise": Rates(13.0, 3.0),
}
"""Values a nanosecond that leave a multiply, or come into it."""

CLIPPED = 8.0
"""Values a nanosecond of the pass that onnxruntime takes for a Clip behind its convolutions; ours, and Relu, come with the sums."""

BLOCK, IMAGE_RANK = 4, 4
"""Channels that a convolution makes must be a multiple of this, and its filter have so many axes: else onnxruntime does not work on blocks."""

REORDERED, REORDER_CALL_US = 3.5, 3.0
"""Values a nanosecond that go into blocks of channels, or out of them; microseconds that this takes beside."""

ROWS = 16
"""Rows that are multiplied with together: fewer take as long. Of a depthwise filter one."""

DECODED = {Quantize: 9.0, Cluster: 11.0, Distinct: 11.0, Chain: 11.0}
"""Values a nanosecond by technique, the trellis included."""

POOLED, LEAST_DECODED = 40.0, 1.5
"""The same of a weight in a pool, which the session keeps as 16-bit levels, and of any other form."""

CACHED_VALUES, CACHED_BANDWIDTH, BANDWIDTH = 1 << 18, 40.0, 16.0
"""Bytes a nanosecond that one thread reads of a dense weight of up to so many values, and of larger ones: those do not stay in its caches."""

CALL_US = Rates(1.0, 3.0)
"""Microseconds that a node takes beside its products."""

LOOKED_UP_PANELS = 2.5
"""Panels of 64 rows that a Gather decodes for each row that is asked for, on average: it begins at the head of a chunk of 1 to 4."""


def times(view: View, works: Sequence[Work], technique: Technique | None, pooled: bool = False) -> Times:
    """The times of a weight, with all its uses, in the form that the technique makes."""
    rate = POOLED if pooled else DECODED.get(type(technique), LEAST_DECODED)
    each = [_times(view, work, rate) for work in works]
    return Times(sum(one.fused for one in each), sum(one.folded for one in each))


def _times(view: View, work: Work, rate: float) -> Times:
    """Of one use, with values decoded at `rate`."""
    decoding, reading = view.size / rate / 1000, 4 * view.size / (CACHED_BANDWIDTH if view.size <= CACHED_VALUES else BANDWIDTH) / 1000
    if work.kind == "other":
        return Times(decoding + reading, 0.0)
    if work.kind == "lookup":
        share = min(work.positions * LOOKED_UP_PANELS * PANEL_ROWS / view.rows, 1.0)
        return Times(CALL_US.fused + share * decoding, CALL_US.dense)
    rates, moved, products = PRODUCTS[work.kind], MOVED[work.kind], _products(view, work)
    values = work.positions * (work.stride if work.kind == "depthwise" else 1) * view.batch * view.rows / 1000
    unblocked = bool(rates.unblocked) and not is_blocked(view.dims)
    dense = products / (rates.unblocked if unblocked else rates.dense) + values / moved.dense + reading + work.clipped / CLIPPED / 1000
    return Times(CALL_US.fused + products / rates.fused + values / moved.fused + decoding, CALL_US.dense + dense)


def is_blocked(dims: Sequence[int]) -> bool:
    """Whether onnxruntime keeps the values that a convolution with a filter of these dims makes in blocks of channels."""
    return len(dims) == IMAGE_RANK and dims[0] % BLOCK == 0


def reordering(values: float) -> float:
    """Microseconds that it takes to bring this many values into blocks, or out of them."""
    return REORDER_CALL_US + values / REORDERED / 1000


def _products(view: View, work: Work) -> float:
    """Thousands of products, with rows filled up."""
    rows = view.rows if work.kind == "depthwise" else ROWS * math.ceil(view.rows / ROWS)
    return work.positions * view.batch * rows * view.k / 1000
