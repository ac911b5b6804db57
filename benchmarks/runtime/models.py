"""Latency of 10x files against fp32 onnxruntime, one thread: `python benchmarks/runtime.py [--fresh] [--out FILE.csv]`.

Both sessions are in one process and run in turn, so that both meet the same machine; the ratio is taken pair by pair, median and quartiles.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from compressed import MODELS, compressed, feed, processor, row
from numpy.typing import NDArray
from onnx_compress.runtime import session

CASES = (("minilm_l6_v2", 128), ("minilm_l6_v2", 16), ("mobilenet_v1_075", 1))
"""Model and length of sequences."""
WARM_UP, PAIRS, MOST_SECONDS = 3, 50, 30.0


def measure(name: str, length: int, fresh: bool) -> dict[str, object]:
    """One row."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(str(MODELS / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
    ours = session(compressed(name, fresh=fresh), options)
    times = alternate(plain, ours, feed(plain, length))
    ratio = np.percentile(times[:, 1] / times[:, 0], (25, 50, 75))
    median = np.median(times, axis=0) * 1000
    return {
        "model": name,
        "length": length,
        "pairs": len(times),
        "fp32_ms": f"{median[0]:.2f}",
        "compressed_ms": f"{median[1]:.2f}",
        "ratio_q25": f"{ratio[0]:.2f}",
        "ratio_median": f"{ratio[1]:.2f}",
        "ratio_q75": f"{ratio[2]:.2f}",
        "onnxruntime": onnxruntime.__version__,
        "processor": processor(),
    }


def alternate(plain: onnxruntime.InferenceSession, ours: onnxruntime.InferenceSession, inputs: dict[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    """Seconds [pairs, 2] of runs in turn."""
    times: list[tuple[float, float]] = []
    begun = time.monotonic()
    for pair in range(WARM_UP + PAIRS):
        seconds = (one(plain, inputs), one(ours, inputs))
        if pair >= WARM_UP:
            times.append(seconds)
        if times and time.monotonic() - begun > MOST_SECONDS:
            break
    return np.asarray(times)


def one(runs: onnxruntime.InferenceSession, inputs: dict[str, NDArray[np.generic]]) -> float:
    """Seconds of one run."""
    begun = time.perf_counter()
    runs.run(None, inputs)
    return time.perf_counter() - begun


def main() -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="compress again")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("runtime.csv"))
    arguments = parser.parse_args()
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    rows, made = [], set()
    for name, length in CASES:
        rows.append(measure(name, length, arguments.fresh and name not in made))
        made.add(name)
        print(row(rows[-1]), flush=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
