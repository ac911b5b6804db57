"""What the benchmarks share: the real models of ../shared/models, and their scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "shared" / "models"

TASKS = {
    "mobilenet_v1_075": "imagenet_tf",
    "minilm_l6_v2": "stsb",
    "cifar10_resnet20_jpegft": "cifar10",
    "charrnn_shakespeare": "charrnn_shakespeare",
    "mlperf_kws_dscnn": "kws",
    "nanodet_m": "nanodet",
    "ultraface_rfb320": "face_rfb",
}
"""Model file and its task in eval.py."""


def calibration(models: Path, model: str, folder: Path) -> Path:
    """The calibration file of a model, made once."""
    path = folder / f"{model}_calibration.npz"
    if not path.exists():
        command = [sys.executable, str(models / "calibration.py"), TASKS[model], str(models / f"{model}.onnx"), str(path), "--samples", "512"]
        subprocess.run(command, check=True, capture_output=True)
    return path


def script(models: Path, name: str, task: str, *files: str) -> tuple[str, str]:
    """(second word, third word) of what a script of ../shared/models prints, with our library registered."""
    from onnx_compress.runtime import library_path

    command = [sys.executable, str(models / name), task, *files, "--custom-op", str(library_path())]
    words = subprocess.run(command, check=True, capture_output=True, text=True, cwd=models).stdout.split()
    return words[1], words[2]
