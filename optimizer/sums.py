"""Sums over the vectors that a weight is multiplied with, and the means and covariances that they give."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LEAST_VARIANCE = 0.01
"""Of E[x^2]: a covariance has at least this much left on its diagonal."""

Sums = NDArray[np.float64]


@dataclass(slots=True)
class Half:
    """Sums over `count` vectors of one half of the data: of x [m, k] and of x x^T [m, k, k]."""

    first: Sums | float = 0.0
    matrix: NDArray[np.float32] | None = None
    count: int = 0

    def add(self, found: NDArray[np.float32]) -> None:
        """Adds vectors [m, n, k]."""
        product = np.matmul(found.transpose(0, 2, 1), found)
        self.matrix = product if self.matrix is None else np.add(self.matrix, product, out=self.matrix)
        self.first = self.first + found.sum(axis=1, dtype=np.float64)
        self.count += found.shape[1]

    def plus(self, other: Half) -> Half:
        """Over both."""
        assert self.matrix is not None
        assert other.matrix is not None
        return Half(np.asarray(self.first) + other.first, self.matrix + other.matrix, self.count + other.count)

    @property
    def mean(self) -> Sums:
        """E[x], [m, k]."""
        return np.asarray(self.first) / self.count

    def covariance(self) -> NDArray[np.float32]:
        """E[x x^T] - E[x] E[x]^T, [m, k, k], with at least LEAST_VARIANCE of E[x^2] on the diagonal."""
        assert self.matrix is not None
        found, mean = self.matrix / np.float32(self.count), self.mean.astype(np.float32)
        square = np.einsum("mkk->mk", found).copy()
        for number, centre in enumerate(mean):
            found[number] -= np.outer(centre, centre)
        diagonal = np.einsum("mkk->mk", found)
        np.maximum(diagonal, LEAST_VARIANCE * square, out=diagonal)
        return found


@dataclass(slots=True)
class Total:
    """Sums over `count` vectors so far, in `batches`: of x [m, k] and of x^2 [m, k]; of x x^T over the two halves of the data."""

    first: Sums | float = 0.0
    second: Sums | float = 0.0
    count: int = 0
    batches: int = 0
    halves: tuple[Half, Half] = field(default_factory=lambda: (Half(), Half()))
