"""Recovery: what the writer writes, the reader and a decoder written from FORMAT.md alone read back, for every form and awkward shape."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_compress.passes import writer
from onnx_compress.runtime.evaluate import member_array
from onnx_compress.runtime.form import Codebook, Dense, Grid, Member, Sparse, Symbols, View
from onnx_compress.runtime.reader import read, read_header

from tests import stranger
from tests.assembled import ASSEMBLED, Assembled
from tests.forms import codebook, constant, dense, grid, integers, plain_view, sparse
from tests.payloads import POOLS, WRITTEN


def parsed(data: bytes) -> tuple[Member, ...]:
    return read(np.frombuffer(data, np.uint8)).members


def bits(array: NDArray) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def same_dense(a: Dense | None, b: Dense | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.kind == b.kind and a.exponent == b.exponent and np.array_equal(a.codes, b.codes)


def assert_same_member(found: Member, expected: Member) -> None:
    assert (found.dtype, found.view, type(found.form)) == (expected.dtype, expected.view, type(expected.form))
    np.testing.assert_array_equal(found.symbols.levels, expected.symbols.levels)
    match found.form, expected.form:
        case (Grid() as a, Grid() as b):
            assert a.block == b.block
            assert same_dense(a.scale, b.scale)
            assert same_dense(a.column_scale, b.column_scale)
        case (Codebook() as a, Codebook() as b):
            assert same_dense(a.centroids, b.centroids)
            assert same_dense(a.scale, b.scale)
        case (Sparse() as a, Sparse() as b):
            assert same_dense(a.values, b.values)
    assert bits(member_array(found)) == bits(member_array(expected))


def assert_recovered(data: bytes, expected: list[Member]) -> None:
    found = parsed(data)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same_member(one, other)


def assert_a_stranger_agrees(data: bytes) -> None:
    for array, member in zip(stranger.decode(data), parsed(data), strict=True):
        assert bits(array) == bits(member_array(member))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_member_is_read_back(name: str) -> None:
    member = WRITTEN[name]()
    assert_recovered(writer.write(member), [member])


@pytest.mark.parametrize("name", WRITTEN)
def test_a_gathered_payload_is_read_back_and_has_one_panel_side_by_side(name: str) -> None:
    member = WRITTEN[name]()
    data = writer.write(member, gathered=True)
    assert_recovered(data, [member])
    chunks = read_header(np.frombuffer(data, np.uint8)).chunks
    assert max(chunk.lanes for chunk in chunks) <= 64
    assert max(chunk.groups for chunk in chunks) <= 4


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_is_read_back(name: str) -> None:
    members = POOLS[name]()
    assert_recovered(writer.write_pool(members), members)


@pytest.mark.parametrize("name", ASSEMBLED)
def test_a_payload_assembled_by_hand_is_read_back(name: str) -> None:
    made: Assembled = ASSEMBLED[name]()
    assert_recovered(made.bytes(), list(made.payload.members))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_stranger_with_the_page_alone_decodes_a_member_to_the_same_bits(name: str) -> None:
    assert_a_stranger_agrees(writer.write(WRITTEN[name]()))


@pytest.mark.parametrize("name", POOLS)
def test_a_stranger_with_the_page_alone_decodes_a_pool_to_the_same_bits(name: str) -> None:
    assert_a_stranger_agrees(writer.write_pool(POOLS[name]()))


@pytest.mark.parametrize("name", ASSEMBLED)
def test_a_stranger_with_the_page_alone_decodes_assembled_bytes_to_the_same_bits(name: str) -> None:
    assert_a_stranger_agrees(ASSEMBLED[name]().bytes())


@pytest.mark.parametrize("raw_bits", range(9))
def test_levels_of_any_spread_are_read_back_with_up_to_eight_raw_bits(raw_bits: int) -> None:
    member = grid(plain_view(1, 70, 50), 3.0 * 2**raw_bits, seed=raw_bits)
    data = writer.write(member)
    assert_recovered(data, [member])
    (found,) = parsed(data)
    assert abs(found.symbols.raw_bits - raw_bits) <= 1


def test_the_spread_of_levels_decides_over_all_raw_bits() -> None:
    chosen = set()
    for power in range(12):
        (found,) = parsed(writer.write(grid(plain_view(1, 70, 50), 0.5 * 2**power, seed=power)))
        chosen.add(found.symbols.raw_bits)
    assert chosen == set(range(9))


def test_panels_of_different_spread_get_row_classes() -> None:
    (found,) = parsed(writer.write(WRITTEN["row classes"]()))
    assert found.symbols.row_class is not None
    assert len(set(found.symbols.row_class.tolist())) > 1


def test_rare_outliers_escape() -> None:
    data = np.frombuffer(writer.write(WRITTEN["outliers escape"]()), np.uint8)
    assert 3 <= sum(chunk.escapes for chunk in read_header(data).chunks) <= 20


def test_levels_beyond_sixteen_bits_are_refused() -> None:
    member = grid(plain_view(1, 3, 3))
    member.symbols.levels[0, 0] = (-40000, 0, 40000)  # type: ignore[index]
    with pytest.raises(ValueError, match="16 bits"):
        writer.write(member)


def test_pools_hold_at_most_65536_symbols_and_4096_members() -> None:
    for sizes in ([1] * 5000, [15000] * 6, [1, 16383] * 9):
        filled = writer.pools(sizes)
        assert sorted(itertools.chain(*filled)) == list(range(len(sizes)))
        assert all(len(pool) <= 4096 and sum(sizes[n] for n in pool) <= 65536 for pool in filled)


def test_a_small_weight_fills_what_an_earlier_pool_has_left() -> None:
    assert writer.pools([40000, 65536, 30000, 25536, 35536]) == [[0, 3], [1], [2, 4]]


@pytest.mark.parametrize("levels", [[-40000, 40000], [65535, 65535], [-32769, 0], [0, 32768]])
def test_pooled_levels_beyond_sixteen_bits_are_refused(levels: list[int]) -> None:
    member = constant(plain_view(1, 1, 2), 0)
    member.symbols.levels[...] = levels  # type: ignore[index]
    with pytest.raises(ValueError, match="16 bits"):
        writer.write_pool([member])


@pytest.mark.parametrize("levels", [[-32768, -32768], [32767, 32767], [-128, 32000], [127, 128]])
def test_pooled_levels_of_sixteen_bits_are_read_back(levels: list[int]) -> None:
    member = constant(plain_view(1, 1, 2), 0)
    member.symbols.levels[...] = levels  # type: ignore[index]
    assert_recovered(writer.write_pool([member]), [member])
    assert_a_stranger_agrees(writer.write_pool([member]))


@st.composite
def members(draw: st.DrawFn) -> Member:
    """Any member that the writer takes."""
    rank = draw(st.integers(0, 5))
    dims = tuple(draw(st.integers(1, 6)) for _ in range(rank))
    if rank and draw(st.booleans()):
        axis = draw(st.integers(0, rank - 1))
        dims = (*dims[:axis], draw(st.sampled_from([63, 64, 65, 128, 129, 257])), *dims[axis + 1 :])
    permutation = tuple(draw(st.permutations(range(rank))))
    ordered = [dims[axis] for axis in permutation]
    cut = draw(st.integers(0, rank))
    batch = int(np.prod(ordered[: draw(st.integers(0, cut))], dtype=int))
    view = View(dims, permutation, batch, int(np.prod(ordered[:cut], dtype=int)) // batch)
    seed = draw(st.integers(0, 999))
    dtype = draw(st.sampled_from([1, 10, 16]))
    kind = draw(st.sampled_from(["grid", "blocks", "codebook", "sparse", "integers"]))
    if kind == "grid":
        return grid(
            view,
            draw(st.sampled_from([0.2, 1.0, 8.0, 300.0])),
            dtype,
            seed,
            draw(st.sampled_from(["log8", "float16"])),
            0,
            draw(st.booleans()),
            draw(st.booleans()),
        )
    if kind == "blocks":
        return grid(view, 1.0, dtype, seed, block=draw(st.integers(1, view.k)))
    if kind == "codebook":
        return codebook(view, draw(st.integers(1, 300)), dtype, seed, draw(st.booleans()))
    if kind == "sparse":
        return sparse(view, draw(st.floats(0, 1)), draw(st.sampled_from(["float32", "float16", "bfloat16"])), dtype, seed)
    return integers(view, draw(st.sampled_from([2, 3, 4, 5, 21, 22])), seed)


def poolable(member: Member) -> bool:
    """Whether a pool can hold it: no Sparse, levels of 16 bits."""
    levels = np.asarray(member.symbols.levels)
    return not isinstance(member.form, Sparse) and levels.min() >= -32768 and levels.max() <= 32767


RELAXED = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@RELAXED
@given(members(), st.booleans())
def test_any_member_is_read_back(member: Member, gathered: bool) -> None:
    data = writer.write(member, gathered)
    assert_recovered(data, [member])


@settings(RELAXED, max_examples=40)
@given(members())
def test_any_member_means_the_same_to_a_stranger(member: Member) -> None:
    if member.view.size < 4000:
        assert_a_stranger_agrees(writer.write(member))


@settings(RELAXED, max_examples=40)
@given(st.lists(members(), min_size=1, max_size=8))
def test_any_pool_is_read_back_and_means_the_same_to_a_stranger(drawn: list[Member]) -> None:
    chosen = [member for member in drawn if member.view.size < 2000 and poolable(member)]
    if chosen:
        data = writer.write_pool(chosen)
        assert_recovered(data, chosen)
        assert_a_stranger_agrees(data)


def test_log8_is_exact_at_both_ends_of_its_exponent() -> None:
    for exponent, code, expected in ((-100, 0, 2.0**-100), (84, 240, 2.0**99), (0, 16, 2.0)):
        member = Member(
            1, plain_view(1, 1, 1), Grid(Dense("log8", np.array([code], np.uint8), exponent), Symbols(np.ones((1, 1, 1), np.int32)))
        )
        (found,) = parsed(writer.write(member))
        assert member_array(found).item() == expected


def test_a_value_beyond_float16_is_an_infinity_and_ties_go_to_even() -> None:
    scale = dense(np.array([65504.0, 65520.0, 2049.0, 2051.0]))
    member = Member(10, plain_view(1, 4, 1), Grid(scale, Symbols(np.ones((1, 4, 1), np.int32))))
    assert member_array(parsed(writer.write(member))[0]).ravel().tolist() == [65504.0, np.inf, 2048.0, 2052.0]


def test_bfloat16_rounds_to_nearest_even() -> None:
    scale = Dense("float32", np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF, 0x7F7FFFFF], np.uint32))
    member = Member(16, plain_view(1, 5, 1), Grid(scale, Symbols(np.ones((1, 5, 1), np.int32))))
    assert member_array(parsed(writer.write(member))[0]).ravel().tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x7F80]


MAKERS: dict[str, Callable[[], bytes]] = {
    "a member": lambda: writer.write(WRITTEN["row classes"]()),
    "a pool": lambda: writer.write_pool(POOLS["of 60"]()),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_same_forms_give_the_same_bytes(name: str) -> None:
    assert MAKERS[name]() == MAKERS[name]()
