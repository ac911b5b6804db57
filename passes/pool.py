"""Writes pools: small weights that share a stream and tables (FORMAT.md, section 7). What is written, `runtime/pool.py` reads back."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Member, Table
from ..runtime.header import POOL_MEMBERS, POOL_SYMBOLS
from ..runtime.trellis import multiples, quantizers
from . import tables as tabling
from .entropy import encode
from .members import Coded, framed, member_bytes, table_bytes, varint
from .symbols import Classified, classify

LEAST_LANES, LANE_SYMBOLS = 4, 8192
"""Lanes of a small pool, and symbols a lane in larger ones: a lane costs 1.5 bytes, and pools are decoded once, when a session is created."""


def pools(sizes: Sequence[int]) -> list[list[int]]:
    """Numbers of the weights that share a pool, by their numbers of symbols: each goes into the first pool that has room, at most 65,536 symbols and 4,096 weights."""
    filled: list[list[int]] = []
    room: list[int] = []
    for number, size in enumerate(sizes):
        place = next((place for place, left in enumerate(room) if size <= left and len(filled[place]) < POOL_MEMBERS), len(filled))
        if place == len(filled):
            filled.append([])
            room.append(POOL_SYMBOLS)
        filled[place].append(number)
        room[place] -= size
    return filled


def write_pool(members: list[Member]) -> bytes:
    """A pool of small weights, in this order; none of them Sparse, all levels (and multiples, where these are trellis-coded) within 16 bits.

    Raises ValueError for levels that need more.
    """
    if not all(map(_fits, members)):
        raise ValueError("levels span more than 16 bits")
    coded, shared = _shared(members)
    symbols = [_symbols(one, shared) for one in coded]
    count = sum(member.view.size for member in members)
    lanes = max(LEAST_LANES, count // LANE_SYMBOLS)
    steps = np.full(-(-count // lanes), lanes)
    steps[-1] = count - lanes * (len(steps) - 1)
    stream = encode(shared, np.concatenate([one.table for one in symbols]), np.concatenate([one.index for one in symbols]), steps)
    heads = np.full(lanes, 256, "<u2")
    heads[: len(stream.heads)] = stream.heads
    raw = np.packbits(np.concatenate([one.raw.reshape(-1) for one in symbols]), bitorder="little")
    escapes = b"".join(one.escapes.tobytes() for one in symbols)
    body = stream.rans.tobytes() + heads.tobytes() + raw.tobytes() + escapes
    header = table_bytes(shared) + varint(len(members)) + b"".join(member_bytes(one, len(shared)) for one in coded) + bytes([lanes])
    header += varint(len(stream.rans)) + varint(len(escapes)) + zlib.crc32(body).to_bytes(4, "little")
    return framed(1, header) + body


def _fits(member: Member) -> bool:
    levels = member.symbols.levels
    kept = [levels, multiples(levels)] if member.symbols.quantizers == 2 else [levels]
    return all(int(values.min()) >= -32768 and int(values.max()) <= 32767 for values in kept)


def _shared(members: list[Member]) -> tuple[list[Coded], tuple[Table, ...]]:
    """How each member is coded, with the tables that all share."""
    found = [quantizers(member.symbols.levels) if member.symbols.quantizers == 2 else None for member in members]
    plans = [tabling.plan(member.symbols.levels, by, pooled=True) for member, by in zip(members, found, strict=True)]
    codings = [coding for coding in plans if coding is not None]
    items = [(counts, coding.escape_base, coding.raw_bits) for coding in codings for counts in coding.counts]
    shared, owners = tabling.share(items)
    coded, at = [], 0
    for member, coding, by in zip(members, codings, found, strict=True):
        numbers = np.array(owners[at : at + len(coding.counts)], np.uint8)
        coded.append(Coded(member, coding, numbers[coding.map], by))
        at += len(coding.counts)
    return coded, shared


def _symbols(coded: Coded, tables: tuple[Table, ...]) -> Classified:
    by = None if coded.quantizers is None else _by_row(coded.quantizers)
    return classify(coded, tables, _by_row(coded.member.symbols.levels), by, coded.coding.row_class)


def _by_row(values: NDArray) -> NDArray:
    """[batch, rows, k] as [batch * rows, 1, k]: row after row."""
    return values.reshape(-1, 1, values.shape[-1])
