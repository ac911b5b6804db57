"""Thin: prune, then a uniform grid for what is left: zeros that stay zeros, below one bit a weight.

With error feedback what pruning takes away is taken up by the columns behind. After: Frantar and Alistarh 2023 (arXiv:2301.00774, SparseGPT), with the
mask chosen beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Form, Grid, Symbols
from .feedback import LANES, add_gains
from .prune import Prune
from .quantize import FEEDBACK_LEVEL, Quantize, factor_of, peak, total_error
from .technique import Context, Made, Refusal


@dataclass(frozen=True, slots=True)
class Thin:
    """`prune`, then `grid` (without a trellis) for the values that it keeps."""

    prune: Prune
    grid: Quantize

    def apply(self, weight: NDArray[np.float32], context: Context) -> Form | Refusal:
        """A Grid with level 0 wherever `prune` drops a value."""
        made = self.made(weight, context)
        return made if isinstance(made, Refusal) else made.form

    def at(self, factor: float) -> Thin:
        """The same with all steps times a factor."""
        return replace(self, grid=self.grid.at(factor))

    def made(self, weight: NDArray[np.float32], context: Context) -> Made | Refusal:
        """The Grid and its error."""
        kept = self.prune.kept(weight, context)
        if isinstance(kept, Refusal):
            return kept
        steps = self.grid.steps(weight, context)
        if isinstance(steps, Refusal):
            return steps
        if self.grid.trellis:
            return Refusal("a trellis has no level that every state can take")
        factor = factor_of(context, weight.shape, self.grid.feedback)
        if isinstance(factor, Refusal):
            return factor
        if peak(weight, steps) > FEEDBACK_LEVEL:
            return Refusal(f"step {self.grid.step:g} gives levels beyond {FEEDBACK_LEVEL}")
        batch, rows, k = weight.shape
        scale = np.ascontiguousarray(np.broadcast_to(steps.row_values, (batch, rows))).reshape(-1)
        columns = np.ascontiguousarray(np.broadcast_to(steps.column_values, (k,)))
        levels, errors = np.zeros((batch * rows, k), np.int32), np.zeros(batch * rows)
        _thin_rows(weight.reshape(-1, k), kept.reshape(-1, k), scale, columns, factor.gains, factor.variances, levels, errors)
        grid = Grid(steps.rows, Symbols(levels.reshape(weight.shape)), steps.columns)
        return Made(grid, total_error(errors, context, self.grid.feedback))


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _thin_rows(
    weight: NDArray, kept: NDArray, scale: NDArray, columns: NDArray, gains: NDArray, variances: NDArray, levels: NDArray, errors: NDArray
) -> None:
    """As `round_rows` where `kept`, else level 0; `gains` of shape [0, 0, 0] are none."""
    rows, k = weight.shape
    each = rows // variances.shape[0]
    lanes, feeds = min(LANES, each), gains.shape[1] > 0
    history, acc = np.zeros((k, lanes), np.float32), np.zeros(lanes, np.float32)
    for first in range(0, rows, each):
        part = first // each
        for start in range(first, first + each, lanes):
            width = min(lanes, first + each - start)
            for j in range(k):
                acc[:] = 0
                if feeds:
                    add_gains(acc, gains[part, j], history, j)
                for lane in range(width):
                    row = start + lane
                    step = scale[row] * columns[j]
                    target = weight[row, j] + acc[lane]
                    level = np.rint(target / step) if kept[row, j] else np.float32(0)
                    level = min(max(level, np.float32(-32000)), np.float32(32000))
                    value = step * level
                    levels[row, j] = int(level)
                    history[j, lane] = weight[row, j] - value
                    errors[row] += variances[part, j] * (np.float64(target) - value) ** 2
