"""The encoder of Planes: what it counts, and that neither stripes nor the order of axes in memory change a byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.passes import class_plan, plane_kernels, planes, top_counts
from onnx_compress.passes.cuts import choose
from onnx_compress.passes.exact_forms import few_values, grid, sparse_mask
from onnx_compress.passes.surveys import surveys
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


def test_logarithms_of_shares_are_exact_for_powers_of_two_and_near_for_all_others() -> None:
    shares = np.concatenate([2.0 ** -np.arange(17.0), np.random.default_rng(3).uniform(2.0**-16, 1, 10_000), np.geomspace(2.0**-16, 1, 10_000)]).astype(np.float32)
    class_plan.take_logarithms(found := shares.copy())
    assert np.array_equal(found[:17], -np.arange(17))
    assert np.abs(found - np.log2(shares.astype(np.float64))).max() < 2e-5


def test_units_that_clusters_are_not_learned_from_get_the_better_one() -> None:
    """Two kinds of columns, of which only every other one is looked at first."""
    rng = np.random.default_rng(6)
    kinds = rng.integers(0, 2, 2 * class_plan.LEARNED)
    tops = (rng.binomial(12, 0.5, (1, 64, len(kinds))) + 20 * kinds).astype(np.uint8)
    coding = class_plan.plan_classes(ClassValues(tops, int(tops.min()), int(np.ptp(tops)) + 1, map)).coding()
    assert coding.column_class is not None
    assert len({(int(kind), int(one)) for kind, one in zip(kinds, coding.column_class, strict=True)}) == 2


def test_class_values_that_nothing_has_above_zero_are_not_counted_but_kept_in_tables() -> None:
    """Exact zeros and weights: 100 octaves lie between them."""
    bits = floats((1, 128, 80), 1)
    bits[0, ::7, ::3] = 0
    ((survey,), octaves) = surveys([bits], (23, 255), map), (bits >> 23) & 255
    least = int(octaves[octaves > 0].min())
    assert (survey.tops.low, survey.tops.gap, survey.tops.high) == (0, least - 1, int(octaves.max()))
    units, columns = survey.tops.by_unit_and_column(64)
    expected = np.stack([np.bincount(octaves[0, :, column], minlength=256)[: survey.tops.high + 1] for column in range(80)])
    assert np.array_equal(survey.tops.spread(columns), expected)
    assert np.array_equal(survey.tops.spread(units).sum(0), expected.sum(0))
    assert np.array_equal(survey.unions, np.bitwise_or.reduce(bits, 2))
    assert np.array_equal(decoded(planes.write_planes(bits[0], 1, (View((128, 80), (0, 1), 1, 128),)), bits[0]), bits[0])


def test_views_of_the_same_words_share_what_is_counted() -> None:
    bits = floats((1, 300, 130), 16)
    turned = bits.transpose(0, 2, 1)
    for together, alone in zip(surveys([bits, turned], (7, 255), map), (*surveys([bits], (7, 255), map), *surveys([turned], (7, 255), map)), strict=True):
        assert together.tops.fine is not None
        assert alone.tops.fine is None
        for one, other in zip(together.tops.by_unit_and_column(64), alone.tops.by_unit_and_column(64), strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(together.unions, alone.unions)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_zeros_at_the_ends_of_words_are_counted_up_to_a_number(dtype: type[np.unsignedinteger]) -> None:
    words = np.array([0, 1, 2, 8, 6, 1 << 7, np.iinfo(dtype).max - 3, 1 << (np.iinfo(dtype).bits - 1)], dtype)
    assert plane_kernels.zeros_at_end(words, 7).tolist() == [7, 0, 1, 3, 1, 7, 2, 7]


def test_halves_are_counted_by_table_in_lines_evenly_spaced() -> None:
    words = floats((200, 90), 1)
    by_panel = np.random.default_rng(7).integers(0, 3, (4, 90)).astype(np.uint8)
    halves, table_of = (words >> 22) & 511, by_panel[np.arange(200) // 64]
    for apart in (1, 3):
        for turned, some in ((False, np.s_[::apart]), (True, np.s_[:, ::apart])):
            counts, expected = np.zeros((2, 3, 512), np.int64)
            plane_kernels.count_halves(np.ascontiguousarray(words.T) if turned else words, turned, (22, 511, apart), by_panel, counts)
            np.add.at(expected, (table_of[some], halves[some]), 1)
            assert np.array_equal(counts, expected)


def test_a_cut_is_the_share_of_the_lower_half_and_must_pay() -> None:
    counts, index = np.zeros((2, 20, 2), np.int64), np.zeros((2, 20), np.uint8)
    index[:, 4:] = np.minimum(np.arange(16), 5)
    counts[0, 6], counts[0, 7], counts[0, 11] = (30000, 10000), (5, 5), (500, 1500)  # the last is one of those from class 5 on
    cuts, saved = choose(counts, index, 0.5)
    assert cuts[0].tolist() == [128, 128, 192, 128, 128, 64, *[128] * 10]
    assert (cuts[1] == 128).all()
    ideal = 2 * (40000 * (1 - 0.8113) + 2000 * (1 - 0.8113))
    assert saved == pytest.approx(ideal - 8 * (2 + 4), rel=1e-3)


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


@pytest.mark.parametrize("columns", [256, 100])
def test_a_mask_is_found_where_whole_columns_are_zero(columns: int) -> None:
    """The one that a sample begins with is not."""
    bits = floats((1, 1 << 13, columns), 1)
    bits[:, :, 1:] = 0
    mask = sparse_mask(bits, 1)
    assert mask is not None
    assert np.array_equal(mask, bits != 0)
