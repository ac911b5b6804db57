"""Covariances of what the layers that read channels are multiplied with: what one channel tells of the others.

| reader | x, for columns [rows, channels, taps] |
|---|---|
| Gemm, MatMul | the last axis of the input |
| Conv | channel and kernel position, at positions evenly spread |
| Conv with more than LARGEST of those, ConvTranspose | channel alone: every tap counts as a row |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.channels import Reader
from .calibrate import Feed, masked
from .moments import WATCHED
from .rig import Rig
from .vectors import Geometry, patches
from .views import plain

LARGEST = 2304
"""Values in x: a covariance of 42 MB in float64, inverted in about a second."""

VECTORS_EACH = 16
"""Vectors for each value of x that are drawn over all batches, where there are as many."""

LEAST_VECTORS = 8192

SPREAD = 16
"""Vectors of one sample that count as independent: neighbouring positions tell the same."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Covariance:
    """Mean [k] and covariance [k, k] of x, shrunk towards its diagonal by the share that so few samples leave uncertain.

    For a ConvTranspose the mean is 0 and the covariance is about 0: its outputs meet different taps, so no bias takes up the mean.
    """

    mean: Floats
    square: Floats


@dataclass(slots=True, eq=False)
class Sums:
    """Sums of x and x x^T over `count` vectors of `samples` samples so far."""

    first: Floats | float = 0.0
    second: Floats | float = 0.0
    count: int = 0
    samples: int = 0

    def plus(self, other: Sums) -> Sums:
        """Over both."""
        return Sums(self.first + other.first, self.second + other.second, self.count + other.count, self.samples + other.samples)

    def covariance(self, is_centred: bool) -> Covariance:
        """The off-diagonal part is taken times 1 / (1 + 2 (k / n)^1.5) for n independent vectors of k values."""
        count = max(self.count, 1)
        mean, square = np.asarray(self.first) / count, np.asarray(self.second) / count
        if not is_centred:
            mean = np.zeros_like(mean)
        covariance = square - np.outer(mean, mean)
        independent = max(min(self.count, SPREAD * self.samples), 1)
        diagonal = np.diag(np.diag(covariance))
        return Covariance(mean, diagonal + (covariance - diagonal) / (1 + 2 * (len(mean) / independent) ** 1.5))


def is_centred(reader: Reader) -> bool:
    """Whether a bias can take up the mean: not where outputs meet different taps."""
    return reader.node.op_type != "ConvTranspose"


def by_tap(reader: Reader) -> bool:
    """Whether x has a value for each channel and tap, or one for each channel alone."""
    columns = reader.columns()
    return reader.node.op_type != "ConvTranspose" and columns.shape[1] * columns.shape[2] <= LARGEST


def measure_sums(model: ir.Model, readers: Sequence[Reader], feeds: Sequence[Feed], seed: int) -> list[Sums]:
    """One for each reader. Raises CompressError where the model does not run on the feeds."""
    sums = [Sums() for _ in readers]
    sources = sorted({str(reader.source.name) for reader in readers})
    for start in range(0, len(sources), WATCHED):
        group = sources[start : start + WATCHED]
        rig = Rig(model, (), group)
        for number, feed in enumerate(feeds):
            values, mask = rig.run(feed, group), masked(feed)
            for reader, total in zip(readers, sums, strict=True):
                if str(reader.source.name) in group:
                    x = values[str(reader.source.name)]
                    inside = mask is not None and x.shape[: mask.ndim] == mask.shape and x.ndim > mask.ndim
                    _add(total, reader, x[mask] if inside else x, np.random.default_rng([seed, number]), len(feeds))
    return sums


def _add(total: Sums, reader: Reader, x: NDArray[np.generic], rng: np.random.Generator, batches: int) -> None:
    values = x.astype(np.float32, copy=False)
    vectors = _windows(reader, values, batches) if reader.node.op_type == "Conv" and by_tap(reader) else _plain_vectors(reader, values)
    wanted = _wanted(vectors.shape[1], batches)
    if len(vectors) > wanted:
        vectors = vectors[np.sort(rng.choice(len(vectors), wanted, replace=False))]
    wide = vectors.astype(np.float64)
    total.first, total.second = total.first + wide.sum(axis=0), total.second + wide.T @ wide
    total.count, total.samples = total.count + len(wide), total.samples + (x.shape[0] if x.ndim else 1)


def _wanted(k: int, batches: int) -> int:
    return max(1, -(-max(VECTORS_EACH * k, LEAST_VECTORS) // batches))


def _plain_vectors(reader: Reader, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """[vectors, k]; a block of entries that is not told apart by tap is further vectors."""
    if reader.node.op_type in ("Conv", "ConvTranspose"):
        return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    flat = x.reshape(-1, x.shape[-1])
    if by_tap(reader):
        return flat
    return np.moveaxis(flat.reshape(len(flat), -1, reader.slot.block), 1, 2).reshape(-1, flat.shape[1] // reader.slot.block)


def _windows(reader: Reader, x: NDArray[np.float32], batches: int) -> NDArray[np.float32]:
    """[vectors, channels * taps]: what filters meet at output positions, evenly spread."""
    dims = tuple(int(size) for size in reader.slot.value.const_value.shape.numpy())  # type: ignore[union-attr]
    return patches(x, Geometry.of(reader.node, plain(dims)), _wanted(int(np.prod(dims[1:])), batches))[0]
