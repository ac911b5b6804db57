"""R8, the entropy coder: rANS with 16-bit states, 8-bit probabilities and byte renormalisation, many lanes over one byte stream.

This is the reference decoder: numpy over the lanes, one step at a time (FORMAT.md, sections 3 and 6; pools: `pool`). The encoder is `passes/entropy.py`.
After: Duda 2013 (arXiv:1311.2540); the interleaving of lanes is that of Giesen 2014 (arXiv:1402.3392).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptionError
from .form import PANEL_ROWS, PROBABILITY_ONE, Symbols, Table
from .trellis import NEXT

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
        self.frequency, self.offset, self.value, self.escape, self.index = (np.concatenate([lookup[part] for lookup in lookups]) for part in range(5))


@dataclass(frozen=True, slots=True, eq=False)
class Coder:
    """The tables of a payload, and which of them a member's symbols use; `cuts` uint8 [tables, 16] where the top raw bit is coded."""

    lookups: Lookups
    symbols: Symbols
    cuts: NDArray[np.uint8] | None = None

    def lane_tables(self, panel: int, lanes: int) -> NDArray[np.int32]:
        """For lanes that start at panel `panel`: int32 [column classes, quantizers, lanes], 256 x the table's number."""
        symbols = self.symbols
        classes = (
            np.zeros(lanes, np.intp)
            if symbols.row_class is None
            else symbols.row_class[panel + np.arange(lanes) // PANEL_ROWS].astype(np.intp)
        )
        return np.ascontiguousarray(symbols.table_of[classes].transpose(1, 2, 0)).astype(np.int32) * PROBABILITY_ONE

    def cuts_at(self, indices: NDArray[np.int32]) -> NDArray[np.int32]:
        """The cuts of symbols, by their (table, slot) indices."""
        assert self.cuts is not None
        return self.cuts[indices // PROBABILITY_ONE, self.lookups.index[indices]].astype(np.int32)

    def columns(self, k: int) -> NDArray[np.intp]:
        """The class of each of `k` columns."""
        classes = self.symbols.column_class
        return np.zeros(k, np.intp) if classes is None else classes.astype(np.intp)


def table_lookup(table: Table) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_], NDArray[np.intp]]:
    """By slot 0..255: frequency, slot - start, class value, whether the class is the escape, and class index."""
    frequencies = np.array(table.frequencies, np.int32)
    index = np.repeat(np.arange(len(frequencies)), frequencies)
    starts = np.cumsum(frequencies) - frequencies
    escape = (index == len(frequencies) - 1) & table.escape
    offset = np.arange(PROBABILITY_ONE, dtype=np.int32) - starts[index].astype(np.int32)
    return frequencies[index], offset, (table.first + index).astype(np.int32), escape, index


class Source:
    """Levels from slots: the class values of tables, escapes in decoding order and raw parts `raw`."""

    def __init__(self, coder: Coder, raw: NDArray[np.int32], escapes: NDArray[np.uint8]) -> None:
        self.coder, self.raw, self.escapes, self.position = coder, raw, escapes, 0

    def levels(self, indices: NDArray[np.int32], raw: NDArray[np.int32]) -> NDArray[np.int32]:
        """level = (c << r) - ((1 << r) >> 1) + b for the (table, slot) indices of the next symbols."""
        symbols, lookups = self.coder.symbols, self.coder.lookups
        values, escaped = lookups.value[indices], lookups.escape[indices]
        if many := int(escaped.sum()):
            taken = self.escapes[self.position : self.position + many]
            if len(taken) < many:
                raise CorruptionError(f"{len(self.escapes)} escaped values for more places")
            values[escaped] = symbols.escape_base + taken.astype(np.int32)
            self.position += many
        return (values << symbols.raw_bits) - ((1 << symbols.raw_bits) >> 1) + raw

    def finish(self) -> None:
        """Every escaped value is used."""
        if self.position != len(self.escapes):
            raise CorruptionError(f"{len(self.escapes)} escaped values for {self.position} places")


class Stream:
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
        self._feed(self.lookups.frequency[index] * (states >> 8) + self.lookups.offset[index])
        return index

    def _feed(self, states: NDArray[np.int32]) -> None:
        """The first lanes get these states, and those below 256 a byte."""
        (hungry,) = np.nonzero(states < STATE_LOW)
        states[hungry] = states[hungry] << 8 | self.bytes[self.position : self.position + len(hungry)]
        self.states[: len(states)] = states
        self.position += len(hungry)
        if self.position > self.size:
            raise CorruptionError(f"a stream of {self.size} bytes was read beyond its end")

    def choose(self, cuts: NDArray[np.int32]) -> NDArray[np.int32]:
        """Decodes one bit in each of the first len(cuts) lanes, which is 0 with probability cuts / 256; gives these."""
        states = self.states[: len(cuts)]
        slot = states & 255
        bits = (slot >= cuts).astype(np.int32)
        states = np.where(bits, PROBABILITY_ONE - cuts, cuts) * (states >> 8) + slot - bits * cuts
        self._feed(states)
        return bits

    def finish(self) -> None:
        """Every state is back at its start and every byte is used, or the bytes are not what was written."""
        if self.position != self.size or (self.states != STATE_LOW).any():
            raise CorruptionError("a stream does not end where its encoder began: the payload was changed after it was written")


def decode_chunk(coder: Coder, sections: Sections, geometry: Geometry) -> NDArray[np.int32]:
    """Levels of one chunk, int32 [groups, lanes, k]."""
    stream = Stream(coder.lookups, sections)
    raw = raw_planes(sections.raw, (geometry.groups, geometry.k, geometry.lanes), coder.symbols.raw_bits - (coder.cuts is not None))
    if coder.symbols.quantizers == 2:
        levels = _trellis_levels(coder, stream, Source(coder, raw, sections.escapes), geometry)
    else:
        levels = _plain_levels(coder, stream, Source(coder, raw, sections.escapes), geometry)
    stream.finish()
    return levels.transpose(0, 2, 1)


def _plain_levels(coder: Coder, stream: Stream, source: Source, geometry: Geometry) -> NDArray[np.int32]:
    """Levels [groups, k, lanes]: all slots first, then all levels at once."""
    indices, bits = np.empty(source.raw.shape, np.int32), np.zeros(source.raw.shape, np.int32)
    columns = coder.columns(geometry.k)
    for group in range(geometry.groups):
        tables = coder.lane_tables(geometry.panel + group * geometry.lanes // PANEL_ROWS, geometry.lanes)[:, 0]
        for step in range(geometry.k):
            indices[group, step] = stream.step(tables[columns[step]])
            if coder.cuts is not None:
                bits[group, step] = stream.choose(coder.cuts_at(indices[group, step]))
    levels = source.levels(indices, source.raw | bits << max(0, coder.symbols.raw_bits - 1))
    source.finish()
    return levels


def _trellis_levels(coder: Coder, stream: Stream, source: Source, geometry: Geometry) -> NDArray[np.int32]:
    """Levels [groups, k, lanes] step by step, since a level's parity chooses the next table: "next state NEXT[s][level & 1]"."""
    levels = np.empty(source.raw.shape, np.int32)
    columns = coder.columns(geometry.k)
    for group in range(geometry.groups):
        tables = coder.lane_tables(geometry.panel + group * geometry.lanes // PANEL_ROWS, geometry.lanes)
        state = np.zeros(geometry.lanes, np.uint8)
        for step in range(geometry.k):
            even, odd = tables[columns[step]]
            indices = stream.step(np.where(state & 1, odd, even))
            levels[group, step] = source.levels(indices, source.raw[group, step])
            state = NEXT[state, levels[group, step] & 1]
    source.finish()
    return levels


def raw_planes(raw: NDArray[np.uint8], shape: tuple[int, int, int], raw_bits: int) -> NDArray[np.int32]:
    """Raw parts, int32 [groups, k, lanes], from bit planes by step and panel."""
    groups, k, lanes = shape
    if not raw_bits:
        return np.broadcast_to(np.int32(0), shape)
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
