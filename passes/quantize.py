"""Quantize: a uniform grid with one step a row (and optionally a factor a column), to be entropy-coded.

With an ideal entropy coder the uniform grid is within 0.255 bit of the rate-distortion bound at any rate (Gish and Pierce 1968), which no
fixed-length codebook is; hence it is the family that the others must beat. Two refinements: error feedback takes up each rounding error in what is
still to be rounded, on the measured second moments (`feedback.py`); a trellis interleaves two coarser grids (`runtime/trellis.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.evaluate import dense_values
from ..runtime.form import Dense, Form, Grid, Symbols
from ..runtime.trellis import NEXT
from .feedback import Factor, round_rows, trellis_rows
from .technique import Context, Made, Refusal, log8, log8_values, row_rms

MAX_LEVEL = 32000
"""Levels are 16-bit symbols; a margin is left for the classes' rounding."""

FEEDBACK_LEVEL = 8000
"""The same where feedback moves what is rounded: no more than fourfold, or the moments are no use."""

FLOAT16_SCALES = (2.0**-12, 2.0**15)
"""A single scale in this range is a float16, with an error of 2^-11; outside, a float32."""


LEAST_FLOAT16 = 2.0**-18


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A grid, and the squared error of each of its rows under `factor_of`, [batch * rows]."""

    form: Grid
    errors: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quantize:
    """level = round(w / scale), scale[o, k] = step * rms * (rms[o] / rms)^power * (E[x_k^2] / E[x^2])^(-columns / 2) * importance[o]^(-rows / 2).

    `step` is relative to the weight's root mean square; `power` 0 gives all rows one step, 1 a step in proportion to the row's own magnitude;
    `columns` 0 is a grid without column scale, 1 makes every input contribute the same error, which needs measured moments; `rows` 1 makes
    every row contribute the same error to the model's outputs, which needs their importance. With `feedback` errors are fed back (needs a factor);
    with `trellis` levels follow the trellis, and `step` is that of the grid that its two quantizers make up. `folded` is for weights that plain
    operators decode: scales are in 16 bits, and there are neither trellis nor columns.
    """

    step: float
    power: float = 1.0
    columns: float = 0.0
    rows: float = 0.0
    feedback: bool = False
    trellis: bool = False
    folded: bool = False

    def apply(self, weight: NDArray[np.float32], context: Context) -> Form | Refusal:
        """A Grid with log8 scales (float16 ones where it is folded), or one float scale for all."""
        made = self.made(weight, context)
        return made if isinstance(made, Refusal) else made.form

    def made(self, weight: NDArray[np.float32], context: Context) -> Made | Refusal:
        """The Grid and its error."""
        found = self.rounded(weight, context)
        return found if isinstance(found, Refusal) else Made(found.form, total_error(found.errors, context, self.feedback))

    def rounded(self, weight: NDArray[np.float32], context: Context) -> Rounded | Refusal:
        """The Grid and the error of each row."""
        steps = self.steps(weight, context)
        if isinstance(steps, Refusal):
            return steps
        limit = FEEDBACK_LEVEL if self.feedback else MAX_LEVEL
        factor = factor_of(context, weight.shape, self.feedback)
        if isinstance(factor, Refusal):
            return factor
        if peak(weight, steps) > limit:
            return Refusal(f"step {self.step:g} gives levels beyond {limit}")
        levels, errors = _levels(weight, steps, factor, self.trellis)
        if int(levels.max(initial=0)) > MAX_LEVEL or int(levels.min(initial=0)) < -MAX_LEVEL:
            return Refusal(f"error feedback at step {self.step:g} gives levels beyond {MAX_LEVEL}")
        symbols = Symbols(levels, quantizers=2 if self.trellis else 1)
        return Rounded(Grid(steps.rows, symbols, steps.columns), errors)

    def at(self, factor: float) -> Quantize:
        """The same with all steps times a factor."""
        return replace(self, step=self.step * factor)

    def steps(self, weight: NDArray[np.float32], context: Context) -> Steps | Refusal:
        """The grid's steps by row and, where `columns` asks for it, by column."""
        rows = self._row_scale(weight, context)
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

    def _row_scale(self, weight: NDArray[np.float32], context: Context) -> Dense | Refusal:
        """log8 of step * rms * (rms[o] / rms)^power * importance[o]^(-rows / 2); one value where all are equal."""
        rms = row_rms(weight)
        whole = float(np.sqrt(np.mean(rms.astype(np.float64) ** 2)))
        if whole == 0:
            return Refusal("all values are zero")
        if self.power == 0 and self.rows == 0:
            return single_scale(self.step * whole)
        wanted = whole * np.maximum(rms / whole, 1e-4) ** self.power
        if self.rows:
            if context.rows is None:
                return Refusal("steps by the importance of rows need to know it")
            wanted = wanted * context.rows.reshape(wanted.shape) ** np.float32(-self.rows / 2)
        with np.errstate(over="ignore"):  # log8 refuses an infinity
            steps = (self.step * wanted).astype(np.float32)
        return half(steps) if self.folded else log8(steps)


def half(values: NDArray[np.float32]) -> Dense | Refusal:
    """Positive values as float16, what is too small as the least that is accurate to 1 %."""
    largest = float(values.max(initial=0.0))
    if not FLOAT16_SCALES[0] <= largest <= FLOAT16_SCALES[1]:
        return Refusal(f"a scale of {largest:g} is outside {FLOAT16_SCALES[0]:g}..{FLOAT16_SCALES[1]:g}")
    return Dense("float16", np.maximum(values, LEAST_FLOAT16).astype("<f2").view(np.uint16).reshape(-1))


def single_scale(value: float) -> Dense | Refusal:
    """One positive scale: float16 where that holds it well, else float32."""
    if not 1e-25 < value < 1e25:
        return Refusal(f"a scale of {value:g} is outside 1e-25..1e25")
    if FLOAT16_SCALES[0] <= value <= FLOAT16_SCALES[1]:
        return Dense("float16", np.array([value], "<f2").view(np.uint16))
    return Dense("float32", np.array([value], "<f4").view(np.uint32))


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Scales of a grid, as stored, for a weight of `shape`."""

    rows: Dense
    columns: Dense | None
    shape: tuple[int, ...]

    @property
    def row_values(self) -> NDArray[np.float32]:
        """[batch, rows], or [1, 1] where one serves all."""
        values = dense_values(self.rows)
        return values.reshape(self.shape[:2] if len(values) > 1 else (1, 1))

    @property
    def column_values(self) -> NDArray[np.float32]:
        """[k], or [1]."""
        return np.ones(1, np.float32) if self.columns is None else log8_values(self.columns)


def peak(weight: NDArray[np.float32], steps: Steps) -> float:
    """The largest |level|; infinite where the division overflows."""
    with np.errstate(over="ignore"):
        if steps.columns is None:
            largest = np.maximum(weight.max(axis=2, initial=0), -weight.min(axis=2, initial=0))
        else:
            largest = np.abs(weight / steps.column_values).max(axis=2, initial=0)
        return float(np.rint(largest / steps.row_values).max(initial=0))


def factor_of(context: Context, shape: tuple[int, int, int], feedback: bool) -> Factor | Refusal:
    """What errors are fed back by and counted with: the measured factor, or without feedback one that has no gains, its variances in `Context.unit`."""
    if not feedback:
        return _unrelated(context, shape)
    if context.factor is None:
        return Refusal("error feedback needs calibration data for the layer's inputs")
    return context.factor()


def total_error(errors: NDArray[np.float64], context: Context, feedback: bool) -> float:
    """The error of a weight in `Context.unit`, from those of its rows under `factor_of`."""
    total = errors.sum() if context.rows is None else errors @ context.rows
    return float(total) / (context.unit if feedback else 1.0)


def _unrelated(context: Context, shape: tuple[int, int, int]) -> Factor:
    """What stands for a factor where there is none: no gains, and the importance of each value."""
    batch, rows, k = shape
    square = np.ones((1, 1, 1), np.float32) if context.square is None or not context.square.any() else context.square
    parts = batch * rows if square.shape[1] > 1 else batch if square.shape[0] > 1 else 1
    each = np.broadcast_to(square / np.float32(context.unit), (square.shape[0], square.shape[1], k)).reshape(-1, k)
    return Factor(np.empty((0, 0, 0), np.float32), each if len(each) == parts else np.tile(each, (parts // len(each), 1)))


def _levels(weight: NDArray[np.float32], steps: Steps, factor: Factor, trellis: bool) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """(levels [batch, rows, k], squared error of each row)."""
    batch, rows, k = weight.shape
    flat = weight.reshape(-1, k)
    scale = np.ascontiguousarray(np.broadcast_to(steps.row_values, (batch, rows))).reshape(-1)
    columns = np.ascontiguousarray(np.broadcast_to(steps.column_values, (k,)))
    levels, errors = np.empty((batch * rows, k), np.int32), np.zeros(batch * rows)
    if not trellis and not factor.gains.size:
        _round(flat, scale, columns, factor.variances, levels, errors)
    elif trellis:
        trellis_rows(flat, scale, columns, factor.gains, factor.variances, levels, errors, NEXT)
    else:
        round_rows(flat, scale, columns, factor.gains, factor.variances, levels, errors)
    return levels.reshape(weight.shape), errors


@numba.njit(cache=True, nogil=True, error_model="numpy")  # divisions by a scale, which is never zero, need no check
def _round(weight: NDArray, scale: NDArray, columns: NDArray, importance: NDArray, levels: NDArray, errors: NDArray) -> None:
    """levels = round(w / s), errors[row] = sum of importance * (w - s * level)^2, for s = scale[row] * columns[k]; importance [m, k]."""
    rows, k = weight.shape
    each = rows // importance.shape[0]
    for row in range(rows):
        share, error = importance[row // each], 0.0
        for column in range(k):
            value, step = weight[row, column], scale[row] * columns[column]
            level = np.rint(value / step)
            difference = np.float64(value - step * level)  # whose square float32 may not hold
            error += share[column] * difference * difference
            levels[row, column] = int(level)
        errors[row] = error
