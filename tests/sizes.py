"""Bytes of every generated model at every target: `python -m tests.sizes` writes tests/sizes.csv, whose diff is reviewed."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import onnx
from onnx_compress.optimizer import Request, compress
from onnx_compress.optimizer.errors import TargetError, UsageError

from models.structures import STRUCTURES

RECORDED = Path(__file__).with_name("sizes.csv")
RATIOS = (10.0,)
LOSSLESS_RATIO = 1.1
COLUMNS = ("model", "ratio", "before", "graph", "payload")


def measured(name: str, folder: Path) -> list[tuple[str, str, int, int, int]]:
    """One row for each ratio that can be reached; the lossless ratio for models of integers."""
    source = folder / f"{name}.onnx"
    onnx.save(STRUCTURES[name](0), source)
    rows = []
    for ratio in (*RATIOS, LOSSLESS_RATIO):
        if ratio == LOSSLESS_RATIO and rows:
            break
        try:
            report = compress(source, folder / "out.onnx", Request(target_ratio=ratio, force=True, threads=2))
        except (TargetError, UsageError):
            continue
        payload = sum(weight.bytes_after for weight in report.weights)
        rows.append((name, f"{ratio:g}", report.bytes_before, report.bytes_after - payload, payload))
    return rows


def main() -> None:
    """Writes the CSV anew."""
    with tempfile.TemporaryDirectory() as folder, RECORDED.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name in STRUCTURES:
            writer.writerows(measured(name, Path(folder)))


def recorded() -> dict[tuple[str, str], tuple[int, int, int]]:
    """(before, graph, payload) by (model, ratio)."""
    with RECORDED.open() as file:
        return {(row["model"], row["ratio"]): (int(row["before"]), int(row["graph"]), int(row["payload"])) for row in csv.DictReader(file)}


if __name__ == "__main__":
    main()
