"""Writes the table of results.csv between the markers of README.md: `python -m benchmarks.lossless.report`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..readme import renew

KINDS = ("as it is", "bf16", "fp16")


Rows = list[dict[str, str]]


def table(rows: Rows) -> str:
    """Sizes, then speeds: a row a model, a column a kind, and geometric means."""
    return f"{_sizes(rows)}\n\n{_speeds(rows)}"


def _sizes(rows: Rows) -> str:
    """Our share of the original's bytes, and ZipNN's; then what we take of ZipNN's."""
    share = _figures(rows, "share")
    cells = {(model, kind): f"{share[model, kind, 'ours']:.4f} / {share[model, kind, 'zipnn']:.4f}" for model, kind, tool in share if tool == "ours"}
    return "\n".join([*_lines("ours / ZipNN, share of the original", cells), _means("ours against ZipNN", share, 4)])


def _speeds(rows: Rows) -> str:
    """Encoding, ours and ZipNN's, and the whole call of ours; then both directions as a share of ZipNN's."""
    encode, decode, whole = (_figures(rows, f"{one}_mb_s") for one in ("encode", "decode", "compress"))
    cells = {(model, kind): f"{encode[model, kind, 'ours']:.0f} / {encode[model, kind, 'zipnn']:.0f} ({whole[model, kind, 'ours']:.0f})" for model, kind, tool in whole if tool == "ours"}
    means = [_means(f"{name} against ZipNN", figures, 2) for name, figures in (("encoding", encode), ("decoding", decode))]
    return "\n".join([*_lines("encoding, ours / ZipNN (the whole call of ours), MB/s of one thread", cells), *means])


def _figures(rows: Rows, column: str) -> dict[tuple[str, str, str], float]:
    return {(row["model"], row["kind"], row["tool"]): float(row[column]) for row in rows if row[column]}


def _lines(title: str, cells: dict[tuple[str, str], str]) -> list[str]:
    models = sorted({model for model, _ in cells})
    return [_line(title, KINDS), "|---|" + "---|" * len(KINDS), *(_line(model, [cells.get((model, kind), "") for kind in KINDS]) for model in models)]


def _means(title: str, figures: dict[tuple[str, str, str], float], digits: int) -> str:
    """Geometric means of ours by ZipNN's, a kind each."""
    logs = [[math.log(figures[m, k, t] / figures[m, k, "zipnn"]) for m, k, t in figures if k == kind and t == "ours"] for kind in KINDS]
    return _line(f"**{title}, geometric mean**", [f"{math.exp(sum(one) / len(one)):.{digits}f}" for one in logs])


def _line(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    renew("lossless", Path(__file__).parent / "results.csv", table)
