"""Prune: the least important weights become zero, the others stay as they are.

After: Han, Pool, Tran and Dally 2015 (arXiv:1506.02626) for the magnitude; Sun et al. 2023 (arXiv:2306.11695) for weighting it by the activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Dense, Sparse, Symbols
from .technique import Context, Refusal


@dataclass(frozen=True, slots=True)
class Prune:
    """Zeroes the share `sparsity` of a weight with the least |w| * sqrt(E[x^2]) (|w| alone without calibration).

    Exactly that share: of equal ones the first stay. More only where more are zero already.
    """

    sparsity: float

    def apply(self, weight: NDArray[np.float32], context: Context) -> Sparse | Refusal:
        """A Sparse form with the kept values in float32."""
        kept = self.kept(weight, context)
        if isinstance(kept, Refusal):
            return kept
        return Sparse(Symbols(kept.astype(np.int32)), Dense("float32", weight[kept].view(np.uint32)))

    def kept(self, weight: NDArray[np.float32], context: Context) -> NDArray[np.bool_] | Refusal:
        """The mask of values that stay, [batch, rows, k]."""
        if not 0 <= self.sparsity < 1:
            return Refusal(f"a sparsity of {self.sparsity} is outside 0..1")
        score = np.abs(weight) * np.sqrt(context.importance(weight.shape))
        dropped = round(self.sparsity * score.size)
        if dropped == 0:
            return weight != 0
        threshold = np.partition(score, dropped - 1, axis=None)[dropped - 1]
        kept = score > threshold
        ties = np.flatnonzero(score == threshold)[: score.size - dropped - int(kept.sum())]
        np.put(kept, ties, threshold > 0)
        return kept
