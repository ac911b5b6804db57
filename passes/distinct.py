"""Distinct: a weight of few different values as a codebook of those very values, without loss.

Weights of one value, signs, masks, and those of networks that were trained with quantized weights and stored as floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Codebook, Dense, Symbols
from .technique import Context, Refusal

MOST = 256
"""Different values: codes are at most 8 bits."""

SAMPLE = 4096
"""Values looked at first: nearly all weights have too many different ones already here."""


@dataclass(frozen=True, slots=True)
class Distinct:
    """The values that occur, up to 256, told apart by their bits, so that -0.0 comes back."""

    def apply(self, weight: NDArray[np.float32], context: Context) -> Codebook | Refusal:  # noqa: ARG002  the interface of a technique
        """A Codebook with float32 centroids, ascending."""
        bits = np.ascontiguousarray(weight).view(np.uint32).reshape(-1)
        stride = max(bits.size // SAMPLE, 1)
        if len(np.unique(bits[::stride])) > MOST:
            return Refusal(f"more than {MOST} different values")
        found = np.unique(bits)
        if not 1 <= len(found) <= MOST:
            return Refusal(f"{len(found)} different values, not 1 to {MOST}")
        if not np.isfinite(found.view(np.float32)).all():
            return Refusal("it holds NaN or infinite values")
        order = np.argsort(found.view(np.float32), kind="stable")
        rank = np.empty(len(found), np.int32)
        rank[order] = np.arange(len(found))
        codes = rank[np.searchsorted(found, bits)].reshape(weight.shape)
        return Codebook(Dense("float32", found[order]), Symbols(codes))
