#!/usr/bin/env python3
"""Ratio, metric and divergence on the real models of ../shared/models: the table of the README.

usage: python benchmarks/quality.py [--models FOLDER] [--only REGEX] [--ratios 4,8,10] [--technique auto] [--no-data] [--out FILE.csv]

Every row compresses one model as a user would (the command line, in a process of its own), evaluates the compressed file in onnxruntime with the
operator library on the evaluation split, and appends to the CSV. Calibrated rows use `calibration.py --samples 512` (the calibration split).
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "shared" / "models"

TASKS = {
    "mobilenet_v1_075": "imagenet_tf",
    "mobilenet_v1_075_w16": "imagenet_tf",
    "minilm_l6_v2": "stsb",
    "cifar10_resnet20": "cifar10",
    "cifar10_resnet20_jpegft": "cifar10",
    "charrnn_shakespeare": "charrnn_shakespeare",
    "charrnn_shakespeare_wbf16": "charrnn_shakespeare",
    "mlperf_kws_dscnn": "kws",
    "nanodet_m": "nanodet",
    "ultraface_rfb320": "face_rfb",
    "mnist_cntk": "mnist",
}
"""Model file and its task in eval.py."""

BASELINES = {
    "imagenet_tf": 0.8375,
    "stsb": 0.8203,
    "charrnn_shakespeare": 4.026,
    "kws": 0.9075,
    "nanodet": 0.404,
    "face_rfb": 1.0,
    "mnist": 0.9891,
}
"""From MODELS.md; the two cifar10 networks differ."""


@dataclass(frozen=True, slots=True)
class Row:
    """One compression: what was asked for and what came out."""

    model: str
    technique: str
    calibrated: bool
    asked: float
    ratio: float
    bytes: int
    graph_bytes: int
    metric: str
    baseline: float
    value: float
    divergence_eval: str
    divergence_seen: float
    predicted: float
    zeros: float
    seconds: float
    peak_mb: float
    processor: str


def baseline(model: str) -> float:
    """The metric of the uncompressed model."""
    if model.startswith("cifar10"):
        return 0.8568 if model.endswith("jpegft") else 0.8072
    return BASELINES[TASKS[model]]


def main() -> None:
    """Runs all rows that the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="")
    parser.add_argument("--ratios", default="4,8,10")
    parser.add_argument("--technique", default="auto")
    parser.add_argument("--no-data", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "quality.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in (name for name in TASKS if re.search(arguments.only, name)):
            for ratio in map(float, arguments.ratios.split(",")):
                row = measure(arguments, model, ratio, Path(folder))
                if row is not None:
                    append(arguments.out, row)


def measure(arguments: argparse.Namespace, model: str, ratio: float, folder: Path) -> Row | None:
    """Compresses and evaluates one model at one ratio; None, and the reason printed, where that failed."""
    source, target = arguments.models / f"{model}.onnx", folder / f"{model}.onnx"
    command = ["onnx_compress.optimizer.cli", str(source), str(target), "--target-ratio", f"{ratio:g}", "--technique", arguments.technique, "-f", "--json"]
    if not arguments.no_data:
        command += ["--calibration", str(calibration(arguments.models, model, folder))]
    begun = time.monotonic()
    run = subprocess.run([sys.executable, str(HERE / "peak.py"), *command], check=False, capture_output=True, text=True)
    seconds = time.monotonic() - begun
    if run.returncode:
        print(f"{model} {ratio:g}x: exit {run.returncode}: {run.stderr.strip().splitlines()[0] if run.stderr.strip() else ''}", flush=True)
        return None
    peak = float(re.findall(r"peak_mb=([\d.]+)", run.stderr)[-1])
    report = json.loads(run.stdout)
    metric, value = script(arguments.models, "eval.py", TASKS[model], str(target))
    kind, moved = script(arguments.models, "divergence.py", TASKS[model], str(source), str(target))
    sizes = [(weight["zeros"], weight["bytes_before"]) for weight in report["weights"]]
    zeros = sum(share * size for share, size in sizes) / sum(size for _, size in sizes)
    row = Row(
        model, arguments.technique, not arguments.no_data, ratio, report["ratio"], report["bytes_after"], report["graph_bytes"], metric, baseline(model),
        float(value), f"{kind} {moved}", report["divergence"], report["predicted"], zeros, seconds, peak, processor(),
    )  # fmt: skip
    print(
        f"{model} {arguments.technique} {'calibrated' if row.calibrated else 'no data'} {ratio:g}x: {row.ratio:.3f}x, {metric} {row.baseline:.4f} -> {row.value:.4f}, "
        f"{kind} {moved}, {seconds:.0f} s, peak {peak:.0f} MB, graph {row.graph_bytes}, zeros {zeros:.2f}",
        flush=True,
    )
    return row


def calibration(models: Path, model: str, folder: Path) -> Path:
    """The calibration file of a model, made once."""
    path = folder / f"{model}_calibration.npz"
    if not path.exists():
        subprocess.run(
            [sys.executable, str(models / "calibration.py"), TASKS[model], str(models / f"{model}.onnx"), str(path), "--samples", "512"],
            check=True, capture_output=True,
        )  # fmt: skip
    return path


def script(models: Path, name: str, task: str, *files: str) -> tuple[str, str]:
    """(second word, third word) of what a script of ../shared/models prints, with our library registered."""
    from onnx_compress.runtime import library_path

    command = [sys.executable, str(models / name), task, *files, "--custom-op", str(library_path())]
    words = subprocess.run(command, check=True, capture_output=True, text=True, cwd=models).stdout.split()
    return words[1], words[2]


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def append(path: Path, row: Row) -> None:
    """Adds a row to the CSV, with a header where it is new."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(row)))
        if fresh:
            writer.writeheader()
        writer.writerow(asdict(row))


if __name__ == "__main__":
    main()
