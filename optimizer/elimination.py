"""Which channels a layer can do without: one is taken away after the other, and the weights of those that stay make up for it as well as they can.

With the covariance C of the inputs and its inverse P, taking away channel c (its taps) from weights W costs, in squared error of the outputs,

    tr(w_c (P_cc)^-1 w_c^T),   then   W <- W - w_c (P_cc)^-1 P_c:,   P <- P - P_:c (P_cc)^-1 P_c:

which is exactly the least squares fit of the channels that are left, and the bias takes up the mean. After: Hassibi and Stork 1993 (optimal brain surgeon).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..passes.channels import Chain, Reader
from .covariances import Covariance, by_tap

RIDGE = 1e-4
"""Of the mean variance, added to every value's: channels that never vary have none."""

Floats = NDArray[np.float64]


def weights_of(reader: Reader) -> Floats:
    """[rows, channels, taps]; where taps are not told apart, [rows * taps, channels, 1]."""
    columns = reader.columns().astype(np.float64)
    return columns if by_tap(reader) else np.moveaxis(columns, 2, 1).reshape(-1, columns.shape[1], 1)


def to_columns(reader: Reader, weights: Floats) -> Floats:
    """The inverse of `weights_of`."""
    rows, channels, taps = reader.columns().shape
    return weights if by_tap(reader) else np.moveaxis(weights.reshape(rows, taps, channels), 1, 2)


def regular(covariance: Covariance) -> Floats:
    """The covariance with its ridge."""
    size = len(covariance.square)
    return np.asarray(covariance.square + (RIDGE * np.trace(covariance.square) / size + 1e-12) * np.eye(size))


@dataclass(frozen=True, slots=True, eq=False)
class Refit:
    """A reader's new columns (0 for the channels that go), what they add to the rows' mean that a bias should take off, and the error left."""

    columns: Floats
    shift: Floats
    error: float


def refit(reader: Reader, covariance: Covariance, kept: NDArray[np.bool_]) -> Refit:
    """W' = W C_:K (C_KK)^-1: the least squares fit of W x by the channels that are kept."""
    weights = weights_of(reader)
    rows, channels, taps = weights.shape
    flat, inside = weights.reshape(rows, -1), np.repeat(kept, taps)
    square = regular(covariance)
    fitted = np.zeros_like(flat)
    fitted[:, inside] = np.linalg.solve(square[np.ix_(inside, inside)], square[inside] @ flat.T).T
    difference = flat - fitted
    mean = (difference @ covariance.mean).reshape(-1, 1 if by_tap(reader) else reader.columns().shape[2]).sum(axis=1)
    error = float(np.einsum("rk,rk->", difference @ covariance.square, difference))
    return Refit(to_columns(reader, fitted.reshape(rows, channels, taps)), mean, error)


class Elimination:
    """`Elimination(chain, covariances, importances)`: takes channels away from a chain, always the one that costs least next.

    Costs are errors of the readers times their `importances`, divergence for one unit of error.
    """

    def __init__(self, chain: Chain, covariances: Sequence[Covariance], importances: Sequence[float]) -> None:
        self._importances = importances
        self._weights = [weights_of(reader) for reader in chain.readers]
        self._taps = [weights.shape[2] for weights in self._weights]
        self._inverses = [np.linalg.inv(regular(covariance)) for covariance in covariances]
        self.kept = np.ones(chain.channels, np.bool_)

    def take(self) -> tuple[int, float]:
        """(the channel that was taken away, what that cost)."""
        costs = sum(self._costs(number) for number in range(len(self._weights)))
        costs = np.where(self.kept, costs, np.inf)
        channel = int(np.argmin(costs))
        self.remove(channel)
        return channel, float(costs[channel])

    def remove(self, channel: int) -> None:
        """Takes one channel away."""
        self.kept[channel] = False
        for number, (weights, inverse, taps) in enumerate(zip(self._weights, self._inverses, self._taps, strict=True)):
            flat = weights.reshape(len(weights), -1)
            inside = slice(channel * taps, (channel + 1) * taps)
            solved = np.linalg.solve(inverse[inside, inside], inverse[inside])
            self._weights[number] = (flat - flat[:, inside] @ solved).reshape(weights.shape)
            updated = inverse - inverse[:, inside] @ solved
            updated[inside], updated[:, inside] = 0.0, 0.0
            updated[inside, inside] = np.eye(taps)
            self._inverses[number] = updated

    def _costs(self, number: int) -> Floats:
        """What each channel would cost in one reader; those that are gone have no weights any more, and cost nothing."""
        weights, taps = self._weights[number], self._taps[number]
        grid = self._inverses[number].reshape(-1, taps, len(self.kept), taps)
        blocks = np.einsum("itiu->itu", grid)
        gram = np.einsum("rct,rcu->ctu", weights, weights, optimize=True)
        return np.asarray(self._importances[number] * np.einsum("ctt->c", np.linalg.solve(blocks, gram)))
