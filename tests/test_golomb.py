"""Golomb codes: what packs must unpack, and what a code costs is what is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_compress.passes import golomb
from onnx_compress.passes.golomb import MODULI

LEVELS = st.lists(st.integers(-300, 300), min_size=1, max_size=200).map(lambda levels: np.array(levels, np.int32))


@pytest.mark.parametrize("base", [2, 3, 4, 6, 9, 16, 32, 200, 256])
def test_words_hold_the_digits_in_the_order_that_division_takes_them_out(base: int) -> None:
    words = golomb.packing(base)
    digits = np.random.default_rng(base).integers(0, base, 1001)
    packed = words.pack(digits)
    assert packed.dtype.itemsize == words.word_bytes
    apart = packed.astype(np.int64) // words.powers % base
    assert np.array_equal(apart.reshape(-1)[:1001], digits)
    assert not apart.reshape(-1)[1001:].any()
    assert np.log2(base) <= words.bits <= 1.09 * np.log2(base) + 1e-9


@given(LEVELS)
def test_a_level_follows_from_u_as_the_nodes_compute_it(levels: np.ndarray) -> None:
    u = golomb.unsigned(levels)
    half, upper = u // 2, (u + 1) // 2
    assert (u >= 0).all()
    assert np.array_equal((upper - half) * u - half, levels)


@given(LEVELS)
def test_the_places_of_ones_give_the_quotients(levels: np.ndarray) -> None:
    quotients = golomb.unsigned(levels) // 3
    bits = np.unpackbits(golomb.unary(quotients).reshape(-1), bitorder="little")
    ones = np.flatnonzero(bits)
    assert np.array_equal(np.diff(ones, prepend=-1) - 1, quotients)


@given(LEVELS)
def test_bits_are_counted_as_they_are_written(levels: np.ndarray) -> None:
    counted = golomb.coded_bits(levels)
    u = golomb.unsigned(levels)
    for modulus, bits in zip(MODULI, counted, strict=True):
        written = 8 * golomb.unary(u // modulus).size
        words = 8 * golomb.packing(modulus).pack(u % modulus).nbytes if modulus > 1 else 0
        assert 0 <= written + words - bits < 8 + 32


def test_levels_beyond_what_is_counted_one_by_one_count_too() -> None:
    levels = np.array([0, 1, -70_000], np.int32)
    assert golomb.coded_bits(levels)[0] == pytest.approx(3 + 1 + 140_000)


@pytest.mark.parametrize("step", [1.0, 0.5, 0.2])
@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_codes_are_near_the_entropy(step: float, law: str) -> None:
    levels = np.rint(getattr(np.random.default_rng(0), law)(0, 1, 100_000) / step).astype(np.int32)
    share = np.unique(levels, return_counts=True)[1] / levels.size
    assert golomb.coded_bits(levels).min() / levels.size < -(share * np.log2(share)).sum() + 0.2


def test_a_modulus_of_its_own_must_pay() -> None:
    bits = np.full((3, len(MODULI)), 10_000.0)
    bits[0, 1], bits[1, 2], bits[2, 2] = 5000.0, 5000.0, 5000.0
    bits[0, 2] = 5100.0
    assert golomb.moduli(bits, each_bits=50.0) == [MODULI[1], MODULI[2], MODULI[2]]
    assert golomb.moduli(bits, each_bits=500.0) == [MODULI[2]] * 3
