"""The plot: for each model divergence over ratio, and below it the metric over ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .cases import CASES, Case
from .methods import METHODS
from .rows import Row

COLUMNS = 4
RATIOS = (2, 4, 6, 8, 10, 12, 16, 20)
SHOWN = (1.5, 26)
Line: TypeAlias = Literal["-", "--", ":", "none"]

STYLES: Mapping[str, tuple[str, Line, str]] = {
    "ours, no data": ("#0072b2", ":", ""),
    "ours, balanced": ("#0072b2", "-", "o"),
    "ours, best": ("#0072b2", "--", ""),
    "NNCodec": ("#d55e00", "-", ""),
    "NNCodec opt_qp": ("#d55e00", "--", ""),
    "Deep Compression, not retrained": ("#009e73", "-", "s"),
    "round to nearest + ideal entropy": ("#cc79a7", "-", "^"),
    "MatMulNBits": ("#000000", "none", "x"),
    "quantize_dynamic": ("#e69f00", "none", "D"),
}
"""Colour-blind safe colours (Okabe and Ito), line and marker of each method."""


def draw(curves: Mapping[tuple[str, str], Sequence[Row]], target: Path) -> None:
    """Writes the figure; the suffix says in which format. The same rows give the same bytes."""
    mpl.use("agg")
    mpl.rcParams.update({"svg.hashsalt": "onnx-compress", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    blocks = -(-len(CASES) // COLUMNS)
    figure, grid = plt.subplots(2 * blocks, COLUMNS, figsize=(14, 5.4 * blocks), squeeze=False, layout="constrained")
    for number in range(blocks * COLUMNS):
        row, column = divmod(number, COLUMNS)
        pair = grid[2 * row, column], grid[2 * row + 1, column]
        if number < len(CASES):
            panels(curves, CASES[number], *pair)
        else:
            for axes in pair:
                axes.axis("off")
    handles = [Line2D([], [], color=color, linestyle=line, marker=marker, markersize=4, label=method) for method, (color, line, marker) in STYLES.items()]
    grid[-2, -1].legend(handles=handles, loc="center", frameon=False, fontsize=9)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    plt.close(figure)


def panels(curves: Mapping[tuple[str, str], Sequence[Row]], case: Case, above: Axes, below: Axes) -> None:
    """Divergence and metric of one model."""
    for method in METHODS:
        rows = sorted((row for row in curves.get((case.model, method), ()) if row.ratio <= SHOWN[1]), key=lambda row: row.ratio)
        if not rows:
            continue
        color, line, marker = STYLES[method]
        for axes, values in ((above, [max(row.divergence, 1e-9) for row in rows]), (below, [row.metric_value for row in rows])):
            axes.plot([row.ratio for row in rows], values, color=color, linestyle=line, marker=marker, markersize=3, linewidth=1.2)
        above.set_ylabel(f"divergence ({rows[0].divergence_kind})")
        below.set_ylabel(rows[0].metric)
    above.set_title(case.model, fontsize=9)
    above.set_yscale("log")
    below.axhline(case.baseline, color="0.6", linewidth=0.8, zorder=0)
    if case.task.startswith("charrnn"):
        below.set_ylim(0.97 * case.baseline, 2 * case.baseline)
    for axes in (above, below):
        axes.set_xscale("log")
        axes.set_xlim(*SHOWN)
        axes.set_xticks(RATIOS, [str(ratio) for ratio in RATIOS])
        axes.minorticks_off()
        axes.grid(alpha=0.3, linewidth=0.5)
    below.set_xlabel("whole-file ratio")
