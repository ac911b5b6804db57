"""Members and payloads of every form and awkward shape, from seeds: the material of the recovery, agreement, stability and corruption tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx_compress.passes import writer
from onnx_compress.passes.planes import write_planes
from onnx_compress.runtime.form import Dense, Grid, Member, Symbols, View

from tests.assembled import ASSEMBLED
from tests.forms import BITS, LOW_HIGH, _trellis_of, codebook, constant, dense, grid, integers, laplace, mapped, plain_view, sparse, trellis

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
