"""One table for a histogram: its frequencies, its window of classes, how many raw bits (FORMAT.md, section 3).

A table costs bytes, a bad table costs more: everything here is counted in bits of the very stream that is written.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PROBABILITY_ONE, Table

MAX_CLASSES = 16
BITS_OF = np.concatenate([[np.inf], -np.log2(np.arange(1, PROBABILITY_ONE + 1) / PROBABILITY_ONE)])
"""Bits of a symbol whose frequency is the index."""

GAINS = np.array([math.inf, *(math.log2((frequency + 1) / frequency) for frequency in range(1, PROBABILITY_ONE + 1))])
"""Bits that a symbol takes less where its frequency is not the index but one more."""


@numba.njit(cache=True, nogil=True)
def normalize(counts: NDArray, frequencies: NDArray) -> float:  # noqa: PLR0912  (one loop nest, for numba)
    """Frequencies with sum 256 for `counts` [n], each count > 0 getting at least 1: nearly minimal bits, which are returned.

    Starts from the rounded-down shares and gives each remaining unit to the class that gains most bits by it.
    """
    total, used = 0.0, 0
    for count in counts:
        total += count
    if total == 0:
        frequencies[:] = 0
        frequencies[-1] = 256
        return 0.0
    for i in range(len(counts)):
        frequencies[i] = 0 if counts[i] == 0 else max(1, int(counts[i] * 256.0 / total))
        used += frequencies[i]
    while used > 256:
        worst, loss = -1, np.inf
        for i in range(len(counts)):
            if frequencies[i] > 1:
                delta = counts[i] * GAINS[frequencies[i] - 1]
                if delta < loss:
                    worst, loss = i, delta
        frequencies[worst] -= 1
        used -= 1
    while used < 256:
        best, gain = -1, -1.0
        for i in range(len(counts)):
            if counts[i] > 0:
                delta = counts[i] * GAINS[frequencies[i]]
                if delta > gain:
                    best, gain = i, delta
        frequencies[best] += 1
        used += 1
    bits = 0.0
    for i in range(len(counts)):
        if counts[i] > 0:
            bits += counts[i] * BITS_OF[frequencies[i]]
    return bits


ESCAPE_BITS = 8.0


@numba.njit(cache=True, nogil=True)
def _fit(histogram: NDArray, best: NDArray) -> tuple[float, int, int, bool]:
    """The cheapest table for a histogram of class values: (bits with table and escapes, first index, classes, escape); frequencies into `best`.

    Windows of every size around the heaviest stretch compete; the rest of the values escapes.
    """
    low, high, total = 0, len(histogram), 0.0
    while high > 1 and histogram[high - 1] == 0:
        high -= 1
    while low < high - 1 and histogram[low] == 0:
        low += 1
    for i in range(low, high):
        total += histogram[i]
    cheapest, first, classes, escape = np.inf, low, 1, False
    counts, frequencies = np.zeros(16), np.zeros(16, np.int64)
    if high - low <= 16:
        n = high - low
        counts[:n] = histogram[low:high]
        bits = normalize(counts[:n], frequencies[:n]) + 8 * (n + 1)
        cheapest, first, classes = bits, low, n
        best[:n] = frequencies[:n]
    for n in range(min(15, high - low - 1), 0, -1):
        start, mass = _heaviest(histogram, low, high, n)
        if total - mass > 0.25 * total and n < 15 and cheapest < np.inf:
            break
        counts[:n] = histogram[start : start + n]
        counts[n] = total - mass
        if total > mass:
            bits = normalize(counts[: n + 1], frequencies[: n + 1]) + 8 * (n + 2) + 8.0 * (total - mass)
            if bits < cheapest:
                cheapest, first, classes, escape = bits, start, n + 1, True
                best[: n + 1] = frequencies[: n + 1]
    return cheapest, first, classes, escape


@numba.njit(cache=True, nogil=True)
def _heaviest(histogram: NDArray, low: int, high: int, width: int) -> tuple[int, float]:
    """The window of `width` values with the largest mass: (start, mass)."""
    mass = 0.0
    for i in range(low, low + width):
        mass += histogram[i]
    start, best = low, mass
    for i in range(low + 1, high - width + 1):
        mass += histogram[i + width - 1] - histogram[i - 1]
        if mass > best:
            start, best = i, mass
    return start, best


@numba.njit(cache=True, nogil=True)
def _fit_all(histograms: NDArray, bits: NDArray, windows: NDArray, frequencies: NDArray) -> None:
    """`_fit` of each histogram [n, classes]: `bits` [n], `windows` (first index, classes, escape) [n, 3], `frequencies` [n, 16]."""
    for one in range(len(histograms)):
        bits[one], windows[one, 0], windows[one, 1], windows[one, 2] = _fit(histograms[one], frequencies[one])


def fit_tables(histograms: NDArray[np.float64], low: int) -> list[tuple[float, Table]]:
    """`fit_table` of each histogram [n, classes]."""
    many = len(histograms)
    bits, windows, frequencies = np.empty(many), np.empty((many, 3), np.int64), np.zeros((many, MAX_CLASSES), np.int64)
    _fit_all(np.ascontiguousarray(histograms, np.float64), bits, windows, frequencies)
    rows = zip(bits.tolist(), windows.tolist(), frequencies.tolist(), strict=True)
    return [(cost, Table(low + first, tuple(row[:classes]), bool(escape))) for cost, (first, classes, escape), row in rows]


def fit_bits(histograms: NDArray[np.float64]) -> float:
    """The bits of `fit_tables`, together."""
    bits = np.empty(len(histograms))
    _fit_all(np.ascontiguousarray(histograms, np.float64), bits, np.empty((len(bits), 3), np.int64), np.empty((len(bits), MAX_CLASSES), np.int64))
    return float(bits.sum())


def fit_table(histogram: NDArray[np.float64], low: int) -> tuple[float, Table]:
    """The cheapest table for a histogram of class values `low, low + 1, ...`: (bits of table, symbols and escapes; table)."""
    return fit_tables(histogram[None], low)[0]


@numba.njit(cache=True, nogil=True)
def _rate(histograms: NDArray, low: int, scratch: NDArray) -> tuple[float, int]:
    """Bits of the cheapest raw bits with a table for each histogram [m, levels low, low + 1, ...], and these raw bits."""
    best, best_raw, total = np.inf, 0, 0.0
    many, width = histograms.shape
    for one in range(many):
        for count in histograms[one]:
            total += count
    for raw in range(9):
        half = (1 << raw) >> 1
        base = (low + half) >> raw
        size = ((low + width - 1 + half) >> raw) - base + 1
        if size > 256 or base < -32768 or base + size > 32768:  # an escape's byte, and the range of a table's first class
            continue
        bits = raw * total
        for one in range(many):
            classes = np.zeros(size)
            for i in range(width):
                classes[((low + i + half) >> raw) - base] += histograms[one, i]
            bits += _fit(classes, scratch)[0]
        if bits < best:
            best, best_raw = bits, raw
    return best, best_raw


def rate(histogram: NDArray[np.float64], low: int) -> tuple[float, int]:
    """(bits, raw bits) of the cheapest coding of a histogram of levels, the tables included; infinite beyond 16-bit levels.

    One table for counts [n] of the levels low, low + 1, ...; one a quantizer for counts [quantizers, n].
    """
    counts = np.asarray(histogram, np.float64)
    bits, raw = _rate(counts.reshape(-1, counts.shape[-1]), low, np.zeros(MAX_CLASSES, np.int64))
    return float(bits), int(raw)
