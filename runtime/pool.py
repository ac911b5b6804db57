"""Decodes pools: the symbols of many small weights in one stream (FORMAT.md, section 7). The steps of the coder are those of `rans`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptionError
from .form import PROBABILITY_ONE, Member, Payload
from .rans import STATE_LOW, Coder, Lookups, Sections, Source, Stream
from .trellis import NEXT, multiples


def decode_pool(payload: Payload, sections: Sections) -> list[NDArray[np.int32]]:
    """Levels of every member of a pool, int32 [batch, rows, k] each."""
    raw = _raw_string(sections.raw, _per_symbol(payload, [member.symbols.raw_bits for member in payload.members]))
    if any(member.symbols.quantizers == 2 for member in payload.members):
        levels = _symbol_by_symbol(payload, sections, raw)
    else:
        levels = _step_by_step(payload, sections, raw)
    for member, found in zip(payload.members, levels, strict=True):
        _check_range(member, found)
    return levels


def _check_range(member: Member, levels: NDArray[np.int32]) -> None:
    """Levels, and the multiples of trellis-coded ones, have 16 bits."""
    kept = [levels, multiples(levels)] if member.symbols.quantizers == 2 else [levels]
    if any(values.min() < -32768 or values.max() > 32767 for values in kept):
        raise CorruptionError("a level of a pool lies outside -32768..32767")


def _step_by_step(payload: Payload, sections: Sections, raw: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Levels of every member where no symbol's table depends on another symbol: all lanes of a step at once."""
    lookups = Lookups(payload.tables)
    tables = np.concatenate([symbol_tables(member)[..., 0].reshape(-1) for member in payload.members]) * PROBABILITY_ONE
    stream, lanes = Stream(lookups, sections), len(sections.heads) // 2
    indices = np.concatenate([stream.step(tables[at : at + lanes]) for at in range(0, len(tables), lanes)])
    stream.finish()
    levels, at, escapes = [], 0, sections.escapes
    for member in payload.members:
        part = slice(at, at + member.view.size)
        source = Source(Coder(lookups, member.symbols), raw, escapes)
        levels.append(source.levels(indices[part], raw[part]).reshape(member.view.shape))
        at, escapes = part.stop, escapes[source.position :]
    if len(escapes):
        raise CorruptionError(f"{len(escapes)} escaped values have no place")
    return levels


def _symbol_by_symbol(payload: Payload, sections: Sections, raw: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Levels of every member, one after the other: the parity of one chooses the table of the next, which may be in the same step.

    Lanes take their bytes in ascending order, so symbol after symbol reads the same bytes as all lanes of a step at once.
    """
    scalar = _Scalar(Lookups(payload.tables), sections, raw.tolist())
    levels = []
    for member in payload.members:
        tables = (symbol_tables(member) * PROBABILITY_ONE).reshape(-1, member.view.k, member.symbols.quantizers).tolist()
        found: list[int] = []
        for row in tables:
            state = 0
            for of_column in row:
                found.append(scalar.level(of_column[state & 1] if member.symbols.quantizers == 2 else of_column[0], member))
                state = int(NEXT[state, found[-1] & 1])
        levels.append(np.array(found, np.int32).reshape(member.view.shape))
    scalar.finish()
    return levels


class _Scalar:
    """The stream of a pool, symbol by symbol."""

    def __init__(self, lookups: Lookups, sections: Sections, raw: list[int]) -> None:
        self.frequency, self.offset = lookups.frequency.tolist(), lookups.offset.tolist()
        self.value, self.escape = lookups.value.tolist(), lookups.escape.tolist()
        self.states, self.raw = sections.states().tolist(), iter(raw)
        self.rans, self.escapes = iter(sections.rans.tolist()), iter(sections.escapes.tolist())
        self.lane = 0

    def level(self, table: int, member: Member) -> int:
        """The next symbol's level; `table` is 256 x its table's number."""
        state = self.states[self.lane]
        index = table + (state & 255)
        state = self.frequency[index] * (state >> 8) + self.offset[index]
        if state < STATE_LOW:
            state = state << 8 | self._next(self.rans, "a pool's stream was read beyond its end")
        self.states[self.lane] = state
        self.lane = (self.lane + 1) % len(self.states)
        symbols, value = member.symbols, self.value[index]
        if self.escape[index]:
            value = symbols.escape_base + self._next(self.escapes, "a pool has fewer escaped values than places for them")
        return (value << symbols.raw_bits) - ((1 << symbols.raw_bits) >> 1) + next(self.raw)

    @staticmethod
    def _next(section: Iterator[int], complaint: str) -> int:
        byte = next(section, None)
        if byte is None:
            raise CorruptionError(complaint)
        return byte

    def finish(self) -> None:
        """Every state is back at its start and every byte is used."""
        if next(self.rans, None) is not None or next(self.escapes, None) is not None or any(state != STATE_LOW for state in self.states):
            raise CorruptionError("a pool's stream does not end where its encoder began: the payload was changed after it was written")


def symbol_tables(member: Member) -> NDArray[np.int32]:
    """The number of the table of every symbol of a pooled member, int32 [batch * rows, k, quantizers]."""
    symbols, view = member.symbols, member.view
    rows = np.zeros(view.batch * view.rows, np.intp) if symbols.row_class is None else symbols.row_class.astype(np.intp)
    columns = np.zeros(view.k, np.intp) if symbols.column_class is None else symbols.column_class.astype(np.intp)
    return symbols.table_of[rows[:, None], columns[None, :]].astype(np.int32)


def _per_symbol(payload: Payload, values: list[int]) -> NDArray[np.int_]:
    return np.repeat(values, [member.view.size for member in payload.members])


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
