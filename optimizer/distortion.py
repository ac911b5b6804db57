"""How far a changed model's outputs are from the original's: one measure for each kind of output, decided once from the graph.

| kind | which outputs | measure | warn above |
|---|---|---|---|
| classes | scores of classes: Softmax, or a last MatMul, Gemm or pooled Conv (+ constant), of [.., classes] | KL(original, changed) of the distributions, nats | 0.03 |
| embedding | normalised or pooled vectors, layer-normalised or activated states, one vector a row | 1 - cosine along the last axis | 0.05 |
| probability | what a Sigmoid gives | squared error / squared norm, or that of 0.001 everywhere where this is more | 0.01 |
| map | everything else that is a float: dense maps, detectors, single numbers, recurrent states | squared error / squared norm | 0.01 |
| integer | integers, booleans, text | share of unequal values | 0.02 |

Classes lie along the last axis, once trailing axes of size one are dropped; logits go through a softmax, distributions do not. In a
model of images only [samples, classes] counts as classes: scores of many boxes are a map. A name that speaks (`logits`, `box`, `embedding`,
`hidden`) decides where the last operator leaves it open. From which divergence on accuracy visibly drops was measured on trained models
(top-1 by half a point: KL 0.03 on MobileNet, 0.09 on ResNet-20; rank correlation by 0.005: 0.05 on MiniLM).

The divergence of a model is the plain mean over its float outputs; integer outputs count only where there are no others, because they
jump. Within an output it is the mean over rows (map, probability: one quotient); rows that a mask leaves out, or where the original is not finite, do
not count. A NaN or infinity that the original does not have makes the divergence infinite.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .kinds import Kind, kinds, logits

__all__ = ["ROUNDING", "WARN_ABOVE", "Kind", "counted", "divergence", "is_silent", "kinds", "logits", "main_kind"]

WARN_ABOVE: Mapping[Kind, float] = {"classes": 0.03, "embedding": 0.05, "probability": 0.01, "map": 0.01, "integer": 0.02}
"""Above this divergence a loss of accuracy is likely, by the kind of output."""

LEAST_PROBABILITY = 1e-12
TINY = 1e-30
SILENT = 0.001
"""Probabilities that stay below this are as good as none: their last bits are what rounding makes of them."""

ROUNDING = 1e-12
"""A divergence that the order of float sums makes: files of exact weights have it, and keep every limit."""


def counted(kinds_of: Mapping[str, Kind]) -> tuple[str, ...]:
    """The outputs that make up the model's divergence."""
    floats = tuple(name for name, kind in kinds_of.items() if kind != "integer")
    return floats or tuple(kinds_of)


def main_kind(kinds_of: Mapping[str, Kind]) -> Kind:
    """The kind to report: that of the first output that counts ("map" for a model without outputs)."""
    return next((kinds_of[name] for name in counted(kinds_of)), "map")


def divergence(
    kinds_of: Mapping[str, Kind],
    original: Mapping[str, NDArray[np.generic]],
    changed: Mapping[str, NDArray[np.generic]],
    mask: NDArray[np.bool_] | None = None,
) -> float:
    """The mean over the outputs that count. `mask` (see calibrate.masked) applies to outputs that begin with its axes."""
    names = [name for name in counted(kinds_of) if name in original]
    values = [_one(kinds_of[name], original[name], changed[name], mask) for name in names]
    return float(np.mean(values)) if values else 0.0


def _one(kind: Kind, original: NDArray[np.generic], changed: NDArray[np.generic], mask: NDArray[np.bool_] | None) -> float:
    if original.shape != changed.shape:  # as many boxes as were found: nothing to compare one by one
        return 1.0
    if mask is not None and original.shape[: mask.ndim] == mask.shape and original.ndim > 0:
        original, changed = original[mask], changed[mask]
    if original.size == 0 or np.array_equal(original, changed):
        return 0.0
    if kind == "integer":
        return float(np.mean(original != changed))
    a, b = np.atleast_1d(original.astype(np.float64)), np.atleast_1d(changed.astype(np.float64))
    if (~np.isfinite(b) & np.isfinite(a)).any() or (np.isnan(b) & ~np.isnan(a)).any():
        return float("inf")
    if kind == "probability":
        return _quotient(a, b, SILENT)
    if kind == "map" or _rows(a).shape[-1] == 1:
        return _quotient(a, b)
    return _kl(a, b) if kind == "classes" else _cosine(a, b)


def _rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows, last axis], once trailing axes of size one are dropped."""
    shape = list(values.shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return values.reshape(-1, shape[-1])


def _kl(original: NDArray[np.float64], changed: NDArray[np.float64]) -> float:
    """Mean of sum p (log p - log q) over rows, nats."""
    a, b = _rows(original), _rows(changed)
    usable = ~np.isnan(a).any(axis=-1) & ~(a == np.inf).any(axis=-1) & np.isfinite(a).any(axis=-1)
    a, b = a[usable], b[usable]
    if not a.size:
        return 0.0
    distribution = a.min() >= 0 and np.allclose(a.sum(-1), 1, atol=1e-3)
    logarithm = _log if distribution else _log_softmax
    p, q = logarithm(a), logarithm(b)
    with np.errstate(invalid="ignore"):  # a class ruled out by -inf in both
        terms = np.where(np.exp(p) > 0, np.exp(p) * (p - q), 0)
    return float(terms.sum(-1).mean())


def _log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.maximum(values, LEAST_PROBABILITY))


def _log_softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = values - values.max(-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalised


def _cosine(original: NDArray[np.float64], changed: NDArray[np.float64]) -> float:
    """Mean of 1 - cosine over rows, as half the squared distance of the unit vectors, which keeps its digits near zero; two zero vectors agree."""
    a, b = _rows(original), _rows(changed)
    usable = np.isfinite(a).all(axis=-1)
    if not usable.any():
        return 0.0
    a, b = _unit(a[usable]), _unit(b[usable])
    distances = ((a - b) ** 2).sum(-1)
    one_is_zero = a.any(axis=-1) != b.any(axis=-1)
    return float(np.mean(np.where(one_is_zero, 1.0, distances / 2)))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row divided by its norm; zero rows stay."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1))


def is_silent(values: NDArray[np.generic]) -> bool:
    """Whether there are probabilities, and none is as large as SILENT."""
    return values.size > 0 and bool((np.abs(values) < SILENT).all())


def _quotient(original: NDArray[np.float64], changed: NDArray[np.float64], least: float = 0.0) -> float:
    """Squared error over squared norm, or over that of `least` everywhere where this is more."""
    usable = np.isfinite(original)
    a, b = original[usable], changed[usable]
    return float(((a - b) ** 2).sum() / max((a**2).sum(), a.size * least**2, TINY))
