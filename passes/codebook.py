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
        normal = weight if scale is None else weight / log8_values(scale).reshape(*weight.shape[:2], 1)
        importance = context.importance(weight.shape)
        if scale is not None:
            relative = log8_values(scale) / log8_values(scale).max()  # only ratios matter, and squares of large scales overflow
            importance = importance * relative.reshape(*weight.shape[:2], 1) ** 2
        chosen = normal if kept is None else normal[kept]
        if chosen.size == 0:
            return Refusal("nothing is left to cluster")
        centroids = _train(
            chosen.reshape(-1), (importance if kept is None else importance[kept]).reshape(-1), self.count - (kept is not None)
        )
        if kept is not None:
            centroids = np.unique(np.append(centroids, np.float32(0)))
        with np.errstate(over="ignore"):
            centroids = np.unique(centroids.astype(np.float16).astype(np.float32) + np.float32(0))  # + 0: no negative zero
        if not np.isfinite(centroids).all():
            return Refusal("centroids are outside the range of float16")
        codes = _nearest(normal, centroids)
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


def _nearest(values: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """The number of the nearest of the sorted centroids."""
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values).astype(np.int32)


def _train(values: NDArray[np.float32], weights: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Weighted k-means in one dimension on a histogram; empty clusters disappear. Sorted, float32 [<= count]."""
    low, high = float(values.min()), float(values.max())
    if high == low or count < 2:
        return np.array([np.average(values.astype(np.float64), weights=np.maximum(weights, 1e-12))], np.float32)
    mass, sums = np.zeros(BINS), np.zeros(BINS)
    _bin(values, weights, np.array([low, (BINS - 1) / (high - low)]), mass, sums)
    used = mass > 0
    means = sums[used] / mass[used]
    mass, sums = np.cumsum(mass[used]), np.cumsum(sums[used])
    centroids = np.linspace(low, high, count)
    for _ in range(ITERATIONS):
        edges = np.searchsorted(means, (centroids[1:] + centroids[:-1]) / 2)
        cut = np.concatenate([[0], edges, [len(means)]])
        totals = np.diff(np.concatenate([[0], mass])[cut])
        weighted = np.diff(np.concatenate([[0], sums])[cut])
        centroids = weighted[totals > 0] / totals[totals > 0]
    return np.sort(centroids).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _bin(values: NDArray, weights: NDArray, line: NDArray, mass: NDArray, sums: NDArray) -> None:
    """Adds weights, and weights times values, to the bin (value - line[0]) * line[1] of each value."""
    for i in range(len(values)):
        bin_number = int((values[i] - line[0]) * line[1])
        weight = weights[i] + 1e-12
        mass[bin_number] += weight
        sums[bin_number] += weight * values[i]
