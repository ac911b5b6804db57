"""Reads payloads: bytes to forms with their levels (FORMAT.md, sections 2 to 7). `header` validates, this decodes the streams."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from . import planes, rans
from .errors import CorruptionError
from .form import PANEL_ROWS, Codebook, Grid, Mapped, Member, Payload, Planes, Sparse
from .header import DRAFT, FORMAT_VERSION, Header, Pool, raw_bytes, read_header
from .members import INTEGER_RANGES
from .pool import decode_pool

__all__ = ["DRAFT", "FORMAT_VERSION", "read", "read_header"]


def read(data: NDArray[np.uint8]) -> Payload:
    """The payload in `data`, uint8 [n], with all levels decoded and all checksums verified."""
    header = read_header(data)
    if header.pool is not None:
        return _decode_pool(data, header, header.pool)
    return _decode_chunks(data, header)


def _decode_chunks(data: NDArray[np.uint8], header: Header) -> Payload:
    (member,) = header.payload.members
    levels = np.empty(member.view.shape, np.int32)
    sparse = member.form if isinstance(member.form, Sparse) else None
    values = np.zeros(member.view.shape if sparse else 0, sparse.values.codes.dtype if sparse else np.uint8)
    low = np.zeros(member.view.shape if isinstance(member.form, Planes) else 0, np.uint64)
    cuts = member.form.fields.cuts if isinstance(member.form, Planes) else None
    coder = rans.Coder(rans.Lookups(header.payload.tables), member.symbols, cuts)
    for number, chunk in enumerate(header.chunks):
        body = data[chunk.offset : chunk.offset + chunk.size]
        if zlib.crc32(body.data) != chunk.crc:
            raise CorruptionError(f"the checksum of chunk {number} does not match: the payload was changed after it was written")
        sections = rans.Sections.split(body, (chunk.rans_bytes, 2 * chunk.lanes, raw_bytes(member, chunk), chunk.escapes))
        panel = chunk.batch * (member.view.panels // member.view.batch) + chunk.first_row // PANEL_ROWS
        if low.size:
            sections = replace(sections, escapes=sections.escapes.view(f"<u{planes.escape_bytes(member)}"))
        block = rans.decode_chunk(coder, sections, rans.Geometry(chunk.groups, chunk.lanes, member.view.k, panel))
        rows = slice(chunk.first_row, chunk.first_row + chunk.groups * chunk.lanes)
        levels[chunk.batch, rows] = block.reshape(-1, member.view.k)
        if low.size:
            first = chunk.batch * member.view.rows + chunk.first_row
            low[chunk.batch, rows] = planes.read_low(sections.values, member, first, chunk.groups, chunk.lanes)
        if sparse:
            values[chunk.batch, rows] = _place_values(block, sections.values.view(values.dtype), number).reshape(-1, member.view.k)
    return replace(header.payload, members=(_with_levels(member, levels, low if low.size else values),))


def _place_values(mask: NDArray[np.int32], codes: NDArray, number: int) -> NDArray:
    """A chunk's values, which stand in decoding order (group, step, lane), at their places in [groups, lanes, k]."""
    if mask.min() < 0 or mask.max() > 1:
        raise CorruptionError(f"the mask of chunk {number} holds levels other than 0 and 1")
    if int(mask.sum()) != len(codes):
        raise CorruptionError(f"chunk {number} has {len(codes)} values for {int(mask.sum())} places")
    placed = np.zeros((mask.shape[0], mask.shape[2], mask.shape[1]), codes.dtype)
    placed[mask.transpose(0, 2, 1) == 1] = codes
    return placed.transpose(0, 2, 1)


def _with_levels(member: Member, levels: NDArray[np.int32], values: NDArray) -> Member:
    symbols = replace(member.symbols, levels=levels)
    match member.form:
        case Grid():
            return replace(member, form=replace(member.form, levels=symbols))
        case Codebook() | Mapped():
            count = member.form.size if isinstance(member.form, Mapped) else len(member.form.centroids.codes)
            if levels.min() < 0 or levels.max() >= count:
                raise CorruptionError(f"a code lies outside the {count} centroids")
            return replace(member, form=replace(member.form, codes=symbols))
        case Planes() as form:
            return replace(member, form=replace(form, tops=symbols, low=values))
        case Sparse():
            return replace(member, form=Sparse(symbols, replace(member.form.values, codes=values[levels == 1])))
        case _:
            low, high = INTEGER_RANGES[member.dtype]
            if levels.min() < low or levels.max() > high:
                raise CorruptionError(f"a level lies outside {low}..{high}")
            return replace(member, form=symbols)


def _decode_pool(data: NDArray[np.uint8], header: Header, pool: Pool) -> Payload:
    body = data[pool.offset :]
    if zlib.crc32(body.data) != pool.crc:
        raise CorruptionError("the checksum of the pool does not match: the payload was changed after it was written")
    raw = len(body) - pool.rans_bytes - 2 * pool.lanes - pool.escapes
    sections = rans.Sections.split(body, (pool.rans_bytes, 2 * pool.lanes, raw, pool.escapes))
    all_levels = decode_pool(header.payload, sections)
    members = [_with_levels(member, levels, np.empty(0)) for member, levels in zip(header.payload.members, all_levels, strict=True)]
    return replace(header.payload, members=tuple(members))
