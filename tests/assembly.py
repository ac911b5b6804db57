"""Payloads assembled by hand, for what `passes/writer.py` never writes: column classes, zero frequencies, any width, chunking and lanes.

Scalar and slow; shares no code with the writer. Tables and how they are used are those of the given forms.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray
from onnx_compress.runtime.form import Codebook, Dense, Form, Grid, Mapped, Member, Payload, Sparse, Symbols, Table

KINDS = ("float32", "float16", "bfloat16", "log8")
Coded = tuple[int, int, int]
"""Lane, table number and class index of one symbol."""

NEXT = ((0, 2), (5, 7), (1, 3), (6, 4), (2, 0), (4, 6), (3, 1), (7, 5))
"""The state of a trellis that follows a state on an even and on an odd level."""


def varint(value: int) -> bytes:
    out = []
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def zigzag(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def framed(kind: int, body: bytes, draft: int = 4) -> bytes:
    """A header around its body."""
    header = b"OC" + bytes([draft, kind]) + (len(body) + 12).to_bytes(4, "little") + body
    return header + crc(header)


def table_bytes(table: Table) -> bytes:
    return bytes([len(table.frequencies) + 128 * table.escape]) + zigzag(table.first) + bytes(table.frequencies[:-1])


def dense_bytes(dense: Dense) -> bytes:
    exponent = (dense.exponent % 256).to_bytes(1, "little") if dense.kind == "log8" else b""
    return bytes([0, KINDS.index(dense.kind)]) + varint(len(dense.codes)) + exponent + dense.codes.tobytes()


def code_bytes(codes: NDArray[np.uint8] | None, classes: int) -> bytes:
    """Codes below `classes` as one bit string."""
    bits, width = 0, 0
    while 1 << width < classes:
        width += 1
    for place, code in enumerate([] if codes is None else codes.tolist()):
        bits |= code << place * width
    return bits.to_bytes(-(-(0 if codes is None else len(codes)) * width // 8), "little")


def symbols_bytes(symbols: Symbols, tables: int) -> bytes:
    rows, columns, quantizers = symbols.table_of.shape
    out = bytes([4, symbols.raw_bits]) + zigzag(symbols.escape_base) + bytes([rows, columns, quantizers])
    out += symbols.table_of.tobytes() if tables > 1 else b""
    return out + code_bytes(symbols.row_class, rows) + code_bytes(symbols.column_class, columns)


def form_bytes(form: Form, tables: int) -> bytes:
    match form:
        case Grid():
            column = form.column_scale
            parts = [bytes([2, column is not None]), varint(form.block), dense_bytes(form.scale)]
            parts += [b"" if column is None else dense_bytes(column), symbols_bytes(form.levels, tables)]
        case Codebook():
            scale = form.scale
            parts = [bytes([3, scale is not None]), dense_bytes(form.centroids)]
            parts += [b"" if scale is None else dense_bytes(scale), symbols_bytes(form.codes, tables)]
        case Mapped():
            parts = [bytes([6, form.scale is not None]), varint(form.groups), dense_bytes(form.centroids)]
            parts += [b"" if form.scale is None else dense_bytes(form.scale), code_bytes(form.row_group, form.groups)]
            parts += [symbols_bytes(form.codes, tables)]
        case Sparse():
            parts = [bytes([1, KINDS.index(form.values.kind)]), symbols_bytes(form.mask, tables)]
        case Symbols():
            parts = [symbols_bytes(form, tables)]
    return b"".join(parts)


def member_bytes(member: Member, tables: int) -> bytes:
    view, rank = member.view, len(member.view.dims)
    identity = view.permutation == tuple(range(rank))
    out = bytes([member.dtype, rank + (0 if identity else 128)]) + b"".join(map(varint, view.dims))
    out += b"" if identity else bytes(view.permutation)
    return out + varint(view.batch) + varint(view.rows) + form_bytes(member.form, tables)


def classify(tables: tuple[Table, ...], symbols: Symbols, place: tuple[int, int, int], level: int) -> tuple[int, int, int, int | None]:
    """Table number, class index, raw part and escape byte of a level at (panel, or row of a pool; column; state of its trellis)."""
    unit, column, state = place
    row_class = 0 if symbols.row_class is None else int(symbols.row_class[unit])
    column_class = 0 if symbols.column_class is None else int(symbols.column_class[column])
    number = int(symbols.table_of[row_class, column_class, state % symbols.quantizers])
    table = tables[number]
    shifted = level + (1 << symbols.raw_bits) // 2
    value, raw = divmod(shifted, 1 << symbols.raw_bits)
    index, plain = value - table.first, len(table.frequencies) - table.escape
    if 0 <= index < plain and table.frequencies[index]:
        return number, index, raw, None
    escape = value - symbols.escape_base
    assert table.escape, "the table cannot code this level"
    assert 0 <= escape < 256, "no escape of the table can code this level"
    return number, len(table.frequencies) - 1, raw, escape


def encode(tables: tuple[Table, ...], coded: list[Coded], lanes: int) -> tuple[bytes, bytes]:
    """The rans section and the heads."""
    states, out = [256] * lanes, bytearray()
    for lane, number, index in reversed(coded):
        frequencies = tables[number].frequencies
        frequency, start = frequencies[index], sum(frequencies[:index])
        if states[lane] >= 256 * frequency:
            out.append(states[lane] % 256)
            states[lane] //= 256
        states[lane] = 256 * (states[lane] // frequency) + states[lane] % frequency + start
    return bytes(reversed(out)), b"".join(state.to_bytes(2, "little") for state in states)


def plane_bytes(raws: list[int], raw_bits: int) -> bytes:
    """Bit planes of one panel's step."""
    planes = b""
    for bit in range(raw_bits):
        flags = sum((raw >> bit & 1) << lane for lane, raw in enumerate(raws))
        planes += flags.to_bytes(-(-len(raws) // 8), "little")
    return planes


def chunk(payload: Payload, rows: NDArray[np.int64], panel: int, lanes: int) -> tuple[bytes, bytes]:
    """(directory entry, bytes) of the chunk of `rows`, flat row numbers (batch * rows + row), `lanes` of them a group."""
    member = payload.members[0]
    symbols, k = member.symbols, member.view.k
    levels = symbols.levels.reshape(-1, k)  # type: ignore[union-attr]
    stored = stored_values(member)
    coded, raw, escapes, values = [], b"", b"", b""
    for group in range(len(rows) // lanes):
        states = [0] * lanes
        for column in range(k):
            raws = []
            for lane in range(lanes):
                row = int(rows[group * lanes + lane])
                place = (panel + (group * lanes + lane) // 64, column, states[lane])
                number, index, part, escape = classify(payload.tables, symbols, place, int(levels[row, column]))
                states[lane] = NEXT[states[lane]][int(levels[row, column]) % 2]
                coded.append((lane, number, index))
                raws.append(part)
                escapes += b"" if escape is None else bytes([escape])
                values += stored.get((row, column), b"")
            raw += b"".join(plane_bytes(raws[at : at + 64], symbols.raw_bits) for at in range(0, lanes, 64))
    stream, heads = encode(payload.tables, coded, lanes)
    entry = varint(len(stream)) + varint(len(escapes))
    if isinstance(member.form, Sparse):
        entry += varint(len(values) // member.form.values.codes.itemsize)
    body = stream + heads + raw + escapes + values
    return entry + crc(body), body


def stored_values(member: Member) -> dict[tuple[int, int], bytes]:
    """The bytes of a Sparse member's values by (flat row, column)."""
    if not isinstance(member.form, Sparse):
        return {}
    flat = member.form.mask.levels.reshape(-1, member.view.k)  # type: ignore[union-attr]
    return {
        (int(row), int(column)): code.tobytes()
        for (row, column), code in zip(np.argwhere(flat == 1), member.form.values.codes, strict=True)
    }


def assemble(payload: Payload, width: int = 1, groups: int = 1) -> bytes:
    """A chunked payload with `width` panels side by side and `groups` groups a chunk."""
    (member,) = payload.members
    view, lanes = member.view, 64 * width
    directory, bodies = b"", b""
    for batch in range(view.batch):
        rows, first_panel = np.arange(view.rows) + batch * view.rows, batch * -(-view.rows // 64)
        full = view.rows // lanes
        cuts = [(at * lanes, (at + groups) * lanes, lanes) for at in range(0, full, groups)]
        cuts += [(full * lanes, view.rows, view.rows % lanes)] if view.rows % lanes else []
        for low, high, many in cuts:
            entry, body = chunk(payload, rows[low:high], first_panel + low // 64, many)
            directory, bodies = directory + entry, bodies + body
    header = varint(len(payload.tables)) + b"".join(map(table_bytes, payload.tables))
    header += member_bytes(member, len(payload.tables)) + bytes([width]) + varint(groups) + directory
    return framed(0, header) + bodies


def assemble_pool(payload: Payload, lanes: int) -> bytes:
    """A pool with `lanes` lanes."""
    coded: list[Coded] = []
    bits, escapes, count = 0, b"", 0
    for member in payload.members:
        view, symbols = member.view, member.symbols
        state = 0
        for (batch, row, column), level in np.ndenumerate(symbols.levels):
            state = state if column else 0
            place = (batch * view.rows + row, column, state)
            state = NEXT[state][int(level) % 2]
            number, index, part, escape = classify(payload.tables, symbols, place, int(level))
            coded.append((len(coded) % lanes, number, index))
            bits |= part << count
            count += symbols.raw_bits
            escapes += b"" if escape is None else bytes([escape])
    stream, heads = encode(payload.tables, coded, lanes)
    body = stream + heads + bits.to_bytes(-(-count // 8), "little") + escapes
    tables = len(payload.tables)
    header = varint(tables) + b"".join(map(table_bytes, payload.tables)) + varint(len(payload.members))
    header += b"".join(member_bytes(member, tables) for member in payload.members)
    header += bytes([lanes]) + varint(len(stream)) + varint(len(escapes)) + crc(body)
    return framed(1, header) + body
