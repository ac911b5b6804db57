"""The algebra of compressed weights: a small tree of forms for each weight (FORMAT.md, sections 3 to 5).

Forms are plain values. They know shapes, never bytes (`reader`, and `writer` in passes) nor arithmetic (`evaluate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PANEL_ROWS = 64
"""Rows in one panel: the lanes of a 512-bit vector of bytes."""

PROBABILITY_ONE = 256
"""Sum of the frequencies of a table: 8-bit probabilities."""


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor is seen as [batch, rows, k]: `transpose(w, permutation).reshape(batch, rows, k)`."""

    dims: tuple[int, ...]
    permutation: tuple[int, ...]
    batch: int
    rows: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.dims)

    @property
    def k(self) -> int:
        """Values in a row."""
        return self.size // (self.batch * self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, rows, k)."""
        return self.batch, self.rows, self.k

    @property
    def panels(self) -> int:
        """Panels in all batches; the last one of each batch may have fewer than 64 rows."""
        return self.batch * -(-self.rows // PANEL_ROWS)

    def see(self, tensor: NDArray) -> NDArray:
        """The tensor [dims] as [batch, rows, k]."""
        return tensor.transpose(self.permutation).reshape(self.shape)

    def unsee(self, viewed: NDArray) -> NDArray:
        """The inverse of `see`: [batch, rows, k] back to [dims]."""
        permuted = viewed.reshape([self.dims[axis] for axis in self.permutation])
        return np.require(permuted.transpose(np.argsort(self.permutation, kind="stable")), requirements="C")


@dataclass(frozen=True, slots=True)
class Table:
    """Probabilities of at most 16 classes: class index i has value `first + i` and probability frequencies[i] / 256."""

    first: int
    frequencies: tuple[int, ...]
    escape: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """A leaf of floats: `kind` is one of "float32", "float16", "bfloat16", "log8".

    `codes` holds the stored bits (uint32, uint16, uint16, uint8), shape [count]; `exponent` is log8's.
    """

    kind: str
    codes: NDArray
    exponent: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Symbols:
    """A leaf of integers, `levels` int32 [batch, rows, k], and how they are coded.

    A parsed header has no levels yet (an empty array). `table_of` uint8 [row classes, column classes, quantizers] numbers the tables of the payload;
    `row_class` uint8 [panels], in a pool [batch * rows]; `column_class` uint8 [k]. Two `quantizers`: trellis-coded levels (`trellis`).
    """

    levels: NDArray[np.int32]
    raw_bits: int = 0
    escape_base: int = 0
    table_of: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((1, 1, 1), np.uint8))
    row_class: NDArray[np.uint8] | None = None
    column_class: NDArray[np.uint8] | None = None
    quantizers: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """value = round32(round32(scale * column_scale) * level); one scale a row, a block of `block` columns, or for all.

    Trellis-coded levels stand for multiples (`trellis.multiples`), which take their place in the product.
    """

    scale: Dense
    levels: Symbols
    column_scale: Dense | None = None
    block: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """value = centroids[code], times the row's scale where there is one."""

    centroids: Dense
    codes: Symbols
    scale: Dense | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mapped:
    """value = centroids[row_group[row] * n + code], times the row's scale where there is one: `groups` codebooks of n centroids each.

    `row_group` uint8 [batch * rows]; None where there is one group.
    """

    centroids: Dense
    groups: int
    row_group: NDArray[np.uint8] | None
    codes: Symbols
    scale: Dense | None = None

    @property
    def size(self) -> int:
        """Centroids of one group."""
        return len(self.centroids.codes) // self.groups


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """value = mask ? the next of `values` : 0. `values` (float32, float16, bfloat16) in the order [batch, rows, k]."""

    mask: Symbols
    values: Dense


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """How the bits of a value are split: symbols for the top ones, `planes` raw bytes below, `drop` zeros at the end.

    `integers`: the value is `base` plus the number that the bits are, and with `delta` the sum along its row so far. Else a float, whose sign
    stands behind its exponent. `short_row` uint8 [batch * rows]: 1 where the `short` lowest bits of the raw bytes are zero and not stored, too.
    `cuts` uint8 [tables, 16]: where a float's top raw bit is coded, 256 times the probability that it is 0, by class index.
    """

    planes: int
    drop: int = 0
    integers: bool = False
    delta: bool = False
    base: int = 0
    short: int = 0
    short_row: NDArray[np.uint8] | None = None
    cuts: NDArray[np.uint8] | None = None

    def kept_bits(self, plane: int) -> int:
        """Bits of a plane (0: the most significant) that short rows store."""
        return max(0, min(8, 8 * (self.planes - plane) - self.short))


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """value = the bits of `tops` (levels without their offset), then those of `low` uint64 [batch, rows, k], as `fields` says."""

    fields: Fields
    tops: Symbols
    low: NDArray[np.uint64]


Form = Grid | Codebook | Mapped | Sparse | Symbols | Planes


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One weight of a payload: its ONNX dtype number, its view and its form."""

    dtype: int
    view: View
    form: Form

    @property
    def symbols(self) -> Symbols:
        """The one leaf of integers in the form."""
        match self.form:
            case Grid(levels=symbols) | Codebook(codes=symbols) | Mapped(codes=symbols) | Sparse(mask=symbols) | Planes(tops=symbols):
                return symbols
            case Symbols() as symbols:
                return symbols


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """What one payload holds: the tables, and one member (chunked) or several (a pool)."""

    tables: tuple[Table, ...]
    members: tuple[Member, ...]
    pooled: bool
