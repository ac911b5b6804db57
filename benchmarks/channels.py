#!/usr/bin/env python3
"""What dropping channels costs: the least sensitive ones against as many at random, divergence from the original on the evaluation split.

usage: python benchmarks/channels.py [--models FOLDER] [--only REGEX] [--fractions 0.05,0.1,0.2] [--seeds 5] [--out FILE.csv]

Nothing is quantized: the simplified model loses channels, its layers are fitted anew (in both cases), and divergence.py compares the outputs.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir
from onnx_compress.optimizer.calibrate import load_calibration
from onnx_compress.optimizer.drop_channels import Drop, drop_channels
from onnx_compress.optimizer.loading import load
from onnx_compress.passes.simplify import simplify
from rows import processor, write_rows
from shared_models import HERE, MODELS, TASKS, calibration, script

NAMES = ("mobilenet_v1_075", "cifar10_resnet20_jpegft", "mlperf_kws_dscnn")


@dataclass(frozen=True, slots=True)
class Row:
    """One model without some of its channels; `seed` is empty where they were chosen by sensitivity."""

    model: str
    fraction: float
    chosen: str
    seed: str
    dropped: int
    channels: int
    bytes: int
    kind: str
    divergence: float
    seconds: float
    processor: str


def main() -> None:
    """Runs all rows that the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="")
    parser.add_argument("--fractions", default="0.05,0.1,0.2")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "channels.csv")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in NAMES if re.search(arguments.only, name)):
            for fraction in map(float, arguments.fractions.split(",")):
                drops = [Drop(fraction), *(Drop(fraction, seed=seed, random=True) for seed in range(arguments.seeds))]
                rows += [measured(arguments.models, name, drop, Path(folder)) for drop in drops]
                least, *others = (row.divergence for row in rows[-len(drops) :])
                print(f"{name} {fraction:g}: {least:.3g} against {', '.join(f'{one:.3g}' for one in sorted(others))} at random", flush=True)
    write_rows(arguments.out, [asdict(row) for row in rows])


def measured(models: Path, name: str, drop: Drop, folder: Path) -> Row:
    """Drops channels of one model and evaluates what is left."""
    source, target = models / f"{name}.onnx", folder / "dropped.onnx"
    model = load(source)
    simplify(model)
    feeds = load_calibration([calibration(models, name, folder)], model.graph.inputs)
    begun = time.monotonic()
    notes = drop_channels(model, feeds, drop)
    seconds = time.monotonic() - begun
    ir.save(model, target)
    kind, moved = script(models, "divergence.py", TASKS[name], str(source), str(target))
    dropped, channels = map(int, re.findall(r"(\d+) of (\d+) channels", notes[0])[0])
    chosen, seed = ("random", str(drop.seed)) if drop.random else ("least sensitive", "")
    return Row(name, drop.fraction, chosen, seed, dropped, channels, target.stat().st_size, kind, float(moved), round(seconds, 1), processor())


if __name__ == "__main__":
    main()
