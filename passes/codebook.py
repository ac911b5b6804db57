"""Cluster: weights share the values of a small trained codebook.

After: Han, Mao and Dally 2015 (arXiv:1510.00149, Deep Compression). In place of retraining, centroids minimise the error weighted by the measured
second moments of the inputs, which is the layer's output error for uncorrelated inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Codebook, Dense, Symbols
from .prune import Prune
from .technique import Context, Refusal, log8, log8_values, row_rms

BINS = 4096
"""Resolution of the one-dimensional histogram on which centroids are trained: 1/4096 of the range is far below any cluster's width."""

ITERATIONS = 30


@dataclass(frozen=True, slots=True)
class Cluster:
    """`count` centroids by weighted k-means, linear initialisation; with `row_scale` values are first divided by their row's rms."""

    count: int
    row_scale: bool = True

    def apply(self, weight: NDArray[np.float32], context: Context) -> Codebook | Refusal:
        """A Codebook with float16 centroids."""
        return self.fit(weight, context, None)

    def fit(self, weight: NDArray[np.float32], context: Context, kept: NDArray[np.bool_] | None) -> Codebook | Refusal:
        """As `apply`; where `kept` is false the code is that of an exact zero, which then is one of the centroids."""
        scale = log8(row_rms(weight)) if self.row_scale else None
        if isinstance(scale, Refusal):
            return scale
        rows = np.ones(weight.shape[:2], np.float32) if scale is None else log8_values(scale).reshape(weight.shape[:2])
        chosen = np.broadcast_to(np.bool_(True), weight.shape) if kept is None else kept
        if not chosen.any():
            return Refusal("nothing is left to cluster")
        centroids = train(weight, rows, context.importance(weight.shape), chosen, self.count - (kept is not None))
        if kept is not None:
            centroids = np.unique(np.append(centroids, np.float32(0)))
        with np.errstate(over="ignore"):
            centroids = np.unique(centroids.astype(np.float16).astype(np.float32) + np.float32(0))  # + 0: no negative zero
        if not np.isfinite(centroids).all():
            return Refusal("centroids are outside the range of float16")
        codes = np.empty(weight.shape, np.int32)
        _assign(weight, rows, (centroids[1:] + centroids[:-1]) / 2, codes)
        if kept is not None:
            codes[~kept] = int(np.searchsorted(centroids, np.float32(0)))
        return Codebook(Dense("float16", centroids.astype("<f2").view(np.uint16)), Symbols(codes), scale)


@dataclass(frozen=True, slots=True)
class Chain:
    """Prune, then cluster what is left: Deep Compression's first two stages (the entropy pass is its third).

    The zeros become one class of the one alphabet: coding mask and codes apart costs the same bits (the chain rule of entropy) and a second stream.
    """

    prune: Prune
    cluster: Cluster

    def apply(self, weight: NDArray[np.float32], context: Context) -> Codebook | Refusal:
        """A Codebook with an exact zero among its centroids."""
        kept = self.prune.kept(weight, context)
        if isinstance(kept, Refusal):
            return kept
        return self.cluster.fit(weight, context, kept)


def train(
    weight: NDArray[np.float32], scale: NDArray[np.float32], importance: NDArray[np.float32], chosen: NDArray[np.bool_], count: int, rounds: int = ITERATIONS
) -> NDArray[np.float32]:
    """Weighted k-means of weight / scale in one dimension, on a histogram; empty clusters disappear. Sorted, float32 [<= count]."""
    low, high = _range(weight, scale, chosen)
    line = np.array([low, (BINS - 1) / (high - low) if high > low else 0.0])
    mass, sums = np.zeros(BINS), np.zeros(BINS)
    relative = (scale / scale.max()).astype(np.float64) ** 2  # an error in weight / scale counts by scale^2; only ratios matter
    _bin(weight, scale, importance, chosen, line, relative, mass, sums)
    used = mass > 0
    means = sums[used] / mass[used]
    mass, sums = np.cumsum(mass[used]), np.cumsum(sums[used])
    centroids = np.linspace(low, high, max(count, 1))
    for _ in range(rounds):
        edges = np.searchsorted(means, (centroids[1:] + centroids[:-1]) / 2)
        cut = np.concatenate([[0], edges, [len(means)]])
        totals = np.diff(np.concatenate([[0], mass])[cut])
        weighted = np.diff(np.concatenate([[0], sums])[cut])
        centroids = weighted[totals > 0] / totals[totals > 0]
    return np.sort(centroids).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _range(weight: NDArray, scale: NDArray, chosen: NDArray) -> tuple[float, float]:
    """The least and the largest chosen weight / scale."""
    low, high = np.inf, -np.inf
    for batch in range(weight.shape[0]):
        for row in range(weight.shape[1]):
            for column in range(weight.shape[2]):
                if chosen[batch, row, column]:
                    value = weight[batch, row, column] / scale[batch, row]
                    low, high = min(low, value), max(high, value)
    return low, high


@numba.njit(cache=True, nogil=True)
def _bin(
    weight: NDArray, scale: NDArray, importance: NDArray, chosen: NDArray, line: NDArray, factor: NDArray, mass: NDArray, sums: NDArray
) -> None:
    """Adds importance * factor, and that times the value, to the bin (value - line[0]) * line[1] of each chosen value weight / scale."""
    for batch in range(weight.shape[0]):
        for row in range(weight.shape[1]):
            for column in range(weight.shape[2]):
                if chosen[batch, row, column]:
                    value = weight[batch, row, column] / scale[batch, row]
                    number = min(max(int((value - line[0]) * line[1]), 0), len(mass) - 1)
                    share = importance[batch, row, column] * factor[batch, row] + 1e-12
                    mass[number] += share
                    sums[number] += share * value


@numba.njit(cache=True, nogil=True)
def _assign(weight: NDArray, scale: NDArray, borders: NDArray, codes: NDArray) -> None:
    """codes = how many of the ascending borders lie below weight / scale."""
    for batch in range(weight.shape[0]):
        for row in range(weight.shape[1]):
            for column in range(weight.shape[2]):
                value, low, high = weight[batch, row, column] / scale[batch, row], 0, len(borders)
                while low < high:
                    middle = (low + high) // 2
                    if borders[middle] < value:
                        low = middle + 1
                    else:
                        high = middle
                codes[batch, row, column] = low
