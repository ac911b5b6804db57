"""Real models with labelled data at 4 times, without data: ratio, agreement and the metric's bars. Skipped where ../shared/models is absent."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.report import Report
from onnx_compress.runtime import library_path

from tests.outcomes import DOMAIN, WINDOW, nodes

MODELS = Path(__file__).parents[2] / "shared" / "models"
RATIO = 4
SAME_METRIC = 0.001
pytestmark = pytest.mark.skipif(not (MODELS / "eval.py").is_file(), reason=f"{MODELS} is absent: real models are not tested")


@dataclass(frozen=True)
class Case:
    """A model, its task, and how much of the metric may be lost: absolutely, or relatively (perplexities rise)."""

    name: str
    task: str
    loss: float
    relative: bool = False


CASES = (
    Case("mlperf_kws_dscnn", "kws", 0.02),
    Case("mnist_cntk", "mnist", 0.02),
    Case("cifar10_resnet20", "cifar10_lossless", 0.02),
    Case("charrnn_shakespeare", "charrnn_shakespeare", 0.03, relative=True),
    Case("charrnn_shakespeare_wbf16", "charrnn_shakespeare", 0.06, relative=True),
)


@cache
def evaluation() -> ModuleType:
    """The shared eval.py, as a module."""
    spec = importlib.util.spec_from_file_location("shared_eval", MODELS / "eval.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def metric(case: Case, path: Path, with_library: bool = False) -> float:
    """The task's figure on the evaluation data."""
    module: Any = evaluation()
    module.MODEL_DIR = str(MODELS)
    made = module.session(str(path), library_path() if with_library else None, 2)
    with contextlib.redirect_stdout(io.StringIO()):
        _, value = getattr(module, case.task)(made, "eval")
    return float(value)


def loss(case: Case, path: Path, with_library: bool = False) -> float:
    """How much worse than the original: a share of a perplexity, else a difference."""
    before, after = metric(case, MODELS / f"{case.name}.onnx"), metric(case, path, with_library)
    return after / before - 1 if case.relative else before - after


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Report, Path, Path]:
    """(case, report, compressed file, restored file)."""
    case = request.param
    folder = tmp_path_factory.mktemp(case.name)
    report = compress(MODELS / f"{case.name}.onnx", folder / "out.onnx", Request(target_ratio=RATIO, threads=2))
    restore(folder / "out.onnx", folder / "plain.onnx")
    return case, report, folder / "out.onnx", folder / "plain.onnx"


def test_a_real_model_is_four_times_smaller_and_not_smaller_than_need_be(made: tuple[Case, Report, Path, Path]) -> None:
    case, report, path, _ = made
    assert RATIO <= (MODELS / f"{case.name}.onnx").stat().st_size / path.stat().st_size <= RATIO * WINDOW
    assert report.fused_against_restored <= 1e-4
    onnx.checker.check_model(str(path), full_check=True)


def test_a_real_model_keeps_its_metric_without_data(made: tuple[Case, Report, Path, Path]) -> None:
    case, _, path, _ = made
    assert loss(case, path, with_library=True) <= case.loss


def test_a_real_model_is_restored_to_the_same_metric(made: tuple[Case, Report, Path, Path]) -> None:
    case, _, path, plain = made
    onnx.checker.check_model(str(plain), full_check=True)
    assert DOMAIN not in {node.domain for node in nodes(onnx.load(plain).graph)}
    assert np.isclose(metric(case, plain), metric(case, path, with_library=True), atol=SAME_METRIC)
