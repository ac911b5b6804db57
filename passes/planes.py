"""Writes Planes: a weight's bits, exactly, as symbols for their top fields and raw bytes below (FORMAT.md, sections 5 and 6).

The bits are read where they are, chunk by chunk; beside the weight's own bytes, what is in memory is one byte a value (its top field, from which tables are
chosen) and what was written.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import PANEL_ROWS, Fields, Member, Planes, Symbols, View
from ..runtime.members import EXPONENT_BITS, WIDTHS
from ..runtime.planes import escape_bytes, low_bytes
from . import chunk_kernels as kernels
from . import plane_kernels
from .class_plan import plan_classes
from .cuts import choose
from .laws import Laws, laws_of
from .members import Coded, framed, member_bytes, table_bytes, varint
from .raw_kernels import Layout
from .surveys import Survey, surveys
from .tables import Coding
from .top_counts import ClassValues, Map, lines

CHUNK_STEPS = 2048
"""Symbols a lane that a chunk has at least, where the weight allows: heads then cost 1.5 B in 2,048 values."""

GATHER_PANELS = 4
HEAD_BITS = 16
LEAST_SAVED = 0.02
"""Bits a value from which on the top bit of mantissas is coded: below, it is faster to decode raw."""

NEAR = 1.003
"""Of the bits of the best view: others up to here may yet become better."""

TOP_BITS = 8
"""Bits of the top field of integers, the one that is coded."""

COUNTED, MOST_APART, LEAST_LINES = 1 << 18, 8, 64
"""Values whose cut bits are counted at least, of lines evenly spaced in memory, the most that these are apart, and how many there are at least: lines differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A weight's words [batch, rows, k] with how they are split, and `tops`, their top fields; of floats, the `zeros` that each row ends with beside those
    that all end with."""

    dtype: int
    view: View
    words: NDArray
    fields: Fields
    raw_bits: int
    tops: ClassValues
    zeros: NDArray[np.int64] | None = None

    @property
    def width(self) -> int:
        """Bits of a word that count."""
        return WIDTHS[self.dtype]

    @property
    def low_bytes(self) -> int:
        """About what is stored below the symbols."""
        rows = len(self.fields.short_row) if self.fields.short_row is not None else 0
        short = int(self.fields.short_row.sum()) * self.fields.short * self.view.k // 8 + rows // 8 if self.fields.short_row is not None else 0
        return self.view.size * self.fields.planes + self.view.batch * self.view.k * self.stored_raw_bits * -(-self.view.rows // 8) - short

    @property
    def mantissa(self) -> int:
        """Mantissa bits of a float."""
        return self.width - 1 - EXPONENT_BITS[self.dtype]

    @property
    def stored_raw_bits(self) -> int:
        """Bits of a raw part that are not coded."""
        return self.raw_bits - (self.fields.cuts is not None)

    @property
    def shift(self) -> int:
        """Bits below the top field in a folded word."""
        return self.fields.drop + 8 * self.fields.planes + self.raw_bits


def write_planes(bits: NDArray, dtype: int, views: tuple[View, ...], gathered: bool = False, work: Map = map) -> list[bytes | memoryview]:
    """The payload of a weight as pieces, from its bits, unsigned, in the view that takes least; `gathered` says that a Gather reads it.

    Dims of views may differ, and be of fewer values than there are: the first ones.
    """
    split, coding = _planned(_splits([_seen(bits, view) for view in views], dtype, views, work), gathered)
    laws = laws_of(coding, split.tops.high)
    split = _with_cuts(split, coding, laws)
    view, numbers = split.view, replace(coding, raw_bits=split.raw_bits)
    member = Member(dtype, view, Planes(split.fields, Symbols(np.empty((0, 0, 0), np.int32), split.raw_bits), np.empty((0, 0, 0), np.uint64)))
    coded = Coded(member, numbers, numbers.map, None)
    width, groups = chunking(view.rows, view.k, gathered)
    cuts = _cuts(view, width, groups)
    laws = laws.with_cuts(split.fields.cuts)
    done = list(work(lambda cut: _chunk(coded, split, laws, cut), cuts))
    directory = b"".join(entry for entry, _ in done)
    header = table_bytes(numbers.tables) + member_bytes(coded, len(numbers.tables)) + bytes([width]) + varint(groups) + directory
    return [framed(0, header), *(body for _, bodies in done for body in bodies)]


def _planned(splits: list[Split], gathered: bool) -> tuple[Split, Coding]:
    """The split that takes least, and its coding; those that are not much worse before they are refined are refined, too."""
    beside = [HEAD_BITS * _heads(split.view, gathered) + 8 * split.low_bytes for split in splits]
    plans = [plan_classes(split.tops) for split in splits]
    bits = [plan.bits + rest for plan, rest in zip(plans, beside, strict=True)]
    near = [at for at, one in enumerate(bits) if one <= NEAR * min(bits)]
    codings = {at: plans[at].coding() for at in near}
    best = min(near, key=lambda at: codings[at].bits + beside[at])
    return splits[best], codings[best]


def _seen(bits: NDArray, view: View) -> NDArray:
    viewed = view.see(bits.reshape(-1)[: view.size].reshape(view.dims))
    return viewed if viewed[0].flags.forc else np.ascontiguousarray(viewed)


def _splits(seen: list[NDArray], dtype: int, views: tuple[View, ...], work: Map) -> list[Split]:
    if dtype not in EXPONENT_BITS:
        return [_split_integers(words, dtype, view, work) for words, view in zip(seen, views, strict=True)]
    exponent = EXPONENT_BITS[dtype]
    found = surveys(seen, (WIDTHS[dtype] - 1 - exponent, (1 << exponent) - 1), work)
    return [_split_floats(words, dtype, view, survey) for words, view, survey in zip(seen, views, found, strict=True)]


def _heads(view: View, gathered: bool) -> int:
    """Lanes of all chunks: each costs a start state."""
    return sum(lanes for *_, lanes in _cuts(view, *chunking(view.rows, view.k, gathered)))


def _split_floats(words: NDArray, dtype: int, view: View, survey: Survey) -> Split:
    """The exponent on top; zeros that all values, or many rows, end with are left out."""
    mantissa = WIDTHS[dtype] - 1 - EXPONENT_BITS[dtype]
    zeros = plane_kernels.zeros_at_end(survey.unions.reshape(-1), mantissa)
    drop = int(zeros.min())
    planes, raw_bits = divmod(1 + mantissa - drop, 8)
    fields = _with_short_rows(Fields(planes, drop), zeros - drop, view.k)
    return Split(dtype, view, words, fields, raw_bits, survey.tops, zeros - drop)


def _with_cuts(split: Split, coding: Coding, laws: Laws) -> Split:
    """The same with the top bit of mantissas coded, where that pays."""
    below = split.shift - split.fields.drop
    if split.zeros is None or below < 2:
        return split
    view = split.view
    table_of = _table_of(coding, np.arange(view.panels), view.k).reshape(view.batch, -1, view.k)
    apart = max(1, min(MOST_APART, -(-view.size // COUNTED), len(lines(split.words[0])[0]) // LEAST_LINES))
    place = (split.mantissa - 1, (1 << (split.width - split.mantissa)) - 1, apart)
    counts = np.zeros((*laws.index.shape, 2), np.int64)
    for words, own in zip(split.words, table_of, strict=True):
        plane_kernels.count_halves(*lines(words), place, own, counts.reshape(len(counts), -1))
    cuts, saved = choose(counts, laws.index, counts.sum() / view.size)
    planes = (below - 1) // 8
    fields = _with_short_rows(Fields(planes, split.fields.drop, cuts=cuts), split.zeros, view.k)
    cut = replace(split, fields=fields, raw_bits=below - 8 * planes)
    saved += 8 * (split.low_bytes - cut.low_bytes) - view.size  # bit planes of few lanes have unused bits
    return cut if saved > LEAST_SAVED * view.size else split


def _with_short_rows(fields: Fields, zeros: NDArray[np.int64], k: int) -> Fields:
    """Marks the rows that end with more zeros than others, where that pays."""
    if not zeros.any():
        return fields
    zeros = np.minimum(zeros, 8 * fields.planes)
    choices = [short for short in np.unique(zeros) if short > 0]
    saved = {int(short): int(short) * int((zeros >= short).sum()) * k - len(zeros) for short in choices}
    short = max(saved, key=lambda one: saved[one], default=0)
    return replace(fields, short=short, short_row=(zeros >= short).astype(np.uint8)) if short and saved[short] > 0 else fields


def _split_integers(words: NDArray, dtype: int, view: View, work: Map) -> Split:
    """Numbers above the least one, or of their differences along a row where these span fewer bits."""
    signed = words.view(f"i{words.itemsize}") if dtype in (3, 5, 6, 7) else words
    choices = []
    for delta in (False, True):
        found = [plane_kernels.bounds(part, delta) for part in signed]
        low, high = min(one for one, _ in found), max(one for _, one in found)
        choices.append((min(WIDTHS[dtype], (int(high) - int(low)).bit_length()), delta, int(low) % 2**64))
    _, delta, base = min(choices)
    moved = np.empty(words.shape, np.uint64)
    for part, out in zip(signed, moved, strict=True):
        plane_kernels.subtract(part, delta, np.uint64(base), out)
    moved &= np.uint64(2 ** WIDTHS[dtype] - 1)
    union = int(np.bitwise_or.reduce(moved, axis=None))
    drop = min(63, (union & -union).bit_length() - 1) if union else 0
    planes, raw_bits = divmod(max(0, union.bit_length() - drop - TOP_BITS), 8)
    fields = Fields(planes, drop, True, delta, base)
    shift = drop + 8 * planes + raw_bits
    tops = (moved >> np.uint64(shift)).astype(np.uint8)
    low = int(tops.min())
    return Split(dtype, view, moved, fields, raw_bits, ClassValues(tops, low, int(tops.max()) - low + 1, work))


def chunking(rows: int, k: int, gathered: bool) -> tuple[int, int]:
    """(panels side by side, groups a chunk): wide and short chunks of 2,048 symbols a lane; of one panel side by side where a Gather reads them."""
    if gathered:
        full = rows // PANEL_ROWS
        return 1, max((g for g in range(1, GATHER_PANELS + 1) if full and full % g == 0), default=1)
    width = max(1, min(4, rows // PANEL_ROWS, rows * k // (PANEL_ROWS * CHUNK_STEPS)))
    full = rows // (PANEL_ROWS * width)
    return width, next((g for g in range(1, full + 1) if full % g == 0 and g * k >= CHUNK_STEPS), max(full, 1))


Cut = tuple[int, int, int, int]
"""What one chunk codes: batch, first row, groups, lanes."""


def _cuts(view: View, width: int, groups: int) -> list[Cut]:
    lanes = PANEL_ROWS * width
    full, rest = divmod(view.rows, lanes)
    rows = [(group * lanes, groups, lanes) for group in range(0, full, groups)] + ([(full * lanes, 1, rest)] if rest else [])
    return [(batch, *part) for batch in range(view.batch) for part in rows]


def _chunk(coded: Coded, split: Split, laws: Laws, cut: Cut) -> tuple[bytes, list[bytes | memoryview]]:
    """(directory entry, sections) of one chunk."""
    batch, first, groups, lanes = cut
    view, fields, row = split.view, split.fields, batch * split.view.rows + first
    panel_bytes = sum(-(-min(PANEL_ROWS, lanes - at) // 8) for at in range(0, lanes, PANEL_ROWS))
    size = groups * view.k * lanes
    short_row = np.zeros(0, np.uint8) if fields.short_row is None else fields.short_row[row : row + groups * lanes]
    sections = kernels.Sections(
        np.empty(2 * size + lanes + 16, np.uint8), np.empty(size if laws.escapes else 0, f"<u{escape_bytes(coded.member)}"),
        np.empty(groups * view.k * split.stored_raw_bits * panel_bytes, np.uint8), np.empty(low_bytes(coded.member, row, groups, lanes), np.uint8),
        np.empty(lanes, np.uint16),
    )  # fmt: skip
    words, turned = lines(split.words[batch])
    begin, escaped = kernels.write_chunk(
        words, _layout(split, cut, turned), kernels.Law(laws.numbers, laws.bits, _tables(coded.coding, view, cut), laws.base), short_row, sections
    )
    body: list[bytes | memoryview] = [sections.rans[begin:].tobytes(), sections.states.tobytes(), sections.raw.data, sections.escapes[escaped:].tobytes(), sections.low.data]
    crc = 0
    for section in body:
        crc = zlib.crc32(section, crc)
    entry = varint(len(body[0])) + varint(len(sections.escapes) - escaped) + crc.to_bytes(4, "little")
    return entry, body


def _layout(split: Split, cut: Cut, turned: bool) -> Layout:
    _, first, groups, lanes = cut
    fields, floats = split.fields, not split.fields.integers
    cut_bit = -1 if fields.cuts is None else split.shift - 1
    return Layout(
        turned, first, groups, lanes, split.width if floats else 0, split.mantissa - (fields.cuts is not None) if floats else 0, split.shift, cut_bit,
        split.shift - split.raw_bits, split.stored_raw_bits, fields.planes, fields.drop, fields.short,
    )  # fmt: skip


def _tables(coding: Coding, view: View, cut: Cut) -> NDArray[np.uint8]:
    """The number of the table of each panel of a chunk, uint8 [groups, columns of k, panels]."""
    batch, first, groups, lanes = cut
    panels = -(-lanes // PANEL_ROWS)
    numbers = batch * (view.panels // view.batch) + first // PANEL_ROWS + np.arange(groups * panels)
    return np.ascontiguousarray(_table_of(coding, numbers, view.k).reshape(groups, panels, -1).transpose(0, 2, 1))


def _table_of(coding: Coding, panels: NDArray[np.intp], k: int) -> NDArray[np.uint8]:
    """The number of the table of some panels, by their numbers, uint8 [panels, k]."""
    by_class = coding.map[:, :, 0]
    of_columns = by_class.repeat(k, 1) if coding.column_class is None else by_class.take(coding.column_class, 1)
    return of_columns.repeat(len(panels), 0) if coding.row_class is None else of_columns.take(coding.row_class[panels], 0)
