"""Kills, full disks and mutations in short: the long version is benchmarks/lossless/hostile.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.lossless import hostile
from tests.lossless_models import gather_model, matmul_model, weight
from tests.test_lossless_bundles import sums

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(matmul_model(*(weight(seed, (96, 1024)) for seed in range(6))), path)
    return path


def test_a_killed_run_loses_nothing(model: Path, tmp_path: Path) -> None:
    found = hostile.kills(model, tmp_path, 4)
    assert found["killed"] == 4


def test_a_full_disk_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    assert hostile.full_disk(model, tmp_path, 3) == 4


def bundles_model() -> onnx.ModelProto:
    """Small weights, which share a payload."""
    return sums([weight(i, (20, 30 + i)).astype(np.float16) for i in range(8)], cast=True)


@pytest.mark.parametrize("make", [gather_model, bundles_model])
def test_a_mutated_file_gives_the_original_or_is_refused(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(make(), path)
    found = hostile.mutations(path, tmp_path, 300)
    assert found["refused"] > 200
