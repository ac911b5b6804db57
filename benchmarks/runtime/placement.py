"""What `--prefer` does: latency, divergence and memory of files of equal size: `python benchmarks/runtime/placement.py [MODEL ...] [--prefer A,B] [--out FILE.csv]`.

Each model is compressed at 8x with its calibration data. Latency is against fp32 onnxruntime in the same process, run in turn, one thread; `divergence` is
measured on the evaluation data (with --seen on the calibration data: for development), `worse` is relative to `--prefer memory`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from layers import opened
from pairs import alternate, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compressed import CACHE, feed
from rows import line, processor, write_rows
from shared_models import MODELS, TASKS, calibration, script

RATIO = 8
NAMES = ("mobilenet_v1_075", "cifar10_resnet20_jpegft", "nanodet_m", "ultraface_rfb320", "mlperf_kws_dscnn")
PREFERENCES = ("memory", "balanced", "speed")


def measure(model: str, prefer: str, seen: bool) -> dict[str, object]:
    """One row."""
    source, target = MODELS / f"{model}.onnx", CACHE / "placement" / prefer / f"{model}.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ["--target-ratio", str(RATIO), "--prefer", prefer, "--calibration", str(calibration(MODELS, model, CACHE)), "-f", "--json"]
    command = [sys.executable, "-m", "onnx_compress.optimizer.cli", str(source), str(target), *options]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    moved = report["divergence"] if seen else float(script(MODELS, "divergence.py", TASKS[model], str(source), str(target))[1])
    return {
        "model": model, "prefer": prefer, "ratio": f"{report['ratio']:.3f}", "divergence": f"{moved:.3g}", "predicted": f"{report['predicted']:.3g}",
        "weights": len(report["weights"]), "folded": sum(w["placement"] == "folded" for w in report["weights"]),
        "resident_kb": f"{report['resident_bytes'] / 1000:.0f}",
        "modelled": f"{report['modelled_us'] / max(report['folded_us'], 1e-9):.2f}", **latency(source, target),
    }  # fmt: skip


def latency(source: Path, target: Path) -> dict[str, object]:
    """Quartiles of compressed / fp32, one thread each."""
    plain, ours = opened(source, 1, {}), opened(target, 1, {})
    inputs = feed(plain, 1)
    return quartiles(alternate(lambda: plain.run(None, inputs), lambda: ours.run(None, inputs)))


def main(arguments: Sequence[str] | None = None) -> int:
    """All rows, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--prefer", default=",".join(PREFERENCES))
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    rows: list[dict[str, object]] = []
    for model in given.names:
        made = [measure(model, prefer, given.seen) for prefer in given.prefer.split(",")]
        base = next((float(str(one["divergence"])) for one in made if one["prefer"] == "memory"), math.nan)
        rows += [one | {"worse": f"{float(str(one['divergence'])) / base:.2f}"} for one in made]
        for one in rows[-len(made) :]:
            print(line(one), flush=True)
    if given.out:
        write_rows(given.out, [one | {"onnxruntime": onnxruntime.__version__, "processor": processor()} for one in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
