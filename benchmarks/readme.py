"""README.md has sections that scripts write: each stands between two markers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def renewed(text: str, name: str, table: str) -> str:
    """`text` with `table` as what stands between the markers of the section `name`. Raises ValueError where it has lost one."""
    begin = f"<!-- {name}: written by python -m benchmarks.{name}.report from "
    end = f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    source, closed, rest = rest.partition(" -->")
    _, ended, after = rest.partition(end)
    if not (found and closed and ended):
        raise ValueError(f"README.md has lost a marker: {begin}... --> or {end}")
    return f"{before}{begin}{source} -->\n\n{table}\n\n{end}{after}"


def renew(name: str, source: Path, table: Callable[[list[dict[str, str]]], str]) -> None:
    """Writes what `table` makes of the rows of a CSV into its section."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    README.write_text(renewed(README.read_text(), name, table(rows)))
