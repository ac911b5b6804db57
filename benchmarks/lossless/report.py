"""Writes the table of results.csv between the markers of README.md: `python -m benchmarks.lossless.report`."""

from __future__ import annotations

import math
from pathlib import Path

from ..readme import renew

KINDS = ("as it is", "bf16", "fp16")


def table(rows: list[dict[str, str]]) -> str:
    """A row a model, a column a kind: our share of the original's bytes, and ZipNN's; then what we take of ZipNN's, as a geometric mean."""
    share = {(row["model"], row["kind"], row["tool"]): float(row["share"]) for row in rows}
    lines = ["| ours / ZipNN, share of the original | " + " | ".join(KINDS) + " |", "|---|" + "---|" * len(KINDS)]
    for model in sorted({row["model"] for row in rows}):
        cells = [f"{share[model, kind, 'ours']:.4f} / {share[model, kind, 'zipnn']:.4f}" if (model, kind, "ours") in share else "" for kind in KINDS]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    means = []
    for kind in KINDS:
        logs = [math.log(share[m, k, t] / share[m, k, "zipnn"]) for m, k, t in share if k == kind and t == "ours"]
        means.append(f"{math.exp(sum(logs) / len(logs)):.4f}")
    return "\n".join([*lines, "| **ours against ZipNN, geometric mean** | " + " | ".join(means) + " |"])


if __name__ == "__main__":
    renew("lossless", Path(__file__).parent / "results.csv", table)
