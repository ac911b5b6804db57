"""Payloads put together from parts, with what the writer would not choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from onnx_compress.runtime.form import Form, Grid, Member, Payload, Symbols, Table, View

from tests import assembly
from tests.forms import dense, plain_view


@dataclass(frozen=True, slots=True, eq=False)
class Assembled:
    """A payload of known forms and tables, and its layout: (width, groups), or (lanes,) of a pool."""

    payload: Payload
    layout: tuple[int, ...]

    def bytes(self) -> bytes:
        if self.payload.pooled:
            return assembly.assemble_pool(self.payload, *self.layout)
        return assembly.assemble(self.payload, *self.layout)

THREE = (Table(-1, (60, 136, 60)), Table(-3, (10, 0, 40, 150, 40, 0, 16), True), Table(0, (256,)))
"""Plain; with zero frequencies and an escape; a single class."""


@dataclass(frozen=True, slots=True)
class Axes:
    """How many row and column classes and quantizers a leaf has; `by_row`: row classes as in a pool."""

    rows: int
    columns: int
    quantizers: int = 1
    by_row: bool = False


def _leaf(view: View, seed: int, axes: Axes, raw_bits: int = 0, base: int = -100) -> Symbols:
    """Levels that the tables THREE can code, with row and column classes at random."""
    random = np.random.default_rng(seed)
    units = view.batch * view.rows if axes.by_row else view.panels
    row_class = random.integers(0, axes.rows, units).astype(np.uint8) if axes.rows > 1 else None
    column_class = random.integers(0, axes.columns, view.k).astype(np.uint8) if axes.columns > 1 else None
    table_of = random.integers(0, 3, (axes.rows, axes.columns, axes.quantizers)).astype(np.uint8)
    panel = np.arange(view.batch)[:, None] * -(-view.rows // 64) + np.arange(view.rows) // 64
    unit = np.arange(view.batch * view.rows).reshape(view.batch, view.rows) if axes.by_row else panel
    by_row = np.zeros(unit.shape, int) if row_class is None else row_class[unit]
    by_column = np.zeros(view.k, int) if column_class is None else column_class
    wide = np.where(random.random(view.shape) < 0.05, random.integers(base, base + 255, view.shape), random.integers(-2, 3, view.shape))
    raw = random.integers(0, 1 << raw_bits, view.shape)
    levels, state = np.zeros(view.shape, np.int32), np.zeros((view.batch, view.rows), int)
    for k in range(view.k):
        table = table_of[by_row, by_column[k], state % axes.quantizers]
        classes = np.choose(table, [np.clip(wide[..., k], -1, 1), wide[..., k], np.zeros(state.shape, int)])
        levels[..., k] = (classes << raw_bits) - ((1 << raw_bits) >> 1) + raw[..., k]
        state = np.array(assembly.NEXT)[state, levels[..., k] & 1]
    return Symbols(levels, raw_bits, base, table_of, row_class, column_class, axes.quantizers)


def _assembled(view: View, seed: int, axes: tuple[int, ...], layout: tuple[int, ...], raw_bits: int = 0) -> Assembled:
    scale = dense(np.random.default_rng(seed).uniform(0.1, 1, view.batch * view.rows), "bfloat16")
    return Assembled(Payload(THREE, (Member(1, view, Grid(scale, _leaf(view, seed, Axes(*axes), raw_bits))),), False), layout)


def _pooled(count: int, lanes: int, quantizers: int = 1) -> Assembled:
    members = []
    for number in range(count):
        view = plain_view(1 + number % 2, 1 + 11 * number % 90, 1 + number % 7)
        two = quantizers if number % 4 % 2 else 1
        symbols = _leaf(view, number, Axes(1 + number % 3, 1 + number % 4, two, by_row=True), number % 2 * 3, -10)
        symbols = replace(symbols, levels=np.clip(symbols.levels, -128, 127))
        form: Form = Grid(dense(np.array([0.5])), symbols) if number % 4 else symbols
        members.append(Member(1 if number % 4 else 5, view, form))
    tables = (*THREE[:1], Table(-10, (*range(1, 16), 136), True), THREE[2])
    members = [member for member in members if _codable(tables, member)]
    return Assembled(Payload(tables, tuple(members), True), (lanes,))


def _codable(tables: tuple[Table, ...], member: Member) -> bool:
    try:
        assembly.assemble_pool(Payload(tables, (member,), True), 1)
    except AssertionError:
        return False
    return True

ASSEMBLED: dict[str, Callable[[], Assembled]] = {
    "column classes": lambda: _assembled(plain_view(1, 66, 20), 1, (1, 4), (1, 1)),
    "row and column classes": lambda: _assembled(plain_view(2, 200, 10), 2, (3, 5), (1, 3)),
    "sixteen classes each way": lambda: _assembled(plain_view(1, 1100, 20), 3, (16, 16), (1, 17)),
    "width 2": lambda: _assembled(plain_view(1, 300, 6), 4, (2, 2), (2, 2)),
    "width 3": lambda: _assembled(plain_view(2, 400, 5), 5, (2, 3), (3, 1), 2),
    "width 4": lambda: _assembled(plain_view(1, 700, 4), 6, (4, 2), (4, 2), 1),
    "width 4, few rows": lambda: _assembled(plain_view(1, 70, 12), 7, (2, 2), (4, 5), 3),
    "eight raw bits": lambda: _assembled(plain_view(1, 130, 7), 8, (2, 1), (2, 1), 8),
    "seven raw bits, ragged": lambda: _assembled(plain_view(3, 77, 7), 9, (3, 2), (1, 1), 7),
    "transposed, width 2": lambda: _assembled(View((3, 4, 150), (2, 1, 0), 1, 150), 10, (2, 4), (2, 1)),
    "four chunks, the last of one row": lambda: _assembled(View((193, 3), (0, 1), 1, 193), 16, (1, 1), (1, 1)),
    "pool of 1, one lane": lambda: _pooled(1, 1),
    "pool of 9, five lanes": lambda: _pooled(9, 5),
    "pool of 30, 64 lanes": lambda: _pooled(30, 64),
    "trellis": lambda: _assembled(plain_view(1, 66, 20), 11, (1, 1, 2), (1, 1)),
    "trellis with classes": lambda: _assembled(plain_view(2, 200, 10), 12, (3, 5, 2), (1, 3)),
    "trellis, width 3, raw bits": lambda: _assembled(plain_view(2, 400, 5), 13, (2, 3, 2), (3, 1), 1),
    "trellis, width 4, few rows": lambda: _assembled(plain_view(1, 70, 12), 14, (2, 2, 2), (4, 5), 3),
    "trellis, all classes": lambda: _assembled(plain_view(1, 1100, 20), 15, (16, 16, 2), (2, 4), 1),
    "trellis pool of 9, five lanes": lambda: _pooled(9, 5, 2),
    "trellis pool of 30, 64 lanes": lambda: _pooled(30, 64, 2),
}
"""Payloads that the writer never makes, by name."""
