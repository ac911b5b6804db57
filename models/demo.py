"""`make demo`: trains the digits net, compresses it ten times by the command line, runs both and compares size, accuracy and latency.

usage: python models/demo.py [FOLDER]          (default: demo)

Exit code 1 where the net is worse than 98 % before, or loses more than one point.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import digits
import numpy as np
import onnxruntime
from onnx_compress.runtime import session

RATIO = 10
LEAST_ACCURACY = 0.98
MOST_LOST = 0.01
WARM_UP, RUNS = 50, 1000


@dataclass(frozen=True, slots=True)
class Measured:
    """A model as its user sees it; latency is the median for one image on one thread."""

    size_bytes: int
    accuracy: float
    latency_ms: float


def main(folder: Path) -> int:
    """The demo; 0 where it keeps its promise."""
    source, target = folder / "digits.onnx", folder / f"digits_{RATIO}x.onnx"
    train(source)
    if code := compress(source, target):
        return code
    print(f"\nRunning both in onnxruntime {onnxruntime.__version__}: {digits.EVALUATION_SAMPLES} test images, one thread\n")
    before, after = measure(source, target)
    table(before, after)
    print(f"\nThe compressed model is {target}; README.md says how to use it from Python, C++, C# and Java.")
    return verdict(before, after)


def train(source: Path) -> None:
    """Writes the model, its calibration data and its test images."""
    begun = time.monotonic()
    print("Training a convolutional net on 8x8 images of digits ... ", end="", flush=True)
    digits.main(source)
    print(f"{time.monotonic() - begun:.0f} s")


def compress(source: Path, target: Path) -> int:
    """Runs the command line as a user would, and gives its exit code."""
    program = Path(sys.executable).with_name("onnx-compress")
    calibration = source.with_name(f"{source.stem}_calibration.npz")
    command = [relative(program), str(source), str(target), "--target-ratio", str(RATIO), "--calibration", str(calibration), "--force"]
    print(f"Compressing it {RATIO} times, with {digits.CALIBRATION_SAMPLES} training images for calibration:\n\n$ {shlex.join(command)}", flush=True)
    return subprocess.run(command, check=False).returncode


def relative(path: Path) -> str:
    """The path from here, if it lies below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def measure(*models: Path) -> list[Measured]:
    """Size, accuracy and latency of each model; runs alternate, so that all meet the same machine."""
    data = np.load(models[0].with_name(f"{models[0].stem}_eval.npz"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [session(model, options) for model in models]
    accuracies = [np.mean(each.run(None, {"image": data["image"]})[0].argmax(axis=1) == data["label"]) for each in sessions]
    one = {"image": data["image"][:1]}
    times = np.zeros((RUNS, len(sessions)))
    for run in range(-WARM_UP, RUNS):
        for number, each in enumerate(sessions):
            begun = time.perf_counter()
            each.run(None, one)
            times[run, number] = time.perf_counter() - begun
    latencies = np.median(times, axis=0) * 1000
    sizes = [model.stat().st_size for model in models]
    return [Measured(size, float(a), float(t)) for size, a, t in zip(sizes, accuracies, latencies, strict=True)]


def table(before: Measured, after: Measured) -> None:
    """Before and after, side by side."""
    rows = [
        ("", "before", "after", ""),
        ("size", f"{before.size_bytes / 1000:.1f} KB", f"{after.size_bytes / 1000:.1f} KB", f"{before.size_bytes / after.size_bytes:.1f} times smaller"),
        ("accuracy", f"{before.accuracy:.2%}", f"{after.accuracy:.2%}", f"{100 * (after.accuracy - before.accuracy):+.2f} points"),
        ("latency, one image", f"{before.latency_ms:.3f} ms", f"{after.latency_ms:.3f} ms", f"{after.latency_ms / before.latency_ms:.1f} x"),
    ]
    for label, left, right, change in rows:
        print(f"  {label:<18}  {left:>10}  {right:>10}   {change}".rstrip())


def verdict(before: Measured, after: Measured) -> int:
    """1, with the reason, where a bar is missed."""
    if before.accuracy < LEAST_ACCURACY:
        print(f"\nFAILED: accuracy before is {before.accuracy:.2%}, expected {LEAST_ACCURACY:.0%} or more", file=sys.stderr)
        return 1
    if before.accuracy - after.accuracy > MOST_LOST:
        print(f"\nFAILED: {before.accuracy - after.accuracy:.2%} of accuracy lost, expected {MOST_LOST:.0%} at most", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
