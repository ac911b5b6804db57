"""Writes the results between the markers of README.md, and the plot beside results.csv: what each method reaches at equal divergence.

usage, in the checkout: python -m benchmarks.rate.report [--csv FILE] [--check] [--plot FILE.svg]

--check changes nothing: exit code 1 where README.md is not up to date. --plot needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..readme import README, renewed
from . import rows
from .cases import CASES, HERE, Case
from .curve import Reached, geometric_mean, reached
from .methods import METHODS
from .rows import Row

OURS = "ours, balanced"
"""Its file at the ratio of the bar says at which divergence all methods are compared."""

HEADS = {
    "Deep Compression, not retrained": "Deep Compression",
    "round to nearest + ideal entropy": "round to nearest",
}
Curves = Mapping[tuple[str, str], Sequence[Row]]


def main() -> int:
    """1 where --check finds a difference, or README.md has lost its markers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=HERE / "results.csv")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    curves = by_curve(rows.read(arguments.csv).values())
    if arguments.plot:
        from .plot import draw

        draw(curves, arguments.plot)
    text = arguments.readme.read_text()
    try:
        made = renewed(text, "rate", tables(curves))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.check:
        print("README.md is up to date" if made == text else "README.md is not up to date: run python -m benchmarks.rate.report")
        return int(made != text)
    arguments.readme.write_text(made)
    return 0


def by_curve(found: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each (model, method)."""
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        curves.setdefault((row.model, row.method), []).append(row)
    return curves


def tables(curves: Curves) -> str:
    """Both tables in Markdown; a sentence where nothing of ours was measured yet."""
    bars = {case: bar for case in CASES if (bar := bar_row(curves, case)) is not None}
    if not bars:
        return "(not measured yet: `python -m benchmarks.rate` measures)"
    return f"{table(files(bars))}\n\n{table(comparison(curves, bars))}"


def bar_row(curves: Curves, case: Case) -> Row | None:
    """Our balanced file at the ratio of the bar."""
    return next((row for row in curves.get((case.model, OURS), ()) if row.setting == f"{case.bar:g}x"), None)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown; the first line is the head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *body))


def files(bars: Mapping[Case, Row]) -> list[list[str]]:
    """What a user gets: our balanced files at the ratios of the bar."""
    lines = [["model", "size", "ratio", "metric", "before", "after", "divergence"]]
    for case, row in bars.items():
        change = [row.metric, f"{case.baseline:.4g}", f"{row.metric_value:.4g}"]
        lines.append([row.model, size(row.bytes), f"{row.ratio:.2f}", *change, f"{row.divergence:.2g} {row.divergence_kind}"])
    return lines


def comparison(curves: Curves, bars: Mapping[Case, Row]) -> list[list[str]]:
    """The ratio of every method at the divergence of our balanced file, and how many times larger that makes its files."""
    methods = [method for method in METHODS if any((case.model, method) in curves for case in bars)]
    lines = [["ratio at equal divergence", *(HEADS.get(method, method) for method in methods)]]
    factors: dict[str, list[Reached]] = {method: [] for method in methods}
    for case, bar in bars.items():
        cells = []
        for method in methods:
            found = reached(curves.get((case.model, method), ()), bar.divergence)
            cells.append("" if found is None else f"{'<' * found.at_most}{found.ratio:.2f}")
            if found is not None:
                factors[method].append(Reached(bar.ratio / found.ratio, found.at_most))
        lines.append([case.model, *cells])
    return [*lines, ["size at equal divergence, geometric mean", *map(mean_cell, factors.values())]]


def mean_cell(factors: Sequence[Reached]) -> str:
    """The geometric mean; a bound where one of them is."""
    if not factors:
        return ""
    return f"{'>' * any(factor.at_most for factor in factors)}{geometric_mean([factor.ratio for factor in factors]):.2f}x"


def size(count: int) -> str:
    """Bytes in decimal units."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


if __name__ == "__main__":
    sys.exit(main())
