"""Cases by name, and their results: rows of a CSV file, which name the processor."""

from __future__ import annotations

import csv
import platform
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

MACHINE = ("onnxruntime", "processor")
"""Columns that are the same in every row: not worth printing each time."""


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")


def line(values: Mapping[str, object]) -> str:
    """The values for a person."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV whose columns are the keys of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def append(path: Path, row: Any) -> None:
    """Adds a dataclass as a row to the CSV, with a header where it is new."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(row)))
        if fresh:
            writer.writeheader()
        writer.writerow(asdict(row))


def merged(path: Path, rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> list[Mapping[str, object]]:
    """The rows of a CSV, if it is there, with these in the place of those that have the same keys; new ones behind them."""
    with path.open(newline="") if path.exists() else nullcontext([]) as file:
        known = list(csv.DictReader(file))
    found = {tuple(str(row[key]) for key in keys): row for row in (*known, *rows)}
    return list(found.values())


def run_cases(given: Namespace, cases: Iterable[tuple[str, Callable[[], Mapping[str, object]]]], keys: Sequence[str] = ()) -> None:
    """Measures the cases whose name holds one of `given.names` (all without any), prints each row, and writes all to `given.out` where it is set.

    With `keys`, other rows that are there stay.
    """
    rows = []
    for name, measure in cases:
        if not given.names or any(part in name for part in given.names):
            rows.append(measure())
            print(line({key: value for key, value in rows[-1].items() if key not in MACHINE}), flush=True)
    if given.out:
        write_rows(given.out, merged(given.out, rows, keys) if keys else rows)
