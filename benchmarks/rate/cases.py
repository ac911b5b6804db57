"""The models, their tasks, and the ratio at which each is compared: the rows of the project's bar."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[2] / "shared" / "models"
"""Where the models, eval.py, divergence.py and calibration.py are, unless the command line says otherwise."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model file without its ending, its task in eval.py, the ratio of the bar, and the metric of the uncompressed model (MODELS.md)."""

    model: str
    task: str
    bar: float
    baseline: float


CASES = (
    Case("minilm_l6_v2", "stsb", 12, 0.8203),
    Case("mobilenet_v1_075", "imagenet_tf", 8.5, 0.8375),
    Case("cifar10_resnet20_jpegft", "cifar10", 12, 0.8568),
    Case("nanodet_m", "nanodet", 8, 0.404),
    Case("charrnn_shakespeare", "charrnn_shakespeare", 8, 4.026),
    Case("mlperf_kws_dscnn", "kws", 6, 0.9075),
    Case("ultraface_rfb320", "face_rfb", 10, 1.0),
)
