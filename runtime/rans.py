"""R8, the entropy coder: rANS with 16-bit states, 8-bit probabilities and byte renormalisation, many lanes over one byte stream.

This is the reference decoder: numpy over the lanes, one step at a time (FORMAT.md, sections 3, 6 and 7). The encoder is `passes/entropy.py`.
After: Duda 2013 (arXiv:1311.2540); the interleaving of lanes is that of Giesen 2014 (arXiv:1402.3392).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptionError
from .form import PANEL_ROWS, PROBABILITY_ONE, Payload, Symbols, Table

STATE_LOW = 256
"""States live in STATE_LOW..65535; an encoder starts, and a decoder ends, with STATE_LOW."""


@dataclass(frozen=True, slots=True, eq=False)
class Sections:
    """The parts of a stream, uint8 each."""

    rans: NDArray[np.uint8]
    heads: NDArray[np.uint8]
    raw: NDArray[np.uint8]
    escapes: NDArray[np.uint8]
    values: NDArray[np.uint8]

    @classmethod
    def split(cls, body: NDArray[np.uint8], sizes: tuple[int, int, int, int]) -> Sections:
        """Cuts `body` into sections of these sizes; what is left over are the values."""
        ends = np.cumsum(sizes)
        return cls(*np.split(body, ends))

    def states(self) -> NDArray[np.int32]:
        """The start states, int32 [lanes]."""
        states = self.heads.view("<u2").astype(np.int32)
        if (states < STATE_LOW).any():
            raise CorruptionError(f"a start state is below {STATE_LOW}")
        return states


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a chunk codes: groups of `lanes` rows and `k` steps; `panel` is the number of its first panel."""

    groups: int
    lanes: int
    k: int
    panel: int


class Lookups:
    """Tables as arrays by 256 x table + slot, made once a payload."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        lookups = [table_lookup(table) for table in tables]
        self.frequency, self.offset, self.value, self.escape = (np.concatenate([lookup[part] for lookup in lookups]) for part in range(4))


@dataclass(frozen=True, slots=True, eq=False)
class Coder:
    """The tables of a payload, and which of them a member's symbols use."""

    lookups: Lookups
    symbols: Symbols

    def lane_tables(self, panel: int, lanes: int) -> NDArray[np.int32]:
        """For lanes that start at panel `panel`: int32 [column classes, lanes], 256 x the table's number."""
        symbols = self.symbols
        classes = (
            np.zeros(lanes, np.intp)
            if symbols.row_class is None
            else symbols.row_class[panel + np.arange(lanes) // PANEL_ROWS].astype(np.intp)
        )
        return np.ascontiguousarray(symbols.table_of[classes, :, 0].T).astype(np.int32) * PROBABILITY_ONE


def table_lookup(table: Table) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """By slot 0..255: frequency, slot - start, class value and whether the class is the escape."""
    frequencies = np.array(table.frequencies, np.int32)
    index = np.repeat(np.arange(len(frequencies)), frequencies)
    starts = np.cumsum(frequencies) - frequencies
    escape = (index == len(frequencies) - 1) & table.escape
    offset = np.arange(PROBABILITY_ONE, dtype=np.int32) - starts[index].astype(np.int32)
    return frequencies[index], offset, (table.first + index).astype(np.int32), escape


class _Stream:
    """Steps over lanes that share one byte stream."""

    def __init__(self, lookups: Lookups, sections: Sections) -> None:
        self.lookups = lookups
        self.states = sections.states()
        # A step takes at most one byte a lane: the padding makes every slice of a step legal, the comparison in `step` makes it checked.
        self.bytes = np.concatenate([sections.rans, np.zeros(len(self.states), np.uint8)]).astype(np.int32)
        self.size, self.position = len(sections.rans), 0

    def step(self, tables: NDArray[np.int32]) -> NDArray[np.int32]:
        """Decodes one symbol in each of the first len(tables) lanes; gives their (table, slot) indices."""
        states = self.states[: len(tables)]
        index = tables + (states & 255)
        states = self.lookups.frequency[index] * (states >> 8) + self.lookups.offset[index]
        (hungry,) = np.nonzero(states < STATE_LOW)
        states[hungry] = states[hungry] << 8 | self.bytes[self.position : self.position + len(hungry)]
        self.states[: len(tables)] = states
        self.position += len(hungry)
        if self.position > self.size:
            raise CorruptionError(f"a stream of {self.size} bytes was read beyond its end")
        return index

    def finish(self) -> None:
        """Every state is back at its start and every byte is used, or the bytes are not what was written."""
        if self.position != self.size or (self.states != STATE_LOW).any():
            raise CorruptionError("a stream does not end where its encoder began: the payload was changed after it was written")


def decode_chunk(coder: Coder, sections: Sections, geometry: Geometry) -> NDArray[np.int32]:
    """Levels of one chunk, int32 [groups, lanes, k]."""
    stream = _Stream(coder.lookups, sections)
    indices = np.empty((geometry.groups, geometry.k, geometry.lanes), np.int32)
    columns = coder.symbols.column_class
    column_class = np.zeros(geometry.k, np.intp) if columns is None else columns.astype(np.intp)
    for group in range(geometry.groups):
        tables = coder.lane_tables(geometry.panel + group * geometry.lanes // PANEL_ROWS, geometry.lanes)
        for step in range(geometry.k):
            indices[group, step] = stream.step(tables[column_class[step]])
    stream.finish()
    classes = _class_values(coder, indices, sections.escapes)
    raw_bits = coder.symbols.raw_bits
    raw = _raw_planes(sections.raw, indices.shape, raw_bits) if raw_bits else 0
    return ((classes << raw_bits) - ((1 << raw_bits) >> 1) + raw).transpose(0, 2, 1)


def _class_values(coder: Coder, indices: NDArray[np.int32], escapes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Class values of decoded slots, in decoding order; the escapes' values come from their section."""
    values, escaped = coder.lookups.value[indices], coder.lookups.escape[indices]
    if int(escaped.sum()) != len(escapes):
        raise CorruptionError(f"{len(escapes)} escaped values for {int(escaped.sum())} places")
    values[escaped] = coder.symbols.escape_base + escapes.astype(np.int32)
    return values


def _raw_planes(raw: NDArray[np.uint8], shape: tuple[int, ...], raw_bits: int) -> NDArray[np.int32]:
    """Raw parts, int32 [groups, k, lanes], from bit planes by step and panel."""
    groups, k, lanes = shape
    steps = raw.reshape(groups * k, -1)
    parts, at = [], 0
    for first in range(0, lanes, PANEL_ROWS):
        width = min(PANEL_ROWS, lanes - first)
        plane_bytes = -(-width // 8)
        planes = steps[:, at : at + raw_bits * plane_bytes].reshape(groups * k, raw_bits, plane_bytes)
        bits = np.unpackbits(planes, axis=2, bitorder="little")
        if bits[..., width:].any():
            raise CorruptionError("an unused bit of the raw section is set")
        parts.append((bits[..., :width].astype(np.int32) << np.arange(raw_bits)[:, None]).sum(1, dtype=np.int32))
        at += raw_bits * plane_bytes
    return np.concatenate(parts, axis=1).reshape(shape)


def decode_pool(payload: Payload, sections: Sections) -> list[NDArray[np.int32]]:
    """Levels of every member of a pool, int32 [batch, rows, k] each."""
    lookups = Lookups(payload.tables)
    coders = [Coder(lookups, member.symbols) for member in payload.members]
    tables = np.concatenate([_symbol_tables(coder, member.view.shape) for coder, member in zip(coders, payload.members, strict=True)])
    stream, lanes = _Stream(lookups, sections), len(sections.heads) // 2
    indices = np.concatenate([stream.step(tables[at : at + lanes]) for at in range(0, len(tables), lanes)])
    stream.finish()
    raw_bits = np.repeat([member.symbols.raw_bits for member in payload.members], [member.view.size for member in payload.members])
    raw = _raw_string(sections.raw, raw_bits)
    levels, at, escape = [], 0, 0
    for coder, member in zip(coders, payload.members, strict=True):
        part = slice(at, at + member.view.size)
        many = int(lookups.escape[indices[part]].sum())
        classes = _class_values(coder, indices[part], sections.escapes[escape : escape + many])
        bits = member.symbols.raw_bits
        levels.append(((classes << bits) - ((1 << bits) >> 1) + raw[part]).reshape(member.view.shape))
        at, escape = part.stop, escape + many
    if escape != len(sections.escapes):
        raise CorruptionError(f"{len(sections.escapes)} escaped values for {escape} places")
    if any(level.min() < -32768 or level.max() > 32767 for level in levels):
        raise CorruptionError("a level of a pool lies outside -32768..32767")
    return levels


def _symbol_tables(coder: Coder, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """256 x the table's number of every symbol of a member, int32 [batch * rows * k]."""
    batch, rows, k = shape
    columns = coder.symbols.column_class
    column_class = np.zeros(k, np.intp) if columns is None else columns.astype(np.intp)
    panels = -(-rows // PANEL_ROWS)
    per_row = np.concatenate([coder.lane_tables(number * panels, rows).T for number in range(batch)])
    return np.ascontiguousarray(per_row[:, column_class]).reshape(-1)


def _raw_string(raw: NDArray[np.uint8], raw_bits: NDArray[np.int_]) -> NDArray[np.int32]:
    """Raw parts of a pool's symbols: raw_bits[i] bits each, least significant first."""
    bits = np.unpackbits(raw, bitorder="little").astype(np.int32)
    ends = np.cumsum(raw_bits)
    if bits[int(ends[-1]) :].any():
        raise CorruptionError("an unused bit of the raw section is set")
    parts = np.zeros(len(raw_bits), np.int32)
    for bit in range(int(raw_bits.max(initial=0))):
        (owners,) = np.nonzero(raw_bits > bit)
        parts[owners] |= bits[ends[owners] - raw_bits[owners] + bit] << bit
    return parts
