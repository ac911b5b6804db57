"""Writes the latencies of models.csv between the markers of README.md: `python -m benchmarks.runtime.report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..readme import renew

COLUMNS = (
    ("one thread", {"threads": "1", "set": "fastest", "prefer": "balanced"}),
    ("two threads", {"threads": "2", "set": "fastest", "prefer": "balanced"}),
    ("`--prefer memory`", {"threads": "1", "set": "fastest", "prefer": "memory"}),
    ("`--prefer speed`", {"threads": "1", "set": "fastest", "prefer": "speed"}),
    ("AVX2 alone", {"threads": "1", "set": "avx2", "prefer": "balanced"}),
)
UNITS = {"minilm_l6_v2": "token", "charrnn_shakespeare": "character"}
"""What a length counts."""

Row = dict[str, str]


def table(rows: Sequence[Row]) -> str:
    """A row a model and length: milliseconds of fp32 on one thread, and our time over fp32's."""
    heads = ["model", "ratio", "fp32", *(head for head, _ in COLUMNS)]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, ratio, length in dict.fromkeys((row["model"], row["ratio"], row["length"]) for row in rows):
        own = [row for row in rows if (row["model"], row["ratio"], row["length"]) == (name, ratio, length)]
        cells = [next((row["ratio_median"] for row in own if wanted.items() <= row.items()), "") for _, wanted in COLUMNS]
        what = f"{name}, {length} {UNITS[name]}{'s' * (length != '1')}" if name in UNITS else name
        lines.append(f"| {what} | {ratio} | {own[0]['fp32_ms']} ms | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    renew("runtime", Path(__file__).parent / "models.csv", table)
