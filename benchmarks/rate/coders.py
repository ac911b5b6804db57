"""Peers in a few lines each: round-to-nearest with an ideal entropy coder, and Deep Compression without its retraining."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

SCALE_BYTES = CENTROID_BYTES = 2
"""Both are float16, as our own small tensors are."""

CODE_LENGTH_BYTES = 1
"""For each symbol of a canonical Huffman code."""

STEPS = 100
"""Of k-means, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Weights as a decoder would give them back, and the bytes that they take."""

    weights: dict[str, Array]
    bytes: float
    seconds: float


def rounded(weights: Weights, bits: int) -> Coded:
    """Symmetric round-to-nearest, one scale a row; bytes are the entropy of the levels of each tensor (no table, no coder's loss) and the scales."""
    return _each(weights, lambda array: _round(array, bits))


def clustered(weights: Weights, bits: int) -> Coded:
    """Deep Compression's weight sharing: 2^bits centroids a tensor, linear initialisation, k-means, then Huffman. Not retrained, not pruned.

    Bytes: the Huffman code with real lengths, centroids, code lengths. After: Han, Mao and Dally 2016, sections 3 and 4.
    """
    return _each(weights, lambda array: _cluster(array, bits))


def _each(weights: Weights, code: Callable[[Array], tuple[Array, float]]) -> Coded:
    begun = time.monotonic()
    pairs = {name: code(array) for name, array in weights.items()}
    decoded, sizes = {name: pair[0] for name, pair in pairs.items()}, [pair[1] for pair in pairs.values()]
    return Coded(decoded, sum(sizes), time.monotonic() - begun)


def _round(array: Array, bits: int) -> tuple[Array, float]:
    largest = 2 ** (bits - 1) - 1
    scale = (np.abs(array).max(axis=1, keepdims=True) / largest).astype(np.float16).astype(np.float32)
    levels = np.clip(np.rint(array / np.where(scale > 0, scale, 1)), -largest, largest).astype(np.int32)
    counts = np.bincount(levels.ravel() + largest)
    return (levels * scale).astype(np.float32), _entropy_bits(counts) / 8 + SCALE_BYTES * len(scale)


def _entropy_bits(counts: NDArray[np.int64]) -> float:
    """Of all symbols together."""
    present = counts[counts > 0]
    return float((present * np.log2(present.sum() / present)).sum())


def _cluster(array: Array, bits: int) -> tuple[Array, float]:
    centroids = _means(np.sort(array, axis=None), 2**bits).astype(np.float16).astype(np.float32)
    codes = np.searchsorted(_middles(centroids), array)
    counts = np.bincount(codes.ravel(), minlength=len(centroids))
    stored = int((counts > 0).sum()) * (CENTROID_BYTES + CODE_LENGTH_BYTES)
    return centroids[codes], _huffman_bits(counts) / 8 + stored


def _means(values: Array, count: int) -> NDArray[np.float64]:
    """k-means of sorted values: clusters are runs between the middles of their centroids, so that prefix sums give the means."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    centroids = np.linspace(float(values[0]), float(values[-1]), count)
    for _ in range(STEPS):
        edges = np.concatenate([[0], np.searchsorted(values, _middles(centroids)), [len(values)]])
        sizes = np.diff(edges)
        moved = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), centroids)
        if np.allclose(moved, centroids, rtol=1e-6, atol=0):
            break
        centroids = moved
    return centroids


def _middles(centroids: NDArray) -> NDArray:
    return (centroids[1:] + centroids[:-1]) / 2


def _huffman_bits(counts: NDArray[np.int64]) -> int:
    """Of all symbols together: each merge of the two rarest adds one bit to every symbol below it. A single symbol still takes one bit each."""
    heap = [int(count) for count in counts if count > 0]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        heapq.heappush(heap, merged)
        total += merged
    return total
