"""The entropy coder: close to the ideal, exactly as large as the rate says, and the same on every run."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_compress.passes import tables, writer
from onnx_compress.passes.entropy import encode
from onnx_compress.runtime.form import Grid, Member, Symbols, Table
from onnx_compress.runtime.header import read_header

from tests.forms import dense, grid, plain_view

ROWS, COLUMNS = 256, 1024
OVERHEAD = 1.015
ONE_HEAD_BYTES = 2
LAWS = ("laplace", "normal")


def levels_of(law: str, bits: float) -> NDArray[np.int32]:
    """Levels whose ideal entropy is about `bits`, found by bisection over the spread."""
    draw = np.random.default_rng(1)
    base = draw.laplace(0, 1, (1, ROWS, COLUMNS)) if law == "laplace" else draw.normal(0, 1, (1, ROWS, COLUMNS))
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if entropy_bits(np.rint(base * middle)) < bits * base.size else (low, middle)
    return np.rint(base * low).astype(np.int32)


def entropy_bits(levels: NDArray) -> float:
    """The ideal size of independent symbols."""
    counts = np.unique(levels, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def member(levels: NDArray[np.int32]) -> Member:
    return Member(1, plain_view(*levels.shape), Grid(dense(np.array([0.1])), Symbols(levels)))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("bits", [0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0])
def test_the_coded_size_is_within_a_hundredth_and_a_half_of_the_entropy_beside_the_heads(law: str, bits: float) -> None:
    levels = levels_of(law, bits)
    data = writer.write(member(levels))
    heads = sum(ONE_HEAD_BYTES * chunk.lanes for chunk in read_header(np.frombuffer(data, np.uint8)).chunks)
    assert len(data) - heads < OVERHEAD * entropy_bits(levels) / 8 + 64


def test_heads_are_a_small_share_of_a_large_weight() -> None:
    levels = levels_of("laplace", 2.0)
    data = writer.write(member(levels))
    heads = sum(ONE_HEAD_BYTES * chunk.lanes for chunk in read_header(np.frombuffer(data, np.uint8)).chunks)
    assert heads < 0.01 * len(data)


def test_a_constant_costs_no_bits_a_symbol() -> None:
    data = writer.write(member(np.full((1, 1024, 1024), 3, np.int32)))
    header = read_header(np.frombuffer(data, np.uint8))
    assert all(chunk.rans_bytes == 0 for chunk in header.chunks)
    assert len(data) < 64 + 600 * len(header.chunks)


@pytest.mark.parametrize("spread", [0.2, 1.0, 7.0, 60.0, 900.0])
def test_the_rate_equals_the_written_bits_within_a_hundredth(spread: float) -> None:
    levels = np.rint(np.random.default_rng(3).laplace(0, spread, (1, 256, 512))).astype(np.int32)
    bits, _ = tables.rate(*tables.histogram(levels))
    plan = tables.plan(levels, effort=0)
    assert plan is not None
    data = writer.write(member(levels))
    header = read_header(np.frombuffer(data, np.uint8))
    written = 8 * sum(chunk.size - ONE_HEAD_BYTES * chunk.lanes for chunk in header.chunks)
    assert plan.bits == pytest.approx(bits)
    assert written == pytest.approx(bits, rel=0.01, abs=8 * 40)


def test_a_plan_with_row_classes_equals_the_written_bits_within_a_hundredth() -> None:
    levels = np.concatenate([np.rint(np.random.default_rng(n).laplace(0, 0.3 * 3**n, (1, 64, 1024))) for n in range(4)], axis=1).astype(
        np.int32
    )
    plan = tables.plan(levels)
    assert plan is not None
    assert plan.row_class is not None
    data = writer.write(member(levels), gathered=True)
    header = read_header(np.frombuffer(data, np.uint8))
    written = 8 * sum(chunk.size - ONE_HEAD_BYTES * chunk.lanes for chunk in header.chunks)
    assert written == pytest.approx(plan.bits, rel=0.01)
    assert plan.bits < tables.rate(*tables.histogram(levels))[0]


def test_a_pool_costs_about_the_entropy_of_its_members() -> None:
    members = [grid(plain_view(1, 32, 32), 1.0 + n % 3, seed=n) for n in range(40)]
    data = writer.write_pool(members)
    ideal = sum(entropy_bits(np.asarray(one.symbols.levels)) for one in members) / 8
    scales = sum(one.view.rows for one in members)
    assert len(data) < 1.05 * ideal + scales + 40 * 20


def test_a_class_of_frequency_one_is_coded_and_costs_eight_bits() -> None:
    table = Table(0, (255, 1))
    classes = np.zeros(64, np.uint8)
    classes[::2] = 1
    stream = encode((table,), np.zeros(64, np.uint8), classes, np.full(64, 1))
    assert len(stream.rans) == pytest.approx(32, abs=2)


def test_the_same_symbols_give_the_same_stream() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, 5000).astype(np.uint8)
    tables_used = (Table(0, (100, 100, 56)), Table(0, (1, 254, 1)))
    numbers = random.integers(0, 2, 5000).astype(np.uint8)
    one, other = (encode(tables_used, numbers, classes, np.full(100, 50)) for _ in range(2))
    assert one.rans.tobytes() == other.rans.tobytes()
    assert one.heads.tobytes() == other.heads.tobytes()


def test_heads_are_legal_states() -> None:
    random = np.random.default_rng(0)
    stream = encode((Table(0, (1, 255)),), np.zeros(9999, np.uint8), random.integers(0, 2, 9999).astype(np.uint8), np.full(99, 101))
    assert stream.heads.min() >= 256
    assert len(stream.heads) == 101
