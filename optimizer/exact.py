"""Exact forms of a tensor: the smallest payload that decodes to its very bits (each is decoded and compared before it is used)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..passes import exact_forms
from ..passes.planes import write_planes
from ..passes.top_counts import Map
from ..passes.writer import write
from ..runtime import library
from ..runtime.form import PANEL_ROWS, Codebook, Dense, Grid, Member, Sparse, Symbols, View
from ..runtime.members import INTEGER_RANGES, WIDTHS

LEAST_VALUES = 256
"""Tensors below this cost more than they save."""

FOUR_BITS = (21, 22)
DENSE_OF = {1: "float32", 10: "float16", 16: "bfloat16"}
BOTH_VIEWS_UP_TO = 1 << 22
"""Values up to which a tensor is coded in every view that is legal, to take the smallest."""

SHORTEST_ROW = 16
SMALL_VALUES = 1 << 14

SEARCHED_FORMS_UP_TO = 1 << 28


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """A payload in pieces, and the name of its form."""

    form: str
    pieces: list[bytes | memoryview]

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(map(len, self.pieces))


def is_known(dtype: int) -> bool:
    """Whether tensors of this dtype can be compressed."""
    return dtype in WIDTHS or dtype in FOUR_BITS


def stored_bytes(dtype: int, size: int) -> int:
    """Bytes of `size` values as ONNX stores them."""
    return (size + 1) // 2 if dtype in FOUR_BITS else size * WIDTHS[dtype] // 8


@dataclass(frozen=True, slots=True)
class Sights:
    """The views that a payload may have (the first is for large tensors), those of a Grid, and whether a Gather reads it."""

    views: tuple[View, ...]
    grids: tuple[View, ...]
    gathered: bool = False


def any_sight(dims: tuple[int, ...]) -> Sights:
    """Of a tensor whose consumers take it whole."""
    return Sights(free_views(dims), (row_view(dims), column_view(dims)) if len(dims) > 1 else ())


def one_sight(view: View, gathered: bool) -> Sights:
    """Of a tensor that operators of ours read in this view."""
    return Sights((view,), (view,), gathered)


def smallest(raw: NDArray[np.uint8], dtype: int, dims: tuple[int, ...], sights: Sights, work: Map = map) -> Exact | None:
    """The smallest payload for the tensor whose stored bytes are `raw`; None where none is exact."""
    views, gathered = sights.views, sights.gathered
    if dtype in FOUR_BITS:
        found = [_of_member(Member(dtype, view, Symbols(view.see(_unpacked(raw, dtype, dims)))), gathered) for view in views[:1]]
    else:
        bits = raw.view(f"<u{WIDTHS[dtype] // 8}").reshape(dims)
        found = list(_candidates(bits, dtype, sights if bits.size <= BOTH_VIEWS_UP_TO else replace(sights, views=views[:1]), work))
    for candidate in sorted((one for one in found if one is not None), key=lambda one: one.size):
        if candidate.form == "planes" or _is_exact(candidate, raw):  # planes are exact by construction, and the whole file is checked at the end
            return candidate
    return None


def special(raw: NDArray[np.uint8], dtype: int, dims: tuple[int, ...]) -> Exact | None:
    """The smallest payload of a form that finds a structure in a tensor of floats; None where there is none."""
    bits = raw.view(f"<u{WIDTHS[dtype] // 8}").reshape(dims)
    found = [one for one in _float_forms(bits, dtype, any_sight(dims)) if one is not None]
    return next((one for one in sorted(found, key=lambda one: one.size) if _is_exact(one, raw)), None)


def _candidates(bits: NDArray, dtype: int, sights: Sights, work: Map) -> Iterator[Exact | None]:
    views, gathered = sights.views, sights.gathered
    yield Exact("planes", write_planes(bits, dtype, views, gathered, work))
    if dtype in INTEGER_RANGES:
        signed = bits.view(f"i{bits.itemsize}") if dtype in (3, 5) else bits
        yield _of_member(Member(dtype, views[0], Symbols(views[0].see(signed.astype(np.int32)))), gathered)
    elif dtype in DENSE_OF and bits.size <= SEARCHED_FORMS_UP_TO:
        yield from _float_forms(bits, dtype, sights)


def _float_forms(bits: NDArray, dtype: int, sights: Sights) -> Iterator[Exact | None]:
    """Few distinct values, many zeros, integers times scales."""
    view, gathered = sights.views[0], sights.gathered
    if (few := exact_forms.few_values(bits, dtype)) is not None:
        centroids, codes = few
        yield _of_member(Member(dtype, view, Codebook(Dense(DENSE_OF[dtype], centroids), Symbols(view.see(codes)))), gathered)
    if (mask := exact_forms.sparse_mask(bits, dtype)) is not None:
        kept = view.see(mask)
        yield _of_member(Member(dtype, view, Sparse(Symbols(kept.astype(np.int32)), Dense(DENSE_OF[dtype], view.see(bits)[kept]))), gathered)
    for other in sights.grids if dtype == 1 else ():
        if (grid := exact_forms.grid(other.see(bits))) is not None:
            scale, levels, block = grid
            yield _of_member(Member(dtype, other, Grid(Dense("float32", scale.view(np.uint32)), Symbols(levels), None, block)), gathered)
            return


def _of_member(member: Member, gathered: bool) -> Exact | None:
    try:
        return Exact(type(member.form).__name__.lower(), [write(member, gathered)])
    except ValueError:  # levels of more than 16 bits
        return None


def _unpacked(raw: NDArray[np.uint8], dtype: int, dims: tuple[int, ...]) -> NDArray[np.int32]:
    halves = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: int(np.prod(dims, dtype=np.int64))].astype(np.int32)
    return (((halves ^ 8) - 8) if dtype == FOUR_BITS[1] else halves).reshape(dims)


def _is_exact(candidate: Exact, raw: NDArray[np.uint8]) -> bool:
    (payload,) = candidate.pieces  # only planes have more
    return bool(np.array_equal(library.decode(bytes(payload), np.empty_like(raw), verify_checksums=False), raw))


def free_views(dims: tuple[int, ...]) -> tuple[View, ...]:
    """The views that a tensor may have whose consumers take it whole: the first is the one whose lanes are neighbours in memory, where there is one.

    Classes of symbols go by single columns, but by 64 rows: so each axis that is long enough gets a view in which it is k. A tensor without such an axis,
    and a small one, is cut into rows wherever that divides it.
    """
    size, rank = int(np.prod(dims, dtype=np.int64)), len(dims)
    order = tuple(range(rank))
    long = [axis for axis in order if dims[axis] > 1]
    found = []
    for axis in dict.fromkeys((long[0], long[-1])) if len(long) > 1 else ():
        rows = size // dims[axis]
        if rows >= PANEL_ROWS / 2 and dims[axis] >= SHORTEST_ROW:
            found.append(View(dims, order if axis == long[-1] else (*(one for one in order if one != axis), axis), 1, rows))
    if len(long) > 1 and dims[long[0]] < size // dims[long[0]] and dims[long[0]] > 1:
        found.append(View(dims, order, 1, int(np.prod(dims[: long[0] + 1], dtype=np.int64))))
    most = max(1, min(PANEL_ROWS, size // (PANEL_ROWS if size > SMALL_VALUES else 4 * PANEL_ROWS)))
    if len(found) < 2 or size <= SMALL_VALUES:
        rows = next(many for many in range(most, 0, -1) if size % many == 0)
        found.append(View(dims, order, 1, rows))
    return tuple({(*view.permutation, view.rows): view for view in found}.values())


def row_view(dims: tuple[int, ...]) -> View:
    """The view that a Gather needs: its first axis in rows."""
    return View(dims, tuple(range(len(dims))), 1, dims[0])


def column_view(dims: tuple[int, ...]) -> View:
    """Its last axis in rows: the columns of a matrix."""
    return View(dims, (len(dims) - 1, *range(len(dims) - 1)), 1, dims[-1])
