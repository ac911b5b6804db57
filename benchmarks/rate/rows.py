"""The rows of results.csv: one compressed file each."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One compressed file: `bytes` of the whole file, `ratio` to the original's, metric and divergence on the evaluation split.

    `seconds` are those of compressing alone, on one `processor`.
    """

    model: str
    method: str
    setting: str
    bytes: int
    ratio: float
    metric: str
    metric_value: float
    divergence_kind: str
    divergence: float
    seconds: float
    processor: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes a row the same as another one."""
        return self.model, self.method, self.setting


def read(path: Path) -> dict[tuple[str, str, str], Row]:
    """The rows by key, the last one of each; none where there is no file yet."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [_row(record) for record in csv.DictReader(file)]
    return {row.key: row for row in rows}


def _row(record: dict[str, str]) -> Row:
    return Row(
        record["model"],
        record["method"],
        record["setting"],
        int(record["bytes"]),
        float(record["ratio"]),
        record["metric"],
        float(record["metric_value"]),
        record["divergence_kind"],
        float(record["divergence"]),
        float(record["seconds"]),
        record["processor"],
    )


def append(path: Path, row: Row) -> None:
    """Adds a row, below a header where the file is new."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow([field.name for field in fields(Row)])
        writer.writerow(astuple(row))


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replaces the file by these rows."""
    path.unlink(missing_ok=True)
    for row in rows:
        append(path, row)
