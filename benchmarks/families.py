#!/usr/bin/env python3
"""Every family alone on the real models of ../shared/models: divergence at equal bytes.

usage: python benchmarks/families.py --calibration FOLDER [--models FOLDER] [--only REGEX] [--techniques codebook,mapped,..] [--out FILE.csv]

FOLDER holds <model>.npz. `divergence_seen` is the report's, on calibration data; `divergence_eval` that of divergence.py on the evaluation split. Appends.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from rows import append, processor  # noqa: E402  (beside this file)
from shared_models import MODELS, TASKS, script  # noqa: E402

RATIOS = {
    "charrnn_shakespeare": 8,
    "mlperf_kws_dscnn": 6,
    "cifar10_resnet20_jpegft": 8,
    "ultraface_rfb320": 8,
    "nanodet_m": 8,
    "mobilenet_v1_075": 8,
    "minilm_l6_v2": 8,
}
TECHNIQUES = "codebook,mapped,prune,quantize,deep-compression,auto"


@dataclass(frozen=True, slots=True)
class Row:
    """One model compressed by one family; `won` counts the weights by the family that they got."""

    model: str
    technique: str
    asked: float
    ratio: float
    bytes: int
    divergence_seen: float
    predicted: float
    divergence_eval: str
    won: str
    seconds: float
    processor: str


def main() -> None:
    """Runs all rows that the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="")
    parser.add_argument("--techniques", default=TECHNIQUES)
    parser.add_argument("--out", type=Path, default=HERE / "families.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in (name for name in RATIOS if re.search(arguments.only, name)):
            for technique in arguments.techniques.split(","):
                row = measure(arguments, model, technique, Path(folder))
                if row is not None:
                    append(arguments.out, row)


def measure(arguments: argparse.Namespace, model: str, technique: str, folder: Path) -> Row | None:
    """Compresses one model with one family; None, and the reason printed, where that failed."""
    source, target = arguments.models / f"{model}.onnx", folder / f"{model}.onnx"
    data = arguments.calibration / f"{model}.npz"
    options = ["--target-ratio", str(RATIOS[model]), "--technique", technique, "--calibration", str(data), "-f", "--json"]
    begun = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "onnx_compress.optimizer.cli", str(source), str(target), *options], check=False, capture_output=True, text=True
    )
    seconds = time.monotonic() - begun
    if run.returncode:
        print(f"{model} {technique}: exit {run.returncode}: {run.stderr.strip()[:300]}", flush=True)
        return None
    report = json.loads(run.stdout)
    kind, moved = script(arguments.models, "divergence.py", TASKS[model], str(source), str(target))
    won = Counter(weight["form"].partition(":")[0] for weight in report["weights"])
    row = Row(
        model,
        technique,
        RATIOS[model],
        report["ratio"],
        report["bytes_after"],
        report["divergence"],
        report["predicted"],
        f"{kind} {moved}",
        "; ".join(f"{family} {count}" for family, count in won.most_common()),
        round(seconds, 1),
        processor(),
    )
    print(f"{model} {technique}: {row.bytes:,} bytes, {row.divergence_seen:.5g} seen, {row.divergence_eval} on the evaluation split ({row.won})", flush=True)
    return row


if __name__ == "__main__":
    main()
