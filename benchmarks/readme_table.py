"""Writes the table of results between the markers of README.md, from benchmarks/quality.csv.

usage: python benchmarks/readme_table.py [--check]          (--check: exit code 1 where README.md is not up to date)
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEGIN = "<!-- results: written by benchmarks/readme_table.py from benchmarks/quality.csv -->"
END = "<!-- end of results -->"
HEAD = ("model", "asked", "size", "ratio", "metric", "before", "after", "divergence", "calibrated")
TECHNIQUE = "auto"
"""Rows of other techniques are left out."""


def rows(path: Path) -> list[dict[str, str]]:
    """The newest row of each model, ratio and calibration, in order. A model that was measured again replaces its older rows."""
    with path.open(newline="") as file:
        found = {(row["model"], float(row["asked"]), row["calibrated"]): row for row in csv.DictReader(file) if row["technique"] == TECHNIQUE}
    return [found[key] for key in sorted(found, key=lambda key: (key[0], key[1], key[2] != "True"))]


def cells(row: dict[str, str]) -> tuple[str, ...]:
    """One line of the table."""
    return (
        row["model"],
        f"{float(row['asked']):g}x",
        size(int(row["bytes"])),
        f"{float(row['ratio']):.2f}",
        row["metric"],
        f"{float(row['baseline']):.4g}",
        f"{float(row['value']):.4g}",
        divergence(row["divergence_eval"]),
        "yes" if row["calibrated"] == "True" else "no",
    )


def size(count: int) -> str:
    """Bytes in decimal units."""
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} KB"


def divergence(text: str) -> str:
    """`KIND VALUE` with two significant digits."""
    kind, _, value = text.rpartition(" ")
    try:
        return f"{float(value):.2g} {kind}".strip()
    except ValueError:
        return text


def table(path: Path) -> str:
    """The table in Markdown; a sentence where nothing was measured yet."""
    if not path.exists():
        return "(not measured yet: `python benchmarks/quality.py` measures)"
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join(lines + ["| " + " | ".join(cells(row)) + " |" for row in rows(path)])


def main(check: bool) -> int:
    """1 where --check finds a difference, or README.md has lost its markers."""
    readme = HERE.parent / "README.md"
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        print(f"README.md has lost a marker: {BEGIN} or {END}", file=sys.stderr)
        return 1
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    made = f"{before}{BEGIN}\n\n{table(HERE / 'quality.csv')}\n\n{END}{after}"
    if check:
        print("README.md is up to date" if made == text else "README.md is not up to date: run python benchmarks/readme_table.py")
        return int(made != text)
    readme.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
