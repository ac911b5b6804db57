"""How much each gate of a recurrent layer matters: what one unit of error in its rows does to the outputs, one probe a gate.

The gates of an LSTM differ by a factor of 10 and more (its cell input passes a tanh, the others a sigmoid). Steps that follow from that
(`Quantize.rows`) save what the arithmetic mean of the sensitivities has over the geometric one: 0.3 to 0.4 bit a weight in a trained model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..passes.quantize import Quantize
from ..passes.technique import Refusal
from ..runtime.evaluate import viewed_values
from ..runtime.form import Member
from .parallel import spread
from .plan import Layer
from .probe import Prober
from .sensitivity import LEAST

STEP = 0.35
"""Of the grid that a gate is probed with, relative to the weight's root mean square: about three bits and a half."""

RANGE = 64.0
"""Between the gate that matters most and what others count as at least."""


def weighed(layers: Sequence[Layer], prober: Prober, threads: int) -> tuple[Layer, ...]:
    """The layers, where there are gates with the importance of their rows."""

    def importance(layer: Layer) -> Layer:
        found = None if layer.gates == 1 else _sensitivities(layer, prober)
        if found is None:
            return layer
        found = np.maximum(found, found.max() / RANGE)
        rows = np.repeat(found / found.mean(), layer.weight.view.batch * layer.weight.view.rows // len(found))
        return replace(layer, context=replace(layer.context, rows=rows.astype(np.float32)))

    return tuple(spread(importance, layers, lambda layer: layer.weight.view.size, threads))


def _sensitivities(layer: Layer, prober: Prober) -> np.ndarray | None:
    """Divergence for one unit of error, [gates]; None where the probes' grid does not fit the weight, or breaks the model."""
    weight, view = layer.weight.viewed(), layer.weight.view
    made = Quantize(STEP, power=0.0, feedback=layer.context.factor is not None).rounded(weight, layer.context)
    if isinstance(made, Refusal):
        return None
    values, flat = viewed_values(Member(layer.weight.dtype, view, made.form)).reshape(-1, view.k), weight.reshape(-1, view.k)
    found = []
    for part in np.array_split(np.arange(len(flat)), layer.gates):
        changed = flat.copy()
        changed[part] = values[part]
        moved = prober.divergence({layer.weight.name: view.unsee(changed.reshape(view.shape))})
        found.append(max(moved, LEAST) / max(float(made.errors[part].sum()), LEAST))
    return np.array(found) if np.isfinite(found).all() else None
