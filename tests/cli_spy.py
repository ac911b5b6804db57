"""What tests of the command line share: a stand-in for `compress`, and what it reports."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from onnx_compress.optimizer.report import Progress, Report, Request, WeightReport

CLI = [sys.executable, "-m", "onnx_compress.optimizer.cli"]


WEIGHT = WeightReport("layer1.weight", (256, 64, 3, 3), "float32", "Conv", "Grid(256 scales)", 589_824, 58_000, 3.15, 0.42, 0.0011, 0.0023)


def report(source: Path, target: Path) -> Report:
    return Report(
        source=str(source),
        target=str(target),
        bytes_before=90_316_207,
        bytes_after=9_001_234,
        ratio=10.0338,
        graph_bytes=9_120,
        divergence=0.00213,
        divergence_kind="embedding",
        inputs="512 calibration samples",
        predicted=0.002,
        fused_against_restored=1e-7,
        weights=(WEIGHT, replace(WEIGHT, name="layer2.weight", form="Codebook(16)")),
        left_alone=(("bias1", "fewer than 64 values", 100), ("bias2", "fewer than 64 values", 150), ("ids", "holds integers", 4096)),
        notes=("12 nodes were folded",),
        warnings=(),
        seconds={"probing": 3.2},
    )


@dataclass
class Spy:
    """Stands in for `compress` and keeps what it was called with."""

    source: Path = Path()
    target: Path = Path()
    request: Request | None = None
    error: BaseException | None = None
    warnings: tuple[str, ...] = ()

    def __call__(self, source: Path, target: Path, request: Request, progress: Progress) -> Report:
        self.source, self.target, self.request = source, target, request
        progress("probing", 0.5)
        if self.error:
            raise self.error
        return replace(report(source, target), warnings=self.warnings)


def put_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module of the optimizer that holds `content`."""
    module = ModuleType(f"onnx_compress.optimizer.{name}")
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(word for word in sys.path if word)}
