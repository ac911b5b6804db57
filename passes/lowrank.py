"""LowRank: a matrix as the product of two thin ones, which are weights of their own and compete like all others.

With H = R R^T, the second moments of the inputs, the squared error of the outputs is |(W - W') R|^2, so that the best W' of rank r keeps the r largest singular
values of W R: W' = P P^T W for its left singular vectors P [rows, r]. After: Eckart and Young 1936; Yuan et al. 2023 (arXiv:2312.05821, ASVD).

`worthwhile` estimates from the spectrum whether factors pay: at b bits a weight a grid errs by 2^(-2b) of a value's energy; the same bytes leave the factors
b' = b * rows * k / (r * (rows + k)) bits, an error of that kind each, and what is cut off. Trained layers hardly ever qualify.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .technique import Context, Refusal

LARGEST = 4096
"""Rows or columns: an eigendecomposition takes their cube."""

GRID_LOSS = np.pi * np.e / 6
"""Of a grid against 2^(-2b) for Gaussian values (Gish and Pierce 1968)."""

FINEST_BITS = 14.0
"""More bits a value than this are of no use."""

PAYLOAD_BYTES = 400
"""What a second weight takes beside its values: node, header, stream heads, tables."""

LEAST_GAIN = 1.5
"""Times less error, by the estimate: it flatters both sides, and two layers take more time than one."""

CLOSE, NEGLIGIBLE = 1.1, 0.01
"""A lower rank is taken that loses no more than this times the best, or than this share of what a grid loses: others need its bytes more."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """w = left @ right: float32 [rows, rank] and [rank, k]. The values between them have variance 1 each where the moments are known."""

    left: NDArray[np.float32]
    right: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LowRank:
    """The best factors of this rank."""

    rank: int

    def apply(self, weight: NDArray[np.float32], context: Context) -> Factors | Refusal:
        """`weight` [1, rows, k]."""
        found = Spectrum.of(weight, context)
        if isinstance(found, Refusal):
            return found
        if not 1 <= self.rank <= len(found.energies):
            return Refusal(f"rank {self.rank} is outside 1..{len(found.energies)}")
        basis = found.basis[:, : self.rank]
        sizes = np.sqrt(np.maximum(found.energies[: self.rank], 1e-30 * found.energies[0]))
        left = basis * sizes / found.share[:, None]
        right = basis.T @ (weight[0] * found.share[:, None]) / sizes[:, None]
        return Factors(left.astype(np.float32), right.astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """Squared singular values of share * W R, descending, their left vectors [rows, n], and share [rows], the roots of the rows' importance.

    `carried` [n] is the energy of share * W along each vector, `variance` the mean of D, the inputs' variances after prediction (`feedback.py`).
    """

    energies: Doubles
    basis: Doubles
    share: Doubles
    carried: Doubles
    variance: float

    @staticmethod
    def of(weight: NDArray[np.float32], context: Context) -> Spectrum | Refusal:
        """By the eigenvectors of the smaller of the two products with itself."""
        batch, rows, k = weight.shape
        if batch != 1 or min(rows, k) < 2:
            return Refusal(f"a stack of {batch} matrices of {rows} x {k} has no factors")
        if max(rows, k) > LARGEST:
            return Refusal(f"it has more than {LARGEST} rows or columns")
        share = np.ones(rows) if context.rows is None else np.sqrt(context.rows.astype(np.float64))
        scaled = weight[0] * share[:, None]
        seen, variance = _through_inputs(scaled, context)
        if not np.isfinite(seen).all() or not seen.any():
            return Refusal("its values are all zero or too large")
        wide = rows <= k
        energies, vectors = np.linalg.eigh(seen @ seen.T if wide else seen.T @ seen)
        energies, vectors = np.maximum(energies[::-1], 0.0), vectors[:, ::-1]
        basis = vectors if wide else seen @ vectors / np.sqrt(np.maximum(energies, 1e-30 * energies[0]))
        return Spectrum(energies, basis, share, np.einsum("nk,nk->n", *[basis.T @ scaled] * 2), variance)


def _through_inputs(scaled: Doubles, context: Context) -> tuple[Doubles, float]:
    """(W R, mean of D)."""
    factor = context.factor() if context.factor is not None else None
    if factor is not None and len(factor.gains) == 1:
        variances = factor.variances[0].astype(np.float64)
        return scaled @ factor.gains[0].T.astype(np.float64) * np.sqrt(variances), float(variances.mean())
    square = np.ones(1) if context.square is None or context.square.shape[:2] != (1, 1) else context.square[0, 0].astype(np.float64)
    return scaled * np.sqrt(square), float(square.mean())


def worthwhile(weight: NDArray[np.float32], context: Context, bits: float) -> LowRank | Refusal:
    """The rank with the least estimated error in the bytes of `bits` a weight, if that is less than a grid's."""
    found = Spectrum.of(weight, context)
    if isinstance(found, Refusal):
        return found
    _, rows, k = weight.shape
    ranks = np.arange(1, len(found.energies) + 1)
    room = 8 * (bits * rows * k / 8 - PAYLOAD_BYTES) / (ranks * (rows + k))
    kept = np.cumsum(found.energies)
    cut = np.append(np.cumsum(found.energies[::-1])[::-1][1:], 0.0)
    coded = kept + found.variance * np.cumsum(found.carried)
    errors = cut + _grid_error(room) * coded
    direct = float(_grid_error(np.array(bits)) * found.variance * found.carried.sum())
    best = int(np.argmin(errors))
    if direct < LEAST_GAIN * errors[best]:
        times = errors[best] / max(direct, 1e-300)
        return Refusal(f"its best factors, of rank {ranks[best]}, would lose {times:.2g} times what a grid loses in the same bytes")
    return LowRank(int(ranks[np.argmax(errors <= max(CLOSE * errors[best], direct * NEGLIGIBLE))]))


def _grid_error(bits: Doubles) -> Doubles:
    """The share of a value's energy that a grid loses at these bits."""
    return np.minimum(GRID_LOSS * 4.0 ** -np.clip(bits, 0, FINEST_BITS), 1.0)
