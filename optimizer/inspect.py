"""What a compressed file holds: each weight with its form and bytes, all checksums checked. Needs no operator library."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime import reader
from ..runtime.errors import CorruptionError, FormatError
from ..runtime.form import Codebook, Dense, Form, Grid, Mapped, Member, Payload, Planes, Sparse, Symbols
from ..runtime.header import Header
from ..runtime.library import DECODE_BUFFER_BYTES
from ..runtime.pool import symbol_tables
from ..runtime.trellis import quantizers
from . import fold
from .emit import NAMES_KEY, PACKAGE_KEY
from .errors import CompressError, UsageError
from .expand import folded_values, open_compressed
from .files import model_bytes
from .operators import DOMAIN, reads

PLAIN_VALUES = 64
"""Tensors of fewer values count as part of the graph."""


@dataclass(frozen=True, slots=True)
class InspectedWeight:
    """One compressed weight; in a pool, `bytes` is its share of the pool by the information in its symbols.

    The operator of a folded weight is "folded", and `bytes` its share of the streams of levels; scales count as plain.
    """

    name: str
    operator: str
    dims: tuple[int, ...]
    dtype: str
    form: str
    bytes: int
    bits_per_weight: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """A compressed file: total_bytes = graph_bytes + payload_bytes + plain_bytes, over all files of the model.

    `decode_buffer_bytes`: what each thread of a session holds of decoded weights.
    """

    path: str
    format: str
    package: str
    total_bytes: int
    graph_bytes: int
    payload_bytes: int
    plain_bytes: int
    payloads: int
    decode_buffer_bytes: int
    weights: tuple[InspectedWeight, ...]


def inspect(path: str | Path) -> Inspection:
    """Reads the file and checks every payload. Raises UsageError where it is not compressed, CompressError where it is damaged."""
    path = Path(path)
    model, total = open_compressed(path), model_bytes(path)
    uses, folded = _uses(model), folded_values(model, str(path))
    if not uses and not folded:
        raise UsageError(f"{path} holds no compressed weight: give a file that onnx-compress has written")
    names: dict[str, list[str]] = json.loads(model.metadata_props.get(NAMES_KEY, "{}"))
    weights: list[InspectedWeight] = []
    payload_bytes = 0
    for value, members in uses.items():
        data = _bytes_of(path, value)
        payload_bytes += len(data)
        try:
            weights += _weights(data, members, Names(str(value.name), names.get(str(value.name), [])))
        except FormatError as error:
            raise CompressError(f"payload {value.name!r} of {path} cannot be read: {error}; compress or copy the model again") from error
    streams = fold.streams(folded)
    stream_bytes = sum(value.const_value.nbytes for value in streams if value.const_value is not None)
    weights += _folded_weights(folded, names, stream_bytes)
    payload_bytes += stream_bytes
    plain = _plain_bytes(model, set(uses) | streams)
    package = model.metadata_props.get(PACKAGE_KEY, "").rsplit("==", 1)[-1]
    graph = total - payload_bytes - plain
    return Inspection(str(path), reader.FORMAT_VERSION, package, total, graph, payload_bytes, plain, len(uses), DECODE_BUFFER_BYTES if uses else 0, tuple(weights))


def _folded_weights(values: Sequence[ir.Value], names: dict[str, list[str]], size: int) -> Iterator[InspectedWeight]:
    """Folded weights, which share `size` bytes by what their levels take. Raises CompressError."""
    found = fold.read(values)
    for value, one, share in zip(values, found, _divided([float(one.bytes) for one in found], size), strict=True):
        dtype = ir.DataType(one.dtype).name.lower()
        form = f"Folded({_count(one.scales.size)}, levels {one.levels.min()}..{one.levels.max()})"
        name = Names(str(value.name), names.get(str(value.name), [])).of(0)
        yield InspectedWeight(name, "folded", one.levels.shape, dtype, form, share, 8 * share / one.levels.size)


def _count(scales: int) -> str:
    return "one scale" if scales == 1 else f"{scales} scales"


def _uses(model: ir.Model) -> dict[ir.Value, dict[int, list[str]]]:
    """For each payload: its members that are used, and by which operators; bodies and functions included."""
    uses: dict[ir.Value, dict[int, list[str]]] = {}
    for node in nodes(model):
        if node.domain != DOMAIN:
            continue
        for read in reads(node):
            if read.payload is None or (read.payload.is_graph_input() and read.payload.const_value is None):
                continue
            operators = uses.setdefault(read.payload, {}).setdefault(read.member, [])
            if node.op_type not in operators:
                operators.append(node.op_type)
    return uses


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """All nodes of the graph, its bodies and the model's functions."""
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _bytes_of(path: Path, value: ir.Value) -> NDArray[np.uint8]:
    """The payload's bytes, from an initializer, external or not, or from a Constant node."""
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise CompressError(f"payload {value.name!r} of {path} is no constant: the file was changed after it was written; compress again")
    try:
        return np.frombuffer(tensor.tobytes(), np.uint8)
    except Exception as error:  # a missing, short or misplaced external file: onnx_ir raises many kinds
        raise CompressError(
            f"payload {value.name!r} of {path} cannot be read from the model's data file ({type(error).__name__}): "
            "put the data file that was written together with it beside the model"
        ) from error


@dataclass(frozen=True, slots=True)
class Names:
    """A payload's name and, where the file keeps them, the names of its weights in the original model."""

    payload: str
    weights: list[str]

    def of(self, member: int) -> str:
        """The name of a weight: its own, else one made of the payload's."""
        return self.weights[member] if member < len(self.weights) else f"{self.payload}.{member}"


def _weights(data: NDArray[np.uint8], members: dict[int, list[str]], names: Names) -> list[InspectedWeight]:
    """The weights of one payload. Raises FormatError."""
    header = reader.read_header(data)
    payload = reader.read(data) if header.pool is not None else _checked(data, header)
    weights = []
    for index, (member, size) in enumerate(zip(payload.members, _shares(payload, len(data)), strict=True)):
        dtype = ir.DataType(member.dtype).name.lower()
        operator = ", ".join(members.get(index, ["unused"]))
        weights.append(InspectedWeight(names.of(index), operator, member.view.dims, dtype, form_text(member.form), size, 8 * size / member.view.size))
    if lost := set(members) - set(range(len(payload.members))):
        raise FormatError(f"member {min(lost)} is asked for, the payload has {len(payload.members)}")
    return weights


def _checked(data: NDArray[np.uint8], header: Header) -> Payload:
    """The chunked payload without its levels, after a check of all chunks. Raises CorruptionError."""
    for number, chunk in enumerate(header.chunks):
        if zlib.crc32(data[chunk.offset : chunk.offset + chunk.size].data) != chunk.crc:
            raise CorruptionError(f"the checksum of chunk {number} does not match: the payload was changed after it was written")
    return header.payload


def _shares(payload: Payload, size: int) -> list[int]:
    """The payload's bytes, divided among its members by the information in their symbols; sums to `size`."""
    if len(payload.members) == 1:
        return [size]
    return _divided([symbol_bits(payload, member) for member in payload.members], size)


def _divided(parts: Sequence[float], size: int) -> list[int]:
    """`size` in proportion to the parts, in whole numbers that sum to it."""
    ends = np.rint(np.cumsum(parts) / max(sum(parts), 1e-9) * size).astype(int)
    return [int(share) for share in np.diff(ends, prepend=0)]


def symbol_bits(payload: Payload, member: Member) -> float:
    """-log2 of the probabilities of a decoded pooled member's symbols, plus its raw bits and escapes."""
    symbols = member.symbols
    classes = ((symbols.levels + ((1 << symbols.raw_bits) >> 1)) >> symbols.raw_bits).reshape(-1, member.view.k)
    tables = symbol_tables(member)
    by = quantizers(symbols.levels).reshape(*classes.shape, 1) if symbols.quantizers == 2 else np.zeros((*classes.shape, 1), np.uint8)
    tables = np.take_along_axis(tables, by.astype(np.intp), axis=2)[..., 0]
    total = float(classes.size * symbols.raw_bits)
    for number in np.unique(tables):
        table = payload.tables[number]
        lengths = 8 - np.log2(np.maximum(np.array(table.frequencies, float), 1e-9))
        plain = len(lengths) - table.escape
        index = classes[tables == number] - table.first
        coded = (index >= 0) & (index < plain)
        total += float(lengths[index[coded]].sum()) + float((~coded).sum()) * (8 + lengths[-1])
    return total


def form_text(form: Form) -> str:
    """A form as one line: `Grid(scale 384 log8, 9 classes)`."""
    match form:
        case Grid():
            column = f", column scale {_dense_text(form.column_scale)}" if form.column_scale else ""
            block = f" in blocks of {form.block}" if form.block else ""
            return f"Grid(scale {_dense_text(form.scale)}{block}{column}, {_symbols_text(form.levels)})"
        case Codebook():
            scale = f", scale {_dense_text(form.scale)}" if form.scale else ""
            return f"Codebook({_dense_text(form.centroids)} centroids{scale}, {_symbols_text(form.codes)})"
        case Mapped():
            scale = f", scale {_dense_text(form.scale)}" if form.scale else ""
            return f"Mapped({form.groups} x {form.size} {form.centroids.kind} centroids{scale}, {_symbols_text(form.codes)})"
        case Sparse():
            return f"Sparse({form.values.kind} values, {_symbols_text(form.mask)})"
        case Planes(fields=fields):
            short = f", {fields.short} bits less in {int(fields.short_row.sum())} rows" if fields.short_row is not None else ""
            return f"Planes({fields.planes} raw bytes, {fields.drop} zero bits{short}, {_symbols_text(form.tops)})"
        case _:
            return f"Symbols({_symbols_text(form)})"


def _dense_text(dense: Dense) -> str:
    return f"{len(dense.codes)} {dense.kind}"


def _symbols_text(symbols: Symbols) -> str:
    tables = len(np.unique(symbols.table_of))
    raw = f", {symbols.raw_bits} raw bits" if symbols.raw_bits else ""
    trellis = ", trellis" if symbols.quantizers == 2 else ""
    return f"{tables} table{'s' if tables > 1 else ''}{raw}{trellis}"


def _plain_bytes(model: ir.Model, payloads: set[ir.Value]) -> int:
    """Bytes of the tensors, outside payloads, that have at least 64 values."""
    total = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        tensors: list[Any] = [value.const_value for value in graph.initializers.values() if value not in payloads]
        total += sum(tensor.nbytes for tensor in tensors if tensor is not None and tensor.size >= PLAIN_VALUES)
    return total
