#!/usr/bin/env python3
"""What each part of the rate engine brings: bits a weight at equal divergence on held-out calibration data, by switching it off.

usage: python benchmarks/ablation.py [--models FOLDER] [--out FILE.csv]

The calibration data of each model is cut in two at random: 70 % to compress with, 30 % to measure on. A figure is the mean over the model's ratios of
(ln divergence without the part - ln divergence with it) / SLOPE; runs differ by about 0.1 bit.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx_compress.optimizer import Request, compress, effort
from onnx_compress.optimizer.verify import verify
from rows import processor
from shared_models import HERE, MODELS, calibration

SLOPE = 1.4
"""-d ln(divergence) / d(bits a weight), on the curves of RESEARCH, part A."""

RATIOS = {"cifar10_resnet20_jpegft": (9, 11, 13), "mlperf_kws_dscnn": (6, 7.5, 9), "charrnn_shakespeare": (7, 9)}

FULL = effort.EFFORTS["balanced"]
VARIANTS: Mapping[str, effort.Effort] = {
    "all": FULL,
    "no error feedback": replace(FULL, feedback=False),
    "no trellis": replace(FULL, trellises=0),
    "one round of probes": replace(FULL, rounds=1),
    "no refined steps": replace(FULL, refined=()),
    "no following": replace(FULL, follows=False),
}


def main() -> None:
    """A row for each model and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--out", type=Path, default=HERE / "ablation.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, arguments.out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "variant", "ln_divergence", "bits", "processor"])
        for model, ratios in RATIOS.items():
            halves = cut(calibration(arguments.models, model, Path(folder)))
            full = np.nan
            for name, variant in VARIANTS.items():
                found = measured(arguments.models / f"{model}.onnx", variant, halves, ratios)
                full = found if name == "all" else full
                writer.writerow([model, name, f"{found:.3f}", f"{(found - full) / SLOPE:.3f}", processor()])
                file.flush()
                print(f"{model}, {name}: {found:.3f}, {(found - full) / SLOPE:+.3f} bits", flush=True)


def cut(path: Path) -> tuple[Path, Path]:
    """(what to compress with, what to measure on)."""
    with np.load(path) as archive:
        arrays = dict(archive)
    count = len(next(iter(arrays.values())))
    order, border = np.random.default_rng(0).permutation(count), int(0.7 * count)
    paths = path.with_suffix(".fit.npz"), path.with_suffix(".unseen.npz")
    for part, chosen in zip(paths, (order[:border], order[border:]), strict=True):
        np.savez(part, **{name: array[np.sort(chosen)] for name, array in arrays.items()})  # type: ignore[arg-type]
    return paths


def measured(source: Path, variant: effort.Effort, halves: tuple[Path, Path], ratios: tuple[float, ...]) -> float:
    """The mean of ln(divergence) on unseen data over the ratios."""
    effort.EFFORTS["balanced"] = variant
    target, found = halves[0].with_name("out.onnx"), []
    for ratio in ratios:
        compress(source, target, Request(target_ratio=ratio, calibration=(halves[0],), effort="balanced", force=True))
        found.append(np.log(verify(source, target, (halves[1],)).divergence))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
