"""The encoder of Planes: what it counts, and that neither stripes nor the order of axes in memory change a byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.optimizer.lossless_source import HASHED_BYTES, Source
from onnx_compress.passes import class_plan, planes, top_counts
from onnx_compress.passes.exact_forms import few_values, grid, sparse_mask
from onnx_compress.passes.top_counts import ClassValues, stripes
from onnx_compress.runtime import library
from onnx_compress.runtime.form import View

DTYPES = {1: np.uint32, 10: np.uint16, 11: np.uint64, 16: np.uint16}


def floats(dims: tuple[int, ...], dtype: int, seed: int = 0) -> NDArray:
    """The bits of normal values of spreads that differ by column, with a few that are far larger."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=dims) * np.exp(rng.normal(size=dims[-1]))
    values.reshape(-1)[::997] *= 1e6
    wide = {1: np.float32, 10: np.float16, 11: np.float64, 16: np.float32}[dtype]
    with np.errstate(over="ignore"):
        bits = values.astype(wide).view(f"u{np.dtype(wide).itemsize}")
    return (bits >> 16).astype(np.uint16) if dtype == 16 else bits


def decoded(pieces: Iterable[bytes], bits: NDArray) -> NDArray:
    """What the operator library makes of a payload, with its checksums."""
    return library.decode(b"".join(pieces), np.empty(bits.nbytes, np.uint8)).view(bits.dtype).reshape(bits.shape)


@pytest.mark.parametrize("dims", [(130, 70), (64, 33), (7, 300), (600, 129), (1, 5000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_order_of_axes_decodes_to_the_same_bits(dims: tuple[int, int], dtype: int) -> None:
    """Rows of any number, beside blocks of 64 lanes and steps, both as they lie in memory and turned."""
    bits = floats(dims, dtype)
    for view in (View(dims, (0, 1), 1, dims[0]), View(dims, (1, 0), 1, dims[1])):
        assert np.array_equal(decoded(planes.write_planes(bits, dtype, (view,)), bits), bits)


def test_a_payload_does_not_depend_on_how_its_words_lie_in_memory() -> None:
    bits = floats((260, 96), 1)
    turned = planes.write_planes(np.ascontiguousarray(bits.T), 1, (View((96, 260), (1, 0), 1, 260),))
    plain = planes.write_planes(bits, 1, (View((260, 96), (0, 1), 1, 260),))
    assert b"".join(turned[1:]) == b"".join(plain[1:])  # the headers name the axes


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_that_end_with_zeros_are_short_in_either_order(batch: int) -> None:
    bits = floats((batch, 200, 50), 1)
    bits[:, ::3] &= np.uint32(0xFFFFE000)
    for permutation in ((0, 1, 2), (0, 2, 1)):
        view = View(bits.shape, permutation, batch, bits.shape[permutation[1]])
        pieces = planes.write_planes(bits, 1, (view,))
        assert np.array_equal(decoded(pieces, bits), bits)
    short = planes.write_planes(bits, 1, (View(bits.shape, (0, 1, 2), batch, 200),))
    assert sum(map(len, short)) < sum(map(len, pieces)) - bits.size // 3  # 13 zero bits, 12 beside the top one of the mantissa


@pytest.mark.parametrize("turned", [False, True])
def test_stripes_count_what_the_whole_has(monkeypatch: pytest.MonkeyPatch, turned: bool) -> None:
    rng = np.random.default_rng(3)
    tops = rng.integers(5, 25, (2, 300, 200)).astype(np.uint8)
    held = tops.transpose(0, 2, 1).copy().transpose(0, 2, 1) if turned else tops
    of_column = rng.integers(0, 3, 200).astype(np.uint8)
    monkeypatch.setattr(top_counts, "STRIPE", 1 << 14)
    assert len(list(stripes(held))) > 2
    values = ClassValues(held, 5, 20, map)
    units, columns = values.by_unit_and_column(64)
    joint = values.by_unit_and_class(64, of_column)
    for number in range(10):
        own = tops[number // 5, number % 5 * 64 : (number % 5 + 1) * 64]
        assert np.array_equal(units[number], np.bincount(own.reshape(-1), minlength=25)[5:])
        for one in range(3):
            assert np.array_equal(joint[number, one], np.bincount(own[:, of_column == one].reshape(-1), minlength=25)[5:])
    for column in range(200):
        assert np.array_equal(columns[column], np.bincount(tops[:, :, column].reshape(-1), minlength=25)[5:])


def test_stripes_on_threads_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = floats((640, 300), 16)
    views = (View((640, 300), (0, 1), 1, 640), View((640, 300), (1, 0), 1, 300))
    whole = planes.write_planes(bits, 16, views)
    monkeypatch.setattr(top_counts, "STRIPE", 1 << 14)
    with ThreadPoolExecutor(3) as pool:
        work: Callable[..., Any] = pool.map
        assert planes.write_planes(bits, 16, views, work=work) == whole


def test_columns_of_unlike_spread_get_tables_of_their_own() -> None:
    """Two kinds of columns are two clusters, and which is which is found."""
    rng = np.random.default_rng(4)
    kinds = rng.integers(0, 2, 96)
    tops = (rng.binomial(12, 0.5, (1, 512, 96)) + 20 * kinds).astype(np.uint8)
    coding = class_plan.plan_classes(ClassValues(tops, int(tops.min()), int(np.ptp(tops)) + 1, map)).coding()
    assert coding.column_class is not None
    assert len(np.unique(coding.column_class)) == 2
    assert len({(int(kind), int(one)) for kind, one in zip(kinds, coding.column_class, strict=True)}) == 2


def test_forms_are_refused_where_a_few_values_tell() -> None:
    """Noise is no codebook, no mask and no grid; what has these structures in its first rows only is none either."""
    noise = floats((1, 300, 64), 1)
    assert few_values(noise, 1) is None
    assert sparse_mask(noise, 1) is None
    assert grid(noise) is None
    almost = np.arange(300 * 64, dtype=np.float32).reshape(1, 300, 64) % 7
    almost[0, -1, -1] = np.pi
    assert grid(almost.view(np.uint32)) is None
    almost[0, -1, -1] = 3
    assert grid(almost.view(np.uint32)) is not None


def test_a_file_is_hashed_in_blocks(tmp_path: Path) -> None:
    content = np.random.default_rng(5).bytes(2 * HASHED_BYTES + 77)
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    with Source(path) as held:
        assert held.sha256("") == hashlib.sha256(content).digest()
