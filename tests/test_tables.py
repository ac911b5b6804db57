"""Tables: legal whatever the counts, nearly the cheapest, shared only where that saves bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_compress.passes import tables
from onnx_compress.runtime import trellis

QUICK = settings(max_examples=200, deadline=None, derandomize=True)
COUNTS = st.lists(st.one_of(st.just(0.0), st.integers(0, 10**9).map(float)), min_size=1, max_size=16)


@QUICK
@given(COUNTS)
def test_frequencies_sum_to_256_and_no_used_class_has_none(counts: list[float]) -> None:
    frequencies = np.zeros(len(counts), np.int64)
    bits = tables.normalize(np.array(counts), frequencies)
    assert frequencies.sum() == 256
    assert frequencies.min() >= 0
    assert all(frequency >= 1 for frequency, count in zip(frequencies, counts, strict=True) if count)
    used = np.array(counts) > 0
    assert bits == pytest.approx(-(np.array(counts)[used] * np.log2(frequencies[used] / 256)).sum(), abs=1e-6)


def test_frequencies_are_within_a_thousandth_of_the_best_of_all_for_three_classes() -> None:
    for seed in range(20):
        counts = np.random.default_rng(seed).integers(1, 5000, 3).astype(float)
        frequencies = np.zeros(3, np.int64)
        bits = tables.normalize(counts, frequencies)
        best = min(-(counts * np.log2(np.array([a, b, 256 - a - b]) / 256)).sum() for a in range(1, 255) for b in range(1, 256 - a))
        assert bits <= best * 1.001


@QUICK
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=256).filter(any), st.integers(-300, 300))
def test_a_fitted_table_is_legal_and_codes_every_value(counts: list[int], low: int) -> None:
    bits, table = tables.fit_table(np.array(counts, float), low)
    assert np.isfinite(bits)
    assert 1 <= len(table.frequencies) <= 16
    assert sum(table.frequencies) == 256
    assert min(table.frequencies) >= 0
    assert table.frequencies[-1] >= 1
    plain = table.frequencies[: len(table.frequencies) - table.escape]
    for value, count in enumerate(counts, low):
        coded = 0 <= value - table.first < len(plain) and plain[value - table.first] > 0
        assert not count or coded or table.escape


def test_bits_of_tables_are_known_before_these_are_made() -> None:
    rng = np.random.default_rng(8)
    for rows, columns in ((1, 1), (3, 1), (1, 5), (2, 4)):
        cells = rng.poisson(rng.exponential(50, (rows, columns, 24))).astype(float)
        classes = [None if many == 1 else rng.permutation(np.arange(70) % many).astype(np.uint8) for many in (rows, columns)]
        assert tables.coding_bits(cells, *classes) == pytest.approx(tables.coding(cells[:, :, None], *classes).bits)


@QUICK
@given(st.integers(-32768, 65535), st.integers(1, 3000), st.integers(0, 99))
def test_a_plan_keeps_its_classes_within_the_ranges_of_the_page(low: int, width: int, seed: int) -> None:
    levels = np.random.default_rng(seed).integers(low, min(low + width, 65536), (1, 3, 50)).astype(np.int32)
    plan = tables.plan(levels)
    assert plan is not None
    assert -32768 <= plan.escape_base <= 32767
    assert 0 <= plan.raw_bits <= 8
    assert all(-32768 <= table.first <= 32767 for table in plan.tables)
    classes = (levels + ((1 << plan.raw_bits) >> 1)) >> plan.raw_bits
    assert classes.min() - plan.escape_base >= 0
    assert classes.max() - plan.escape_base <= 255


def test_levels_beyond_sixteen_bits_have_an_infinite_rate_and_no_plan() -> None:
    levels = np.array([[[-40000, 0, 40000]]], np.int32)
    assert tables.rate(*tables.histogram(levels))[0] == np.inf
    assert tables.plan(levels) is None


def test_raw_bits_grow_with_the_spread() -> None:
    raws = [
        tables.rate(*tables.histogram(np.rint(np.random.default_rng(0).normal(0, 3.0 * 2**n, 20000)).astype(np.int32)))[1] for n in range(9)
    ]
    assert raws == sorted(raws)
    assert raws[0] <= 1
    assert raws[-1] >= 7


def test_wide_raw_bits_are_found_where_few_ones_are_impossible() -> None:
    levels = np.repeat(np.array([-30000, 30000], np.int32), 500)
    bits, raw = tables.rate(*tables.histogram(levels))
    assert np.isfinite(bits)
    assert raw == 8


def total_bits(codings: list[tuple[NDArray[np.float64], int, int]]) -> float:
    return sum(tables.fit_table(counts, low)[0] for counts, low, _ in codings)


def shared_bits(codings: list[tuple[NDArray[np.float64], int, int]]) -> float:
    """Bits of all members under the tables that `share` gives, counted anew."""
    found, owners = tables.share(codings)
    bits = sum(8.0 * (len(table.frequencies) + 1) for table in found)
    for (counts, low, _), owner in zip(codings, owners, strict=True):
        table = found[owner]
        plain = len(table.frequencies) - table.escape
        for value, count in enumerate(counts, low):
            index = value - table.first
            inside = 0 <= index < plain and table.frequencies[index]
            assert not count or inside or table.escape
            if count:
                bits += count * (8 - np.log2(table.frequencies[index])) if inside else count * (16 - np.log2(table.frequencies[-1]))
    return bits


def random_codings(seed: int, many: int) -> list[tuple[NDArray[np.float64], int, int]]:
    random = np.random.default_rng(seed)
    codings = []
    for _ in range(many):
        levels = np.rint(random.laplace(random.normal(0, 1), random.choice([0.3, 1.0, 1.1, 3.0]), random.integers(5, 400))).astype(np.int32)
        codings.append((*tables.histogram(levels), int(random.integers(0, 3))))
    return codings


@pytest.mark.parametrize("seed", range(12))
def test_sharing_never_increases_the_total(seed: int) -> None:
    codings = random_codings(seed, 1 + 2 * seed)
    assert shared_bits(codings) <= total_bits(codings) + 1e-6


def test_equal_members_share_one_table() -> None:
    codings = random_codings(3, 1) * 10
    found, owners = tables.share(codings)
    assert len(found) == 1
    assert owners == [0] * 10


def test_sharing_is_the_same_on_every_run() -> None:
    assert tables.share(random_codings(5, 20)) == tables.share(random_codings(5, 20))


def test_at_most_256_tables_are_made() -> None:
    codings = []
    for number in range(270):
        counts = np.zeros(256)
        counts[(number * 7) % 256], counts[(number * 7 + 3 + number // 256) % 256] = 1e4 + number, 1e4
        codings.append((counts, -128, 0))
    found, owners = tables.share(codings)
    assert len(found) <= 256
    assert max(owners) < len(found)


def test_planning_is_the_same_on_every_run() -> None:
    levels = np.rint(np.random.default_rng(0).laplace(0, 2, (2, 200, 50))).astype(np.int32)
    one, other = tables.plan(levels), tables.plan(levels)
    assert one is not None
    assert other is not None
    assert (one.raw_bits, one.tables, one.bits) == (other.raw_bits, other.tables, other.bits)


def laplacian(spread: NDArray, shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.int32]:
    return np.rint(np.random.default_rng(seed).laplace(0, 1, shape) * spread).astype(np.int32)


def cost(coding: tables.Coding, levels: NDArray[np.int32], quantizers: NDArray | None, pooled: bool) -> float:
    """Bits of the symbols of levels without raw bits under a coding, counted anew symbol by symbol."""
    assert coding.raw_bits == 0
    bits = 0.0
    for (batch, row, column), level in np.ndenumerate(levels):
        unit = batch * levels.shape[1] + row if pooled else batch * -(-levels.shape[1] // 64) + row // 64
        rows = 0 if coding.row_class is None else coding.row_class[unit]
        columns = 0 if coding.column_class is None else coding.column_class[column]
        table = coding.tables[coding.map[rows, columns, 0 if quantizers is None else quantizers[batch, row, column]]]
        index = level - table.first
        plain = 0 <= index < len(table.frequencies) - table.escape and table.frequencies[index] > 0
        bits += 8 - np.log2(table.frequencies[index]) if plain else 16 - np.log2(table.frequencies[-1])
    return bits


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("trellised", [False, True])
def test_a_plan_counts_the_bits_of_its_symbols_tables_map_and_classes(pooled: bool, trellised: bool) -> None:
    rows = np.repeat([0.4, 1.5, 0.4, 3.0], 64)[None, :, None]
    levels = laplacian(rows * np.resize([0.5, 2.0], 40), (2, 256, 40))
    quantizers = trellis.quantizers(levels) if trellised else None
    coding = tables.plan(levels, quantizers, pooled)
    assert coding is not None
    assert coding.map.shape[0] > 1
    assert coding.map.shape[1] > 1
    assert coding.map.shape[2] == 1 + trellised
    rest = 8.0 * coding.map.size + sum(8.0 * (len(table.frequencies) + 1) for table in coding.tables)
    for classes, axis in ((coding.row_class, 0), (coding.column_class, 1)):
        assert classes is not None
        rest += 8 * -(-len(classes) * (coding.map.shape[axis] - 1).bit_length() // 8)
    assert coding.bits == pytest.approx(cost(coding, levels, quantizers, pooled) + rest)
    assert coding.bits < tables.plan(levels, quantizers, pooled, effort=0).bits * 0.95  # type: ignore[union-attr]


def test_effort_0_has_one_class_of_rows_and_columns() -> None:
    levels = laplacian(np.repeat([0.2, 5.0], 64)[None, :, None], (1, 128, 300))
    coding = tables.plan(levels, effort=0)
    assert coding is not None
    assert coding.map.shape == (1, 1, 1)
    assert coding.row_class is None
    assert coding.column_class is None


def test_quantizers_of_different_laws_get_tables_of_their_own_and_of_the_same_law_share_one() -> None:
    quantizers = np.random.default_rng(1).integers(0, 2, (1, 64, 500)).astype(np.uint8)
    same = laplacian(np.ones(1), (1, 64, 500))
    different = np.where(quantizers == 1, same * 3, same)
    assert [len(tables.plan(levels, quantizers).tables) for levels in (same, different)] == [1, 2]  # type: ignore[union-attr]


def test_uniform_weights_get_no_classes() -> None:
    for pooled in (False, True):
        coding = tables.plan(laplacian(np.ones(1), (1, 130, 50)), pooled=pooled)
        assert coding is not None
        assert coding.map.shape == (1, 1, 1)


def test_row_classes_of_a_pool_pay_for_themselves_where_rows_differ() -> None:
    sizes = []
    for spread in (0.0, 0.8):
        rows = [np.exp(np.random.default_rng(n).normal(0, spread, (1, 64, 1))) for n in range(12)]
        weights = [laplacian(row, (1, 64, 50), n) for n, row in enumerate(rows)]
        one = sum(tables.plan(levels, pooled=True, effort=0).bits for levels in weights)  # type: ignore[union-attr]
        sizes.append(sum(tables.plan(levels, pooled=True).bits for levels in weights) / one)  # type: ignore[union-attr]
    assert sizes[0] == pytest.approx(1)
    assert sizes[1] < 0.96
