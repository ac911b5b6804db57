"""onnx-compress as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .cases import Case

SAMPLES = 512
"""Of calibration data."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How the command line is called."""

    options: tuple[str, ...]
    calibrated: bool


MODES: Mapping[str, Mode] = {
    "ours, no data": Mode(("--effort", "fast"), calibrated=False),
    "ours, balanced": Mode((), calibrated=True),
    "ours, best": Mode(("--effort", "best"), calibrated=True),
}


def compress(mode: Mode, source: Path, target: Path, ratio: float, calibration: Path | None) -> None:
    """Raises subprocess.CalledProcessError with the program's words in `stderr`."""
    command = [sys.executable, "-m", "onnx_compress.optimizer.cli", str(source), str(target), "--target-ratio", f"{ratio:g}", "--inline-data", "-f", "-q"]
    command += [*mode.options, *(["--calibration", str(calibration)] if calibration else [])]
    subprocess.run(command, check=True, capture_output=True, text=True)


def calibration(models: Path, case: Case, folder: Path) -> Path:
    """The calibration split's inputs, made once."""
    path = folder / f"{case.model}_calibration.npz"
    if not path.exists():
        script, model = models / "calibration.py", models / f"{case.model}.onnx"
        subprocess.run([sys.executable, str(script), case.task, str(model), str(path), "--samples", str(SAMPLES)], check=True, capture_output=True)
    return path
