"""The trellis: states and multiples as FORMAT.md says, whatever the shape."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_compress.passes import writer
from onnx_compress.runtime import trellis
from onnx_compress.runtime.evaluate import member_array
from onnx_compress.runtime.form import Grid
from onnx_compress.runtime.reader import read

from tests.assembly import NEXT
from tests.forms import plain_view
from tests.forms import trellis as trellised


def walked(levels: list[int]) -> list[int]:
    """Multiples of one row, level by level."""
    state, found = 0, []
    for level in levels:
        found.append(2 * level - (state & 1) * ((level > 0) - (level < 0)))
        state = NEXT[state][level % 2]
    return found


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 40), (2, 3, 17)])
def test_multiples_are_those_of_a_walk_through_the_states(shape: tuple[int, int, int]) -> None:
    levels = np.rint(np.random.default_rng(0).laplace(0, 2, shape)).astype(np.int32)
    found = trellis.multiples(levels)
    assert found.dtype == np.int32
    for row, expected in zip(found.reshape(-1, shape[2]), levels.reshape(-1, shape[2]), strict=True):
        assert row.tolist() == walked(expected.tolist())


def test_a_negative_odd_level_has_parity_one() -> None:
    assert trellis.quantizers(np.array([[[-1, 0, -3, 0]]], np.int32)).tolist() == [[[0, 0, 1, 1]]]
    assert walked([-1, 0, -3, 0]) == trellis.multiples(np.array([-1, 0, -3, 0], np.int32)).tolist()


def test_each_state_is_followed_by_two_states_and_follows_two() -> None:
    assert trellis.NEXT.tolist() == [list(pair) for pair in NEXT]
    assert all(len(set(pair)) == 2 for pair in NEXT)
    assert sorted(np.ravel(NEXT).tolist()) == sorted([*range(8)] * 2)


def test_every_row_of_every_group_starts_in_state_zero() -> None:
    member = trellised(plain_view(1, 640, 8), one=True)
    assert isinstance(member.form, Grid)
    rows = np.repeat(np.rint(np.random.default_rng(2).laplace(0, 1, (1, 1, 8))).astype(np.int32), 640, axis=1)
    member.symbols.levels[...] = rows
    for gathered in (False, True):
        (found,) = read(np.frombuffer(writer.write(member, gathered), np.uint8)).members
        values = member_array(found)
        assert (values == values[:, :1]).all()
