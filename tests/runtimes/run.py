"""Runs what `prepare` wrote, in an environment that has nothing but numpy and onnxruntime: `python tests/runtimes/run.py FOLDER`.

onnx_compress.runtime comes from the checkout; neither onnx nor numba may be needed. Exit code 1 where a compressed model does not load, does not
run, or gives other values. A model whose original this runtime cannot load either is skipped, by name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".typing"))
from onnx_compress.runtime import session

TOLERANCE, TOLERANCE_16 = 1e-4, 4e-3
"""Of the largest expected value; the second where 16-bit activations are in the graph."""
MOST_UNEQUAL = 0.01
"""Share of integers that may differ: where two scores are nearly equal, runtimes disagree."""


def check(path: Path) -> str:
    """"" where the compressed model gives the expected values, else what is wrong."""
    case = np.load(path)
    inputs = {key[3:]: case[key] for key in case.files if key.startswith("in:")}
    try:
        found = session(path.with_suffix(".compressed.onnx")).run([key[4:] for key in case.files if key.startswith("out:")], inputs)
    except Exception as error:
        return f"SKIPPED: {loads(path)}" if loads(path) else f"FAILED: {error}"
    expected = [case[key] for key in case.files if key.startswith("out:")]
    half = any(array.dtype == np.float16 for array in [*inputs.values(), *expected]) or "16" in path.stem
    return next(filter(None, (difference(*pair, TOLERANCE_16 if half else TOLERANCE) for pair in zip(expected, found, strict=True))), "")


def loads(path: Path) -> str:
    """"" where this runtime loads the original, else its reason."""
    try:
        onnxruntime.InferenceSession(str(path.with_suffix(".onnx")), providers=["CPUExecutionProvider"])
    except Exception as error:
        return f"this runtime does not load the original either ({str(error)[:100]})"
    return ""


def difference(expected: NDArray, found: NDArray, tolerance: float) -> str:
    """"" where two outputs agree."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return f"FAILED: {found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if expected.dtype.kind != "f":
        unequal = float(np.mean(expected != found)) if expected.size else 0.0
        return f"FAILED: {unequal:.1%} of the integers differ" if unequal > MOST_UNEQUAL else ""
    wide, other = expected.astype(np.float64), found.astype(np.float64)
    if not np.array_equal(np.isfinite(wide), np.isfinite(other)):
        return "FAILED: NaN or infinity where none is expected"
    finite = np.isfinite(wide)
    off = float(np.abs(wide - other)[finite].max(initial=0)) / max(float(np.abs(wide)[finite].max(initial=0)), 1e-30)
    return f"FAILED: off by {off:.1e} of the largest value" if off > tolerance else ""


def main(folder: Path) -> int:
    """1 where any model fails."""
    results = {path.stem: check(path) for path in sorted(folder.glob("*.npz"))}
    for name, result in results.items():
        if result:
            print(f"{name}: {result}")
    loaded = [name for name in ("onnx", "numba") if name in sys.modules]
    if loaded:
        print(f"FAILED: onnx_compress.runtime imported {', '.join(loaded)}")
    skipped = sum(result.startswith("SKIPPED") for result in results.values())
    failed = sum(result.startswith("FAILED") for result in results.values())
    print(f"onnxruntime {onnxruntime.__version__}, numpy {np.__version__}: {len(results) - skipped - failed} agree, {skipped} skipped, {failed} failed")
    return int(failed > 0 or bool(loaded) or not results)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
