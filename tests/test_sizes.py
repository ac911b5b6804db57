"""Bytes of every generated model against tests/sizes.csv: half a percent more is a regression, half a percent less a line to review.

`python -m tests.sizes` writes the file anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from models.structures import STRUCTURES
from tests.sizes import LOSSLESS_RATIO, RATIOS, measured, recorded

MAY_DIFFER = 0.02  # the length of the version in the metadata already moves the allocation of a model of few weights: seen 0.9 %
"""Synthetic inputs run through onnxruntime's kernels, whose last bits depend on the machine: single choices may flip."""

FEW_BYTES = 24
"""A choice that flips changes a small graph by as much: a bias that no longer fits 16 bits, another pool."""


@pytest.mark.parametrize("name", STRUCTURES)
def test_sizes_are_those_on_record(tmp_path: Path, name: str) -> None:
    expected = {key: sizes for key, sizes in recorded().items() if key[0] == name}
    found = {row[:2]: row[2:] for row in measured(name, tmp_path)}
    assert found.keys() == expected.keys()
    for key, (before, graph, payload) in found.items():
        was = expected[key]
        assert before == was[0]
        assert graph == pytest.approx(was[1], rel=MAY_DIFFER, abs=FEW_BYTES)
        assert payload == pytest.approx(was[2], rel=MAY_DIFFER, abs=FEW_BYTES)


def test_the_record_has_no_model_that_is_gone() -> None:
    assert {name for name, _ in recorded()} <= set(STRUCTURES)
    assert {float(ratio) for _, ratio in recorded()} == {*RATIOS, LOSSLESS_RATIO}
