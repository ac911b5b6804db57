"""Forms of weights with made-up values, for payloads and streams."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from onnx_compress.runtime.form import Codebook, Dense, Grid, Mapped, Member, Sparse, Symbols, View

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
