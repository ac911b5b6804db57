"""Times of alternatives that run in turn, so that all meet the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

WARM_UP, MOST_PAIRS, MOST_SECONDS = 3, 100, 8.0


def alternate(*calls: Callable[[], object]) -> NDArray[np.float64]:
    """Seconds [rounds, calls]: one call after the other, round after round."""
    times: list[list[float]] = []
    begun = time.monotonic()
    for number in range(WARM_UP + MOST_PAIRS):
        seconds = [_seconds(call) for call in calls]
        if number >= WARM_UP:
            times.append(seconds)
        if times and time.monotonic() - begun > MOST_SECONDS:
            break
    return np.asarray(times)


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def quartiles(seconds: NDArray[np.float64]) -> dict[str, object]:
    """Of times [rounds, (fp32, ours)]: both medians in ms, and the quartiles of ours / fp32."""
    ratio = np.percentile(seconds[:, 1] / seconds[:, 0], (25, 50, 75))
    median = np.median(seconds, axis=0) * 1000
    return {
        "pairs": len(seconds),
        "fp32_ms": f"{median[0]:.3f}",
        "ours_ms": f"{median[1]:.3f}",
        "ratio_q25": f"{ratio[0]:.2f}",
        "ratio_median": f"{ratio[1]:.2f}",
        "ratio_q75": f"{ratio[2]:.2f}",
    }
