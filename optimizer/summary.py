"""Reports as rows of text, for people: (label, text) pairs and plain tables. Pure; `console` prints them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .report import EXACT, Curve, Report, WeightReport

if TYPE_CHECKING:
    from .inspect import Inspection

Row: TypeAlias = tuple[str, str]
"""A label, empty on continuation lines, and a text."""

MEASURES = {
    "classes": "nats of KL divergence of the class scores",
    "embedding": "of 1 - cosine similarity",
    "probability": "of relative squared error",
    "map": "of relative squared error",
    "integer": "of the integers changed",
}
MOST_FAMILIES = 3
"""Families of forms that a line of the curve names."""

MOST_REASONS = 4
"""Reasons that the short summary lists for weights left alone."""


def human(size: int) -> str:
    """A number of bytes in the decimal units of --target-size: 950 bytes, 1.63 KB, 90.3 MB."""
    for power, unit in enumerate(("bytes", "KB", "MB", "GB")):
        if size < 999.5 * 1000**power:
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size / 1000**4:.3g} TB"


def number(value: float) -> str:
    """A divergence: two significant digits."""
    if math.isnan(value):
        return "not measured"
    return "0" if value == 0 else f"{value:.2g}"


def summary(report: Report, names: bool, dry_run: bool) -> list[Row]:
    """The report in about a dozen rows; `names` lists each weight that was left alone."""
    rows = [("size", _size(report)), ("difference", _difference(report)), *_weights(report), *_placement(report), *_left_alone(report, names)]
    rows += [("note", note) for note in report.notes]
    if dry_run:
        return [*rows, ("dry run", f"nothing was written; {report.target} would have {report.bytes_after:,} bytes")]
    return [*rows, *how_to_run(report.target)]


def _size(report: Report) -> str:
    gain = f"{report.ratio:.2f} times smaller" if report.bytes_after < report.bytes_before else "not smaller: nothing gained, keep the original"
    return f"{human(report.bytes_before)} -> {human(report.bytes_after)}, {gain}   ({report.bytes_before:,} -> {report.bytes_after:,} bytes)"


def _difference(report: Report) -> str:
    if report.divergence_kind == EXACT:
        return "none: every weight keeps its very bits; the sha256 of what restore gives is that of the input"
    return f"{number(report.divergence)} {MEASURES.get(report.divergence_kind, report.divergence_kind)}, measured on {report.inputs} ({number(report.predicted)} predicted)"


def _weights(report: Report) -> list[Row]:
    if not report.weights:
        return [("compressed", f"no weight; the graph itself takes {human(report.graph_bytes)}")]
    counts = Counter(_head(weight.form) for weight in report.weights)
    forms = ", ".join(f"{count} as {form}" for form, count in counts.most_common())
    values = sum(math.prod(weight.dims) for weight in report.weights)
    bits = 8 * sum(weight.bytes_after for weight in report.weights) / max(values, 1)
    return [
        ("compressed", f"{len(report.weights)} weights: {forms}"),
        ("", f"{bits:.2f} bits a weight on average; the graph itself takes {human(report.graph_bytes)}"),
    ]


def _placement(report: Report) -> list[Row]:
    """Where the weights are when the model runs, and what the cost model says of that."""
    if not report.weights:
        return []
    counts = Counter(weight.placement for weight in report.weights)
    where = ", ".join(f"{count} {placement}" for placement, count in counts.most_common())
    pace = f"; modelled time of their operators {report.modelled_us / report.folded_us:.2f} of the dense ones'" if report.folded_us else ""
    dense = sum(weight.bytes_before for weight in report.weights)
    return [("placed", f"{where}: {human(report.resident_bytes)} in memory, dense {human(dense)}{pace}")]


def _head(form: str) -> str:
    """The name of the outermost form."""
    match = re.match(r"\w+", form)
    return match.group() if match else form


def _left_alone(report: Report, names: bool) -> list[Row]:
    if not report.left_alone:
        return [("left alone", "no weight")]
    total = sum(size for _, _, size in report.left_alone)
    reasons: dict[str, list[tuple[str, int]]] = {}
    for name, reason, size in report.left_alone:
        reasons.setdefault(reason, []).append((name, size))
    groups = sorted(reasons.items(), key=lambda group: -sum(size for _, size in group[1]))
    shown = groups if names else groups[:MOST_REASONS]
    rows = [("left alone", f"{_count(len(report.left_alone), 'weight')}, {human(total)}")]
    for reason, group in shown:
        rows.append(("", f"{len(group):4}  {reason} ({human(sum(size for _, size in group))})"))
        rows += [("", f"        {name}, {human(size)}") for name, size in group if names]
    if len(groups) > len(shown):
        rows.append(("", f"   +  {_count(len(groups) - len(shown), 'more reason')} (-v lists all, with the names)"))
    return rows


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def how_to_run(target: str) -> list[Row]:
    """How the compressed model is run, in Python and elsewhere."""
    return [
        ("run it", f"from onnx_compress.runtime import session; session({Path(target).as_posix()!r})".replace("'", '"')),
        ("", "C++, C#, Java: register the library that `onnx-compress library` names; elsewhere: onnx-compress restore"),
    ]


def details(report: Report) -> list[Row]:
    """What -v adds: how sure the numbers are, and where the time went."""
    rows = [
        ("agreement", f"{number(report.fused_against_restored)} between the fused operators and the restored model, of the largest output"),
    ]
    times = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in report.seconds.items())
    return [*rows, ("time", times)] if times else rows


def _figures(w: WeightReport) -> tuple[str, ...]:
    times = f"{w.fused_us:.0f} / {w.folded_us:.0f}"
    return f"{w.bytes_before:,}", f"{w.bytes_after:,}", f"{w.bits_per_weight:.2f}", f"{w.zeros:.1%}", number(w.predicted), number(w.measured), times


def _named(form: str) -> str:
    """A form by its family and the first number of its technique; JSON has all of them."""
    family, _, technique = form.partition(": ")
    first = re.search(r"(\w+)=([\d.e+-]+)", technique)
    return f"{family}, {first[1]} {float(first[2]):.3g}" if first else form


def weight_table(report: Report) -> list[str]:
    """One line for each compressed weight."""
    head = (
        "weight", "shape", "dtype", "operator", "placed", "form", "before", "after", "bits/weight", "zeros", "predicted", "measured", "us fused / folded",
    )  # fmt: skip
    lines = [(w.name, _shape(w.dims), w.dtype, w.operator, w.placement, _named(w.form), *_figures(w)) for w in report.weights]
    return aligned(head, lines, right=range(6, 13))


def curve_table(curve: Curve) -> list[str]:
    """One line for each ratio that can be reached."""
    head = ("ratio", "bytes", "predicted", "measured", "weights by form")
    lines = [(f"{p.ratio:.2f}", f"{p.bytes:,}", number(p.predicted), number(p.measured), _brief(p.families)) for p in curve.points]
    return aligned(head, lines, right=range(4))


def _brief(families: Mapping[str, int]) -> str:
    """The families that win most often."""
    ranked = sorted(families.items(), key=lambda item: -item[1])
    rest = sum(count for _, count in ranked[MOST_FAMILIES:])
    return ", ".join(f"{count} {name}" for name, count in ranked[:MOST_FAMILIES]) + (f", {rest} others" if rest else "")


def curve_rows(curve: Curve) -> list[Row]:
    """What the table's figures are, and what to do with them."""
    rows = [("model", f"{curve.source}, {curve.bytes_before:,} bytes")]
    rows.append(("difference", f"{MEASURES.get(curve.divergence_kind, curve.divergence_kind)}, measured on {curve.inputs}"))
    if curve.out_of_reach:
        rows.append(("not reached", ", ".join(f"{ratio:g}" for ratio in curve.out_of_reach)))
    rows.append(("dry run", "nothing was written; --target-ratio writes one of these, --max-divergence the smallest file within a difference"))
    return rows


def inspection_table(inspection: Inspection) -> list[str]:
    """One line for each weight of a compressed file."""
    head = ("weight", "shape", "dtype", "operator", "form", "bytes", "bits/weight")
    lines = [
        (w.name, _shape(w.dims), w.dtype, w.operator, w.form, f"{w.bytes:,}", f"{w.bits_per_weight:.2f}") for w in inspection.weights
    ]
    return aligned(head, lines, right=range(5, 7))


def inspection_rows(inspection: Inspection) -> list[Row]:
    """What a compressed file holds, in all. A lossless one does not say who wrote it."""
    writer = f", written by {inspection.package}" if inspection.package else ""
    return [
        ("file", f"{inspection.path}, {inspection.total_bytes:,} bytes, format {inspection.format}{writer}"),
        ("weights", f"{len(inspection.weights)} in {_count(inspection.payloads, 'payload')} of {inspection.payload_bytes:,} bytes in all"),
        ("the rest", f"{inspection.graph_bytes:,} bytes of graph, {inspection.plain_bytes:,} bytes of tensors that are not compressed"),
        ("in a session", f"{inspection.decode_buffer_bytes:,} bytes of decoded weights at most in each thread"),
        ("checksums", "all right"),
    ]


def plain_rows(report: Any) -> list[Row]:
    """Any dataclass as rows, its field names as labels."""
    rows = []
    for item in dataclasses.fields(report):
        value, label = getattr(report, item.name), item.name.replace("_", " ")
        rows += [(label, _text(item.name, each)) for each in (value if isinstance(value, (list, tuple)) else (value,)) if each is not None]
    return rows


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return f"{value:,}" if isinstance(value, int) and "bytes" in name else str(value)


def _shape(dims: Sequence[int]) -> str:
    return "x".join(map(str, dims)) or "scalar"


def aligned(head: Sequence[str], lines: Iterable[Sequence[str]], right: Iterable[int]) -> list[str]:
    """A table in columns, those in `right` flush right."""
    table, flush = [tuple(head), *map(tuple, lines)], set(right)
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return [
        "  ".join(cell.rjust(width) if column in flush else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in table
    ]
