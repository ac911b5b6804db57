"""Members and payloads of every form and awkward shape, from seeds: the material of the recovery, agreement, stability and corruption tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx_compress.passes import writer
from onnx_compress.passes.planes import write_planes
from onnx_compress.runtime.form import Codebook, Dense, Form, Grid, Mapped, Member, Payload, Sparse, Symbols, Table, View

from tests import assembly

BITS = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16, "log8": np.uint8}
LOW_HIGH = {2: (0, 255), 3: (-128, 127), 4: (0, 60000), 5: (-30000, 30000), 21: (0, 15), 22: (-8, 7)}


def plain_view(batch: int, rows: int, k: int) -> View:
    return View((batch, rows, k), (0, 1, 2), batch, rows)


def dense(values: NDArray, kind: str = "float32", exponent: int = 0) -> Dense:
    """A leaf with these values, or with these codes where the kind is log8."""
    array = np.asarray(values).reshape(-1)
    if kind == "log8":
        return Dense(kind, array.astype(np.uint8), exponent)
    if kind == "bfloat16":
        return Dense(kind, (array.astype("<f4").view(np.uint32) >> 16).astype(np.uint16))
    return Dense(kind, array.astype(np.dtype(kind).newbyteorder("<")).view(BITS[kind]))


def laplace(shape: tuple[int, ...], spread: float, seed: int = 0) -> NDArray[np.int32]:
    """Levels with a Laplacian distribution of this scale."""
    return np.rint(np.random.default_rng(seed).laplace(0, spread, shape)).astype(np.int32)


def grid(
    view: View,
    spread: float = 1.5,
    dtype: int = 1,
    seed: int = 0,
    kind: str = "log8",
    block: int = 0,
    column: bool = False,
    one: bool = False,
) -> Member:
    """A Grid of Laplacian levels; `one` scale for all, or one a row, or one a block."""
    random = np.random.default_rng(seed + 1000)
    count = 1 if one else view.batch * view.rows * (-(-view.k // block) if block else 1)
    scale = dense(random.integers(0, 256, count), kind, -22) if kind == "log8" else dense(random.uniform(0.01, 0.3, count), kind)
    column_scale = dense(random.uniform(0.5, 2, view.k)) if column else None
    return Member(dtype, view, Grid(scale, Symbols(laplace(view.shape, spread, seed)), column_scale, block))


def codebook(view: View, count: int, dtype: int = 1, seed: int = 0, row_scale: bool = False) -> Member:
    """A Codebook of `count` centroids, its codes in a bell around the middle."""
    random = np.random.default_rng(seed)
    codes = np.clip(np.rint(random.normal(count / 2, count / 5 + 0.1, view.shape)), 0, count - 1).astype(np.int32)
    scale = dense(random.integers(0, 256, view.batch * view.rows), "log8", -20) if row_scale else None
    return Member(dtype, view, Codebook(dense(np.sort(random.normal(0, 1, count)), "float16"), Symbols(codes), scale))


def mapped(view: View, groups: int, size: int, dtype: int = 1, seed: int = 0, row_scale: bool = False) -> Member:
    """A Mapped form: `groups` codebooks of `size` centroids, rows dealt to them at random."""
    random = np.random.default_rng(seed + 2000)
    made = codebook(view, size, dtype, seed, row_scale)
    assert isinstance(made.form, Codebook)
    rows = random.integers(0, groups, view.batch * view.rows).astype(np.uint8) if groups > 1 else None
    return Member(dtype, view, Mapped(dense(random.normal(0, 1, groups * size), "float16"), groups, rows, made.form.codes, made.form.scale))


def trellis(view: View, spread: float = 1.0, dtype: int = 1, seed: int = 0, **changes: bool) -> Member:
    """A Grid of trellis-coded levels; `column`, `one` as in `grid`."""
    made = grid(view, spread, dtype, seed, **changes)
    assert isinstance(made.form, Grid)
    return Member(dtype, view, replace(made.form, levels=replace(made.form.levels, quantizers=2)))


def sparse(view: View, share: float, kind: str = "float32", dtype: int = 1, seed: int = 0) -> Member:
    """A Sparse member that keeps about `share` of its values."""
    random = np.random.default_rng(seed)
    mask = (random.random(view.shape) < share).astype(np.int32)
    return Member(dtype, view, Sparse(Symbols(mask), dense(random.normal(0, 1, int(mask.sum())), kind)))


def integers(view: View, dtype: int, seed: int = 0) -> Member:
    """Integers over the whole range of their dtype."""
    low, high = LOW_HIGH[dtype]
    return Member(dtype, view, Symbols(np.random.default_rng(seed).integers(low, high, view.shape, endpoint=True).astype(np.int32)))


def constant(view: View, level: int, dtype: int = 1) -> Member:
    """All levels the same."""
    levels = Symbols(np.full(view.shape, level, np.int32))
    return Member(dtype, view, levels if dtype in LOW_HIGH else Grid(dense(np.array([0.25])), levels))


def _trellis_of(member: Member) -> Member:
    """The same levels, trellis-coded."""
    assert isinstance(member.form, Grid)
    return replace(member, form=replace(member.form, levels=replace(member.form.levels, quantizers=2)))


SHAPES = [
    (1, 1, 1),
    (1, 1, 300),
    (1, 63, 7),
    (1, 64, 5),
    (1, 65, 5),
    (2, 65, 9),
    (1, 256, 4),
    (1, 257, 3),
    (3, 300, 2),
    (1, 300, 17),
    (2, 128, 8),
]
TRANSPOSED = View((6, 5, 70), (2, 0, 1), 1, 70)
CONVOLUTION = View((4, 3, 3, 65), (3, 0, 1, 2), 1, 65)
GROUPS = View((5, 2, 66), (1, 2, 0), 2, 66)
RANK0 = View((), (), 1, 1)
RANK8 = View((1, 2, 1, 3, 1, 2, 5, 1), (7, 6, 5, 4, 3, 2, 1, 0), 1, 10)


def _classes_differ(seed: int = 0) -> Member:
    """Panels of very different spread, so that several row classes pay."""
    view = plain_view(2, 130, 40)
    levels = laplace(view.shape, 1.0, seed)
    levels[:, 64:128] *= 4
    levels[1, :64] //= 3
    return Member(1, view, Grid(dense(np.array([0.1])), Symbols(levels)))


def _columns_differ(seed: int = 0, quantizers: int = 1) -> Member:
    """Columns and rows of very different spread, so that column classes pay."""
    view = plain_view(1, 130, 33)
    levels = laplace(view.shape, 1.0, seed)
    levels[:, :, 1::3] *= 7
    levels[:, 64:] *= 3
    return Member(1, view, Grid(dense(np.array([0.1])), Symbols(levels, quantizers=quantizers)))


def _rows_differ(seed: int, rows: int = 40, quantizers: int = 1) -> Member:
    """A small weight whose rows have very different spreads, so that row classes pay in a pool."""
    view = plain_view(2, rows, 60)
    spread = np.random.default_rng(seed).choice([0.3, 2.0, 9.0], (2, rows, 1))
    levels = np.rint(np.random.default_rng(seed).laplace(0, 1, view.shape) * spread).astype(np.int32)
    return Member(1, view, Grid(dense(np.array([0.1])), Symbols(levels, quantizers=quantizers)))


def _outliers() -> Member:
    view = plain_view(1, 70, 60)
    levels = laplace(view.shape, 0.4)
    levels[0, 3, 7], levels[0, 69, 0], levels[0, 0, 59] = 120, -90, 33
    return Member(1, view, Grid(dense(np.array([0.1])), Symbols(levels)))


WRITTEN: dict[str, Callable[[], Member]] = {
    **{f"grid {b}x{r}x{k}": lambda b=b, r=r, k=k: grid(plain_view(b, r, k)) for b, r, k in SHAPES},  # type: ignore[misc]
    **{f"codebook {b}x{r}x{k}": lambda b=b, r=r, k=k: codebook(plain_view(b, r, k), 9) for b, r, k in SHAPES},  # type: ignore[misc]
    **{f"sparse {b}x{r}x{k}": lambda b=b, r=r, k=k: sparse(plain_view(b, r, k), 0.4) for b, r, k in SHAPES},  # type: ignore[misc]
    **{f"spread {s}": lambda s=s: grid(plain_view(1, 66, 20), s) for s in (0.1, 0.5, 5, 20, 100, 500, 3000)},  # type: ignore[misc]
    **{f"codebook of {n}": lambda n=n: codebook(plain_view(1, 66, 20), n) for n in (1, 2, 3, 15, 16, 17, 64, 256, 300)},  # type: ignore[misc]
    **{f"sparse values {kind}": lambda kind=kind: sparse(plain_view(2, 70, 9), 0.3, kind) for kind in ("float32", "float16", "bfloat16")},  # type: ignore[misc]
    **{f"integers of dtype {d}": lambda d=d: integers(plain_view(1, 67, 30), d) for d in LOW_HIGH},  # type: ignore[misc]
    **{f"scales {kind}": lambda kind=kind: grid(plain_view(2, 66, 8), kind=kind) for kind in BITS},  # type: ignore[misc]
    **{f"all {level}": lambda level=level: constant(plain_view(1, 65, 6), level) for level in (0, 1, -1, 127, -128, 32767, -32768)},  # type: ignore[misc]
    "uint16 all 65535": lambda: constant(plain_view(1, 65, 6), 65535, 4),
    "int16 all -32768": lambda: constant(plain_view(1, 65, 6), -32768, 5),
    "rank 0": lambda: grid(RANK0),
    "rank 8": lambda: grid(RANK8),
    "transposed": lambda: grid(TRANSPOSED),
    "transposed convolution": lambda: sparse(CONVOLUTION, 0.5),
    "transposed groups": lambda: codebook(GROUPS, 5, row_scale=True),
    "float16": lambda: grid(plain_view(1, 66, 8), dtype=10),
    "bfloat16": lambda: grid(plain_view(1, 66, 8), dtype=16),
    "codebook float16, row scale": lambda: codebook(plain_view(2, 66, 8), 20, dtype=10, row_scale=True),
    "codebook bfloat16, row scale": lambda: codebook(plain_view(2, 66, 8), 20, dtype=16, row_scale=True),
    "sparse bfloat16": lambda: sparse(plain_view(1, 66, 8), 0.5, "bfloat16", 16),
    "sparse, nothing kept": lambda: sparse(plain_view(1, 66, 8), 0.0),
    "sparse, all kept": lambda: sparse(plain_view(1, 66, 8), 1.1),
    "block scales": lambda: grid(plain_view(2, 66, 33), block=8),
    "block scales with a column scale": lambda: grid(plain_view(1, 66, 33), block=32, column=True, kind="float16"),
    "block of k": lambda: grid(plain_view(1, 66, 9), block=9),
    "column scale": lambda: grid(plain_view(1, 66, 9), column=True),
    "one scale and a column scale": lambda: grid(plain_view(2, 66, 9), column=True, one=True, kind="float32"),
    "row classes": _classes_differ,
    "column classes": _columns_differ,
    **{f"trellis {b}x{r}x{k}": lambda b=b, r=r, k=k: trellis(plain_view(b, r, k)) for b, r, k in SHAPES},  # type: ignore[misc]
    **{f"trellis of spread {s}": lambda s=s: trellis(plain_view(1, 66, 20), s) for s in (0.1, 0.5, 5, 20, 100, 3000)},  # type: ignore[misc]
    "trellis, row and column classes": lambda: _columns_differ(1, 2),
    "trellis, transposed": lambda: trellis(TRANSPOSED),
    "trellis, column scale": lambda: trellis(plain_view(2, 130, 9), column=True),
    "trellis float16": lambda: trellis(plain_view(1, 66, 30), 3.0, 10, one=True),
    "trellis bfloat16": lambda: trellis(plain_view(1, 66, 30), dtype=16, column=True),
    "trellis of outliers": lambda: _trellis_of(_outliers()),
    "trellis in blocks": lambda: _trellis_of(grid(plain_view(1, 66, 33), block=8)),
    "trellis of a constant": lambda: _trellis_of(constant(plain_view(1, 65, 9), -3)),
    **{f"mapped {g}x{n}": lambda g=g, n=n: mapped(plain_view(2, 70, 9), g, n) for g, n in ((1, 1), (1, 9), (2, 5), (3, 4), (256, 3), (5, 300))},  # type: ignore[misc]
    "mapped, row scale": lambda: mapped(plain_view(3, 65, 12), 6, 7, row_scale=True),
    "mapped of one group, row scale": lambda: mapped(plain_view(1, 65, 12), 1, 7, row_scale=True),
    "mapped float16, row scale": lambda: mapped(plain_view(2, 66, 8), 3, 20, 10, row_scale=True),
    "mapped bfloat16, transposed": lambda: mapped(GROUPS, 4, 5, 16),
    "outliers escape": _outliers,
    "log8 extremes": lambda: Member(
        1, plain_view(1, 4, 3), Grid(Dense("log8", np.array([0, 255, 15, 240], np.uint8), 84), Symbols(laplace((1, 4, 3), 2)))
    ),
    "log8 least": lambda: Member(
        1, plain_view(1, 4, 3), Grid(Dense("log8", np.array([0, 255, 15, 240], np.uint8), -100), Symbols(laplace((1, 4, 3), 2)))
    ),
    "values that overflow": lambda: Member(
        10, plain_view(1, 3, 4), Grid(dense(np.array([1.0, 2000.0, 65504.0])), Symbols(laplace((1, 3, 4), 30) * 2 + 1))
    ),
    "float16 denormals": lambda: Member(
        10, plain_view(1, 3, 4), Grid(dense(np.array([2.0**-24, 3e-8, 1e-7])), Symbols(laplace((1, 3, 4), 5)))
    ),
}
"""Members by name, for `writer.write`."""

POOLS: dict[str, Callable[[], list[Member]]] = {
    "of 1 value": lambda: [grid(RANK0)],
    "of 1": lambda: [grid(plain_view(1, 7, 9))],
    "of 2": lambda: [grid(plain_view(1, 70, 9)), codebook(plain_view(2, 3, 4), 4)],
    "of all forms": lambda: [
        grid(TRANSPOSED),
        integers(plain_view(1, 67, 9), 3),
        integers(plain_view(1, 67, 9), 22),
        codebook(GROUPS, 40, 10),
        constant(RANK0, -7),
    ],
    "with wide levels": lambda: [
        grid(plain_view(1, 20, 30), 1.0),
        grid(plain_view(1, 20, 30), 15.0, seed=1),
        grid(plain_view(1, 20, 30), 0.1, seed=2),
    ],
    "of 60": lambda: [grid(plain_view(1, 1 + n, 60 - n), 0.3 + n / 10 % 2, (1, 10, 16)[n % 3], n) for n in range(60)],
    "of sixteen-bit levels": lambda: [
        integers(plain_view(1, 40, 9), 5),
        constant(plain_view(1, 3, 3), 32767),
        constant(plain_view(1, 3, 3), -32768),
    ],
    "of rows that differ": lambda: [_rows_differ(1), grid(plain_view(1, 20, 30)), _rows_differ(2, 30)],
    "of a trellis": lambda: [trellis(plain_view(1, 7, 9))],
    "of trellises among others": lambda: [
        grid(plain_view(1, 9, 7)),
        trellis(plain_view(2, 33, 11), 1.5),
        codebook(plain_view(2, 3, 5), 5),
        _rows_differ(3, 25, 2),
        trellis(plain_view(1, 40, 13), 40.0, 10, column=True),
        _trellis_of(_outliers()),
        integers(plain_view(1, 8, 9), 3),
        trellis(RANK0),
    ],
    "of mapped": lambda: [
        mapped(plain_view(2, 10, 20), 3, 5),
        mapped(plain_view(1, 10, 20), 1, 5, 10, row_scale=True),
        mapped(plain_view(2, 33, 4), 17, 9, row_scale=True),
    ],
    "of constants": lambda: [constant(plain_view(1, 5, 5), n, 3) for n in (-128, 0, 127)],
    "of float16 and bfloat16": lambda: [
        grid(plain_view(1, 9, 9), dtype=10),
        grid(plain_view(1, 9, 9), dtype=16, column=True),
        grid(plain_view(1, 9, 9), block=4),
    ],
}
"""Lists of members by name, for `writer.write_pool`."""


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


def _bits(seed: int, shape: tuple[int, ...], dtype: int) -> NDArray:
    """Bits of normal values, of awkward ones too; for integers, of a ramp."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 0.05
    if dtype in (6, 7, 12, 13, 3):
        kind = {6: "<i4", 7: "<i8", 12: "<u4", 13: "<u8", 3: "i1"}[dtype]
        array = (np.cumsum(rng.integers(0, 9, shape), axis=-1) * (dtype != 3) + rng.integers(0, 100, shape)).astype(kind)
        return array.view(f"<u{array.itemsize}")
    if dtype in (17, 18, 19, 20, 2):
        return np.clip(rng.normal(70, 12, shape), 0, 255).astype(np.uint8) | (rng.integers(0, 2, shape) << 7).astype(np.uint8)
    array = {1: lambda: values.astype("<f4").view("<u4"), 11: lambda: values.view("<u8"), 10: lambda: values.astype("<f2").view("<u2"),
             16: lambda: (values.astype("<f4").view("<u4") >> 16).astype("<u2")}[dtype]()  # fmt: skip
    special = {1: [0x7FC12345, 0xFF800000, 0x80000000, 1, 0x7F800001], 11: [0x7FF8000000001234, 1 << 63, 1, 0], 10: [0x7E01, 0xFC00, 0x8000, 1], 16: [0x7FC1, 0xFF80, 0x8000, 1]}
    flat = array.reshape(-1)
    flat[: len(special[dtype])] = special[dtype][: flat.size]
    return array


def _planes(dtype: int, shape: tuple[int, ...], turned: bool = False, change: Callable[[NDArray], None] | None = None, gathered: bool = False) -> bytes:
    bits = _bits(sum(shape) + dtype, shape, dtype)
    if change:
        change(bits)
    order = (*range(1, len(shape)), 0) if turned else tuple(range(len(shape)))
    view = View(shape, order, 1, int(np.prod(shape[1:])) if turned else shape[0])
    return b"".join(write_planes(bits, dtype, (view,), gathered))


def _short(bits: NDArray) -> None:
    """Two rows of three end with thirteen zeros."""
    bits[np.arange(len(bits)) % 3 > 0] &= bits.dtype.type(0xFFFFE000)


def _dropped(bits: NDArray) -> None:
    bits &= bits.dtype.type(0xFFFFFC00)


def _louder(bits: NDArray) -> None:
    """The second half of the columns is 32 times as large, where it is finite."""
    half = bits[:, bits.shape[1] // 2 :]
    half[(half & 0x7F80) < 0x7000] += np.uint16(5 << 7)


PLANES: dict[str, Callable[[], bytes]] = {
    **{f"planes of dtype {dtype}": (lambda dtype=dtype: _planes(dtype, (70, 21))) for dtype in (1, 2, 3, 6, 7, 10, 11, 12, 13, 16, 17, 18, 19, 20)},
    **{f"turned planes of dtype {dtype}": (lambda dtype=dtype: _planes(dtype, (9, 5, 17), True)) for dtype in (1, 10, 16, 11, 7)},
    "planes, short rows": lambda: _planes(1, (140, 9), change=_short),
    "planes, short rows, turned": lambda: _planes(1, (11, 67), True, _short),
    "planes, dropped bits": lambda: _planes(1, (66, 8), change=_dropped),
    "planes of four panels": lambda: _planes(16, (600, 230)),
    "planes, gathered": lambda: _planes(1, (300, 12), gathered=True),
    "small planes": lambda: _planes(1, (66, 4)),
    "small planes, short rows, turned": lambda: _planes(1, (5, 67), True, _short),
    "planes of one value": lambda: _planes(1, (1, 1)),
    **{f"planes with cuts of dtype {dtype}": (lambda dtype=dtype: _planes(dtype, (72, 30))) for dtype in (1, 16)},
    "planes with cuts, turned": lambda: _planes(16, (30, 9, 8), True),
    "planes with cuts, short rows": lambda: _planes(1, (144, 20), change=_short),
    "planes with cuts, gathered": lambda: _planes(10, (140, 24), gathered=True),
    "planes with cuts of several tables": lambda: _planes(16, (72, 60), change=_louder),
    "small planes with cuts": lambda: _planes(16, (16, 70)),
}


def every_payload() -> dict[str, bytes]:
    """All of the above as bytes, by name; the writer's also as a Gather reads them."""
    found = {f"written: {name}": writer.write(make()) for name, make in WRITTEN.items()}
    found["gathered"] = writer.write(grid(plain_view(1, 641, 20)), gathered=True)
    found |= {f"pool: {name}": writer.write_pool(make()) for name, make in POOLS.items()}
    found |= {f"planes: {name}": make() for name, make in PLANES.items()}
    return found | {f"assembled: {name}": make().bytes() for name, make in ASSEMBLED.items()}
