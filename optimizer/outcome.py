"""Makes the report: what became of every weight, counted in the bytes of the file that was written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from .emit import Emitted
from .files import model_bytes
from .layout import Layout
from .plan import Choice, Payload
from .report import Report, WeightReport
from .verify import Checked, loss_warnings, surprise_warnings

SMALL_VALUES = 64
"""Tensors below this count as graph."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What was known before anything was decided, and the time that phases took."""

    source: str
    target: str
    bytes_before: int
    inputs: str
    calibrated: bool
    left_alone: tuple[tuple[str, str, int], ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a compressed model holds, and what the cost model gives reordering as weights are placed, and if all were folded; keeps no weight in memory."""

    weights: tuple[WeightReport, ...]
    reordering_us: tuple[float, float]
    large_bytes: int
    halved: frozenset[str]
    in_bytes: frozenset[str]


def contents(emitted: Emitted, measured: Mapping[str, float]) -> Contents:
    """Reads off a compressed model what the report says of it; `measured` is the divergence of weights alone, by name."""
    rows = tuple(replace(row, measured=measured.get(row.name, math.nan)) for payload in emitted.payloads for row in _rows(payload))
    tensors = (value.const_value for value in emitted.model.graph.initializers.values())
    large = sum(tensor.nbytes for tensor in tensors if tensor is not None and tensor.size >= SMALL_VALUES)
    choices = [choice for payload in emitted.payloads for choice in payload.choices]
    layout, placed = Layout.of([choice.layer for choice in choices]), {choice.weight.name: choice.is_folded for choice in choices}
    reordering = layout.microseconds(placed), layout.microseconds(dict.fromkeys(placed, True))
    return Contents(rows, reordering, large, frozenset(emitted.halved), frozenset(emitted.in_bytes))


def _stored_notes(held: Contents) -> Iterator[str]:
    for names, bits in ((held.in_bytes, 8), (held.halved, 16)):
        if names:
            yield f"{len(names)} small float tensors (biases, scales) are stored in {bits} bits"


def summarize(setting: Setting, held: Contents, checked: Checked, written: Path) -> Report:
    """The report on a file that was written and checked."""
    after = model_bytes(written)
    predicted = sum(row.predicted for row in held.weights)
    return Report(
        source=setting.source,
        target=setting.target,
        bytes_before=setting.bytes_before,
        bytes_after=after,
        ratio=setting.bytes_before / after,
        graph_bytes=after - held.large_bytes,
        divergence=checked.divergence,
        divergence_kind=checked.kind,
        inputs=setting.inputs,
        predicted=predicted,
        fused_against_restored=checked.agreement,
        weights=held.weights,
        left_alone=tuple(row for row in setting.left_alone if row[0] not in held.halved | held.in_bytes),
        notes=setting.notes + tuple(_stored_notes(held)),
        warnings=loss_warnings(checked, setting.calibrated) + surprise_warnings(checked, predicted, setting.calibrated),
        seconds=dict(setting.seconds),
        resident_bytes=sum(row.resident_bytes for row in held.weights),
        modelled_us=sum(row.microseconds for row in held.weights) + held.reordering_us[0],
        folded_us=sum(row.folded_us for row in held.weights) + held.reordering_us[1],
    )


LEVEL_BYTES = 2
"""Of a decoded level of a pool, which each reader keeps."""


def _rows(payload: Payload) -> Iterator[WeightReport]:
    """One row a weight."""
    for choice, zeros, share in zip(payload.choices, payload.zeros, payload.shares, strict=True):
        kept = LEVEL_BYTES * choice.weight.view.size * len(choice.weight.uses) if payload.is_pool else 0
        yield _row(choice, round(payload.bytes * share), zeros, kept)


def _row(choice: Choice, bytes_after: int, zeros: float, kept: int) -> WeightReport:
    """One row; a session keeps `kept` bytes of decoded levels beside the payload."""
    weight = choice.weight
    dtype = ir.DataType(weight.dtype)
    dense_bytes = math.ceil(weight.view.size * dtype.bitwidth / 8)
    placement = "folded" if choice.is_folded else "decompressed" if any(use.kind == "Other" for use in weight.uses) else "fused"
    return WeightReport(
        name=weight.name,
        dims=weight.view.dims,
        dtype=dtype.name.lower(),
        operator="+".join(sorted({use.node.op_type for use in weight.uses})),
        form=choice.family if choice.technique is None else f"{choice.family}: {choice.technique}",
        bytes_before=dense_bytes,
        bytes_after=bytes_after,
        bits_per_weight=8 * bytes_after / weight.view.size,
        zeros=zeros,
        predicted=choice.predicted,
        placement=placement,
        fused_us=choice.times.fused,
        folded_us=choice.times.folded,
        resident_bytes=dense_bytes if placement == "folded" else bytes_after + kept,
    )
