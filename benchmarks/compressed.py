"""Compressed models for the benchmarks of latency and memory: made by the command line once, then kept in .cache/benchmarks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT.parent / "shared" / "models"
CACHE = ROOT / ".cache" / "benchmarks"
RATIO = 10
TOKENS = {"minilm_l6_v2": 30522, "charrnn_shakespeare": 65}
"""Rows of the vocabulary."""


def compressed(name: str, ratio: float = RATIO, options: Sequence[str] = ("--inline-data",), fresh: bool = False) -> Path:
    """The file that the command line makes of a model of ../shared/models with its calibration data."""
    from shared_models import calibration

    folder = CACHE / "-".join(option.strip("-") for option in options)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}_{ratio:g}x.onnx"
    if fresh or not target.exists():
        print(f"compressing {name}, {ratio:g}x ...", file=sys.stderr, flush=True)
        given = ["--target-ratio", f"{ratio:g}", "--calibration", str(calibration(MODELS, name, CACHE)), "--force", "--quiet", *options]
        subprocess.run([sys.executable, "-m", "onnx_compress.optimizer.cli", str(MODELS / f"{name}.onnx"), str(target), *given], check=True)
    return target


def feed(session: onnxruntime.InferenceSession, length: int, tokens: int = 0) -> dict[str, NDArray[np.generic]]:
    """One sample: random token ids, masks of ones, types of zeros, normal floats; sizes that are open are `length`, axis 0 is 1."""
    rng = np.random.default_rng(0)
    made: dict[str, NDArray[np.generic]] = {}
    for one in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 if axis == 0 else length for axis, size in enumerate(one.shape)]
        if "float" in one.type:
            made[one.name] = rng.standard_normal(shape).astype(np.float32)
        elif "mask" in one.name:
            made[one.name] = np.ones(shape, np.int64)
        else:
            made[one.name] = np.zeros(shape, np.int64) if "type" in one.name else rng.integers(tokens // 30, tokens, shape)
    return made


def total_bytes(path: Path) -> int:
    """The model and its data file beside it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))
