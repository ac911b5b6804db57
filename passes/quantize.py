"""Quantize: a uniform grid with one step a row, to be entropy-coded.

With an ideal entropy coder the uniform grid is within 0.255 bit of the rate-distortion bound at any rate (Gish and Pierce 1968), which no
fixed-length codebook is; hence it is the family that the others must beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, Grid, Symbols
from .technique import Context, Refusal, log8, log8_values, row_rms

ROWS_AT_ONCE = 1024
"""Rows quantized in one go: bounds the temporary arrays of an embedding."""

MAX_LEVEL = 32000
"""Levels are 16-bit symbols; a margin is left for the classes' rounding."""


@dataclass(frozen=True, slots=True)
class Quantize:
    """level = round(w / scale), scale[o] = step * rms * (rms[o] / rms)^power.

    `step` is relative to the weight's root mean square; `power` 0 gives all rows one step, 1 a step in proportion to the row's own magnitude.
    """

    step: float
    power: float = 1.0

    def apply(self, weight: NDArray[np.float32], context: Context) -> Grid | Refusal:
        """A Grid with log8 scales."""
        scale = self.scales(weight)
        if isinstance(scale, Refusal):
            return scale
        dense, values = scale
        if _peak(weight, values) > MAX_LEVEL:
            return Refusal(f"step {self.step:g} gives levels beyond {MAX_LEVEL}")
        levels = np.empty(weight.shape, np.int32)
        scale_of = np.broadcast_to(values[..., None], (*weight.shape[:2], 1))
        for row in range(0, weight.shape[1], ROWS_AT_ONCE):
            part = np.s_[:, row : row + ROWS_AT_ONCE]
            np.copyto(levels[part], np.rint(weight[part] / scale_of[part]), casting="unsafe")
        return Grid(dense, Symbols(levels))

    def scales(self, weight: NDArray[np.float32]):  # type: ignore[no-untyped-def]
        """(log8 leaf, its values [batch, rows] or [1, 1])."""
        rms = row_rms(weight)
        whole = float(np.sqrt(np.mean(rms.astype(np.float64) ** 2)))
        if whole == 0:
            return Refusal("all values are zero")
        wanted = np.full((1, 1), whole, np.float32) if self.power == 0 else whole * np.maximum(rms / whole, 1e-4) ** self.power
        with np.errstate(over="ignore"):  # log8 refuses an infinity
            steps = (self.step * wanted).astype(np.float32)
        dense = log8(steps)
        if isinstance(dense, Refusal):
            return dense
        return dense, log8_values(dense).reshape(wanted.shape)

    def trial(self, weight: NDArray[np.float32], context: Context):  # type: ignore[no-untyped-def]
        """What `apply` would give, without making it: (histograms of levels [panels, n], lowest level, weighted squared error)."""
        scale = self.scales(weight)
        if isinstance(scale, Refusal):
            return scale
        values = np.ascontiguousarray(np.broadcast_to(scale[1], weight.shape[:2]))
        if (most := _peak(weight, values)) > MAX_LEVEL:
            return Refusal(f"step {self.step:g} gives levels beyond {MAX_LEVEL}")
        peak = int(most) + 1
        batch, rows, _ = weight.shape
        histograms = np.zeros((batch * -(-rows // PANEL_ROWS), 2 * peak + 1))
        error = _trial(weight, values, context.importance(weight.shape), histograms)
        return histograms, -peak, float(error)


def _peak(weight: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    """The largest |level|; infinite where the division overflows."""
    with np.errstate(over="ignore"):
        largest = np.maximum(weight.max(axis=2, initial=0), -weight.min(axis=2, initial=0))
        return float(np.rint(largest / values).max(initial=0))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # divisions by a scale, which is never zero, need no check
def _trial(weight: NDArray, scale: NDArray, importance: NDArray, histograms: NDArray) -> float:
    """Histograms of round(w / scale) per panel, and the sum of importance * (w - scale * level)^2."""
    batch, rows, k = weight.shape
    panels = (rows + PANEL_ROWS - 1) // PANEL_ROWS
    peak = histograms.shape[1] // 2
    total = 0.0
    for b in range(batch):
        for row in range(rows):
            step = scale[b, row]
            target, error = histograms[b * panels + row // PANEL_ROWS], 0.0
            for column in range(k):
                value = weight[b, row, column]
                level = np.rint(value / step)
                difference = np.float64(value - step * level)  # whose square float32 may not hold
                error += importance[b, row, column] * difference * difference
                target[min(max(int(level) + peak, 0), 2 * peak)] += 1
            total += error
    return total
