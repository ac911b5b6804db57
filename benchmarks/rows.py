"""Cases by name, and their results."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from compressed import row


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV whose columns are the keys of the first row."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


MACHINE = ("onnxruntime", "processor")
"""Columns that are the same in every row: not worth printing each time."""


def run_cases(given: Namespace, cases: Iterable[tuple[str, Callable[[], Mapping[str, object]]]]) -> None:
    """Measures the cases whose name holds one of `given.names` (all without any), prints each row, and writes all to `given.out` where it is set."""
    rows = []
    for name, measure in cases:
        if not given.names or any(part in name for part in given.names):
            rows.append(measure())
            print(row({key: value for key, value in rows[-1].items() if key not in MACHINE}), flush=True)
    if given.out:
        write_rows(given.out, rows)
