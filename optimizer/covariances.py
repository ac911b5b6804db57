"""Covariances of what the layers that read channels are multiplied with: what one channel tells of the others.

| reader | x, for columns [rows, channels, taps] |
|---|---|
| Gemm, MatMul | the last axis of the input |
| Conv | channel and kernel position, at positions evenly spread |
| Conv with more than LARGEST of those, ConvTranspose | channel alone: every tap counts as a row |

Sums and shrinkage are those of `moments.py` and `shrinkage.py`; the two halves of the data are what probes see and what they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.channels import Reader
from .calibrate import Feed, masked
from .moments import WATCHED, counted
from .rig import Rig
from .shrinkage import cross_validated, shrunk
from .sums import Half
from .vectors import Geometry, patches, spread
from .views import plain

LARGEST = 2304
"""Values in x: a covariance of 42 MB in float64, inverted in about a second."""

VECTORS_EACH = 16
"""Vectors for each value of x that are drawn over all batches, where there are as many."""

LEAST_VECTORS = 8192

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Covariance:
    """Mean [k] and shrunk covariance [k, k] of x.

    For a ConvTranspose the mean is 0 and the covariance is about 0: its outputs meet different taps, so no bias takes up the mean.
    """

    mean: Floats
    square: Floats

    @staticmethod
    def of(half: Half, share: float, is_centred: bool) -> Covariance:
        """Shrunk by `share`."""
        (square,), (mean,) = shrunk(half.covariance(), share).astype(np.float64), half.mean
        return Covariance(mean, square) if is_centred else Covariance(np.zeros_like(mean), square + np.outer(mean, mean))


def covariances(reader: Reader, weights: Floats, others: Half, probes: Half) -> tuple[Covariance, Covariance]:
    """Over all data, and over what is no probe (all, where there is nothing else); `weights` [rows, channels, taps] are those that read x."""
    centred = reader.node.op_type != "ConvTranspose"
    if not others.count or not probes.count:
        only = Covariance.of(others if others.count else probes, 0.0, centred)
        return only, only
    rows = weights.reshape(1, len(weights), -1).astype(np.float32)
    share, _ = cross_validated([others.covariance(), probes.covariance()], rows)
    return Covariance.of(others.plus(probes), share, centred), Covariance.of(others, share, centred)


def by_tap(reader: Reader) -> bool:
    """Whether x has a value for each channel and tap, or one for each channel alone."""
    columns = reader.columns()
    return reader.node.op_type != "ConvTranspose" and columns.shape[1] * columns.shape[2] <= LARGEST


def measure_halves(model: ir.Model, readers: Sequence[Reader], feeds: Sequence[Feed]) -> list[Half]:
    """Sums over these feeds, one for each reader. Raises CompressError where the model does not run on the feeds."""
    halves = [Half() for _ in readers]
    sources = sorted({str(reader.source.name) for reader in readers})
    for start in range(0, len(sources), WATCHED):
        group = sources[start : start + WATCHED]
        rig = Rig(model, (), group)
        for feed in feeds:
            values, mask = rig.run(feed, group), masked(feed)
            for reader, half in zip(readers, halves, strict=True):
                if str(reader.source.name) in group:
                    x = counted(values[str(reader.source.name)], mask)
                    half.add(_vectors(reader, x.astype(np.float32, copy=False), len(feeds)))
    return halves


def _vectors(reader: Reader, x: NDArray[np.float32], batches: int) -> NDArray[np.float32]:
    """[1, vectors, k], evenly spread, as many as each of the batches gives."""
    if reader.node.op_type == "Conv" and by_tap(reader):
        dims = tuple(int(size) for size in reader.slot.value.const_value.shape.numpy())  # type: ignore[union-attr]
        return patches(x, Geometry.of(reader.node, plain(dims)), _wanted(int(np.prod(dims[1:])), batches))[:1]
    found = _plain_vectors(reader, x)
    return np.ascontiguousarray(found[spread(len(found), _wanted(found.shape[1], batches))])[None]


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
