"""How far the off-diagonal of a measured covariance is to be trusted: chosen by what error feedback does to inputs that it has not seen.

The batches make two halves. For each shrinkage s some rows of the weight are rounded with feedback on the one half, (1 - s) C + s diag(C), and their error
e C' e^T is taken on the other half, both ways. The best s is that of half the data; with all of it the odds s / (1 - s) are half as large.

Each s has a factorization of its own (one eigendecomposition would serve all, but only through a QR for each, four times a Cholesky), so they are tried in
ascending order until two in a row are worse than the best: little data apart, the first two or three decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..passes.feedback import factorize, trellis_rows
from ..runtime.trellis import NEXT, multiples
from .vectors import spread

CHOICES = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.8, 1.0)

FEW_CHOICES, MANY_COLUMNS = (0.02, 0.1, 0.3, 0.7), 1536
"""From so many columns on a factorization takes a second."""

ROWS = 48
"""Rows that are rounded."""

STEP = 0.3
"""Of their root mean square: a trellis of about three bits."""

PATIENCE = 2
"""Shrinkages in a row that may be worse than the best so far."""

MOST_OPTIMISM = 8.0

Floats = NDArray[np.float32]


def cross_validated(halves: Sequence[Floats], weight: Floats) -> tuple[float, float]:
    """(shrinkage, optimism) for all data, from the covariances of its halves [m, k, k] and the weight [batch, rows, k] (m equal parts of its rows).

    Optimism, at least 1, is how many times larger an error is on inputs that were not measured than on those that were.
    """
    parts, k = len(halves[0]), weight.shape[-1]
    by_part = weight.reshape(parts, -1, k)
    few = spread(parts, max(1, ROWS // by_part.shape[1]))
    rows = np.ascontiguousarray(by_part[few][:, spread(by_part.shape[1], ROWS)])
    first, second = (half if len(few) == parts else np.ascontiguousarray(half[few]) for half in halves)
    choices = CHOICES if k < MANY_COLUMNS else FEW_CHOICES
    best, seen, unseen, worse = 1.0, np.inf, np.inf, 0
    for share in choices:
        there, beyond = (one + other for one, other in zip(_errors(first, second, rows, share), _errors(second, first, rows, share), strict=True))
        if beyond < unseen:
            best, seen, unseen, worse = share, there, beyond, 0
        else:
            worse += bool(np.isfinite(unseen))
        if worse == PATIENCE:
            break
    if not np.isfinite(unseen):
        return 1.0, 1.0
    return best / (2 - best), float(np.clip(1 + (unseen / max(seen, 1e-30) - 1) / 2, 1, MOST_OPTIMISM))


def shrunk(covariance: Floats, share: float) -> Floats:
    """(1 - s) C + s diag(C), [m, k, k]."""
    found = covariance * np.float32(1 - share)
    np.einsum("mkk->mk", found)[...] = np.einsum("mkk->mk", covariance)
    return found


def _errors(seen: Floats, unseen: Floats, rows: Floats, share: float) -> tuple[float, float]:
    """Sums of e C e^T over rows [m, n, k] that are rounded with feedback on `seen`, there and on `unseen`; infinite where that is impossible."""
    factor = factorize(shrunk(seen, share))
    if factor is None:
        return np.inf, np.inf
    flat = rows.reshape(-1, rows.shape[2])
    scale = np.maximum(STEP * np.sqrt(np.mean(flat**2, axis=1)), 1e-20).astype(np.float32)
    levels, errors = np.empty(flat.shape, np.int32), np.zeros(len(flat))
    trellis_rows(flat, scale, np.ones(flat.shape[1], np.float32), factor.gains, factor.variances, levels, errors, NEXT)
    left = (flat - scale[:, None] * multiples(levels)).reshape(rows.shape)
    first, second = (float(np.einsum("mrk,mrk->", left @ half, left, dtype=np.float64)) for half in (seen, unseen))
    return first, second
