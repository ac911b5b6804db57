"""Quantize: a uniform grid with one step a row (and optionally a factor a column), to be entropy-coded.

With an ideal entropy coder the uniform grid is within 0.255 bit of the rate-distortion bound at any rate (Gish and Pierce 1968), which no
fixed-length codebook is; hence it is the family that the others must beat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, Dense, Grid, Symbols
from .technique import Context, Refusal, log8, log8_values, row_rms

ROWS_AT_ONCE = 1024
"""Rows quantized in one go: bounds the temporary arrays of an embedding."""

MAX_LEVEL = 32000
"""Levels are 16-bit symbols; a margin is left for the classes' rounding."""


@dataclass(frozen=True, slots=True)
class Quantize:
    """level = round(w / scale), scale[o, k] = step * rms * (rms[o] / rms)^power * (E[x_k^2] / E[x^2])^(-columns / 2).

    `step` is relative to the weight's root mean square; `power` 0 gives all rows one step, 1 a step in proportion to the row's own magnitude;
    `columns` 0 is a grid without column scale, 1 makes every input contribute the same error, which needs measured moments.
    """

    step: float
    power: float = 1.0
    columns: float = 0.0

    def apply(self, weight: NDArray[np.float32], context: Context) -> Grid | Refusal:
        """A Grid with log8 scales."""
        steps = self.steps(weight, context)
        if isinstance(steps, Refusal):
            return steps
        if _peak(weight, steps) > MAX_LEVEL:
            return Refusal(f"step {self.step:g} gives levels beyond {MAX_LEVEL}")
        levels = np.empty(weight.shape, np.int32)
        scale_of = np.broadcast_to(steps.row_values[..., None], (*weight.shape[:2], 1))
        for row in range(0, weight.shape[1], ROWS_AT_ONCE):
            part = np.s_[:, row : row + ROWS_AT_ONCE]
            np.copyto(levels[part], np.rint(weight[part] / (scale_of[part] * steps.column_values)), casting="unsafe")
        return Grid(steps.rows, Symbols(levels), steps.columns)

    def steps(self, weight: NDArray[np.float32], context: Context) -> Steps | Refusal:
        """The grid's steps by row and, where `columns` asks for it, by column."""
        rows = self._row_scale(weight)
        if isinstance(rows, Refusal) or self.columns == 0:
            return rows if isinstance(rows, Refusal) else Steps(rows, None, weight.shape)
        columns = self._column_scale(context, weight.shape[2])
        return columns if isinstance(columns, Refusal) else Steps(rows, columns, weight.shape)

    def _column_scale(self, context: Context, k: int) -> Dense | Refusal:
        """log8 of (E[x_k^2] / mean)^(-columns / 2), within a factor of 16 either way."""
        if context.square is None or context.square.shape != (1, 1, k) or k == 1:
            return Refusal("column scales need the second moments of each input")
        relative = context.square.reshape(-1) / max(float(context.square.mean(dtype=np.float64)), 1e-30)
        return log8(np.maximum(relative, 1 / 256).astype(np.float32) ** np.float32(-self.columns / 2))

    def _row_scale(self, weight: NDArray[np.float32]) -> Dense | Refusal:
        """log8 of step * rms * (rms[o] / rms)^power; one value for power 0."""
        rms = row_rms(weight)
        whole = float(np.sqrt(np.mean(rms.astype(np.float64) ** 2)))
        if whole == 0:
            return Refusal("all values are zero")
        wanted = np.full((1, 1), whole, np.float32) if self.power == 0 else whole * np.maximum(rms / whole, 1e-4) ** self.power
        with np.errstate(over="ignore"):  # log8 refuses an infinity
            steps = (self.step * wanted).astype(np.float32)
        return log8(steps)

    def trial(self, weight: NDArray[np.float32], context: Context) -> tuple[NDArray[np.float64], int, float] | Refusal:
        """What `apply` would give, without making it: (histograms of levels [panels, n], lowest level, weighted squared error)."""
        steps = self.steps(weight, context)
        if isinstance(steps, Refusal):
            return steps
        if (most := _peak(weight, steps)) > MAX_LEVEL:
            return Refusal(f"step {self.step:g} gives levels beyond {MAX_LEVEL}")
        peak = int(most) + 1
        batch, rows, _ = weight.shape
        histograms = np.zeros((batch * -(-rows // PANEL_ROWS), 2 * peak + 1))
        by_row = np.ascontiguousarray(np.broadcast_to(steps.row_values, weight.shape[:2]))
        by_column = np.ascontiguousarray(np.broadcast_to(steps.column_values, weight.shape[2:]))
        error = _trial(weight, by_row, by_column, context.importance(weight.shape), histograms)
        return histograms, -peak, float(error)


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Scales of a grid, as stored, for a weight of `shape`."""

    rows: Dense
    columns: Dense | None
    shape: tuple[int, ...]

    @property
    def row_values(self) -> NDArray[np.float32]:
        """[batch, rows], or [1, 1] where one serves all."""
        values = log8_values(self.rows)
        return values.reshape(self.shape[:2] if len(values) > 1 else (1, 1))

    @property
    def column_values(self) -> NDArray[np.float32]:
        """[k], or [1]."""
        return np.ones(1, np.float32) if self.columns is None else log8_values(self.columns)


def _peak(weight: NDArray[np.float32], steps: Steps) -> float:
    """The largest |level|; infinite where the division overflows."""
    with np.errstate(over="ignore"):
        if steps.columns is None:
            largest = np.maximum(weight.max(axis=2, initial=0), -weight.min(axis=2, initial=0))
        else:
            largest = np.abs(weight / steps.column_values).max(axis=2, initial=0)
        return float(np.rint(largest / steps.row_values).max(initial=0))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # divisions by a scale, which is never zero, need no check
def _trial(weight: NDArray, scale: NDArray, columns: NDArray, importance: NDArray, histograms: NDArray) -> float:
    """Histograms of round(w / s) per panel, and the sum of importance * (w - s * level)^2, for s = scale[b, o] * columns[k]."""
    batch, rows, k = weight.shape
    panels = (rows + PANEL_ROWS - 1) // PANEL_ROWS
    peak = histograms.shape[1] // 2
    total = 0.0
    for b in range(batch):
        for row in range(rows):
            target, error = histograms[b * panels + row // PANEL_ROWS], 0.0
            for column in range(k):
                value, step = weight[b, row, column], scale[b, row] * columns[column]
                level = np.rint(value / step)
                difference = np.float64(value - step * level)  # whose square float32 may not hold
                error += importance[b, row, column] * difference * difference
                target[min(max(int(level) + peak, 0), 2 * peak)] += 1
            total += error
    return total
