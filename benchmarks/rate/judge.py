"""Metric and divergence of a compressed model in one pass: eval.py runs it, and every output is compared with the original's for the same inputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case

Outputs = Sequence[NDArray]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the evaluation split says of a model."""

    metric: str
    value: float
    divergence_kind: str
    divergence: float


@dataclass(slots=True, eq=False)
class Listening:
    """An inference session that gives the outputs of every run to `hear` too."""

    session: Any
    hear: Callable[[Outputs], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: Sequence[str] | None, feeds: Mapping[str, NDArray]) -> Outputs:
        """All outputs."""
        outputs = self.session.run(names, feeds)
        self.hear(outputs)
        return outputs


@dataclass(slots=True, eq=False)
class Judge:
    """Judges compressed files of one model; the original is run once. `models` is the folder with eval.py and divergence.py."""

    case: Case
    models: Path
    _module: ModuleType = field(init=False)
    _reference: list[Outputs] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._module = _load(self.models / "divergence.py")
        self._evaluate(self.models / f"{self.case.model}.onnx", None, self._reference.append)

    def judge(self, path: Path, library: str | None = None) -> Verdict:
        """Runs one file, with a library of operators where it needs one. Raises whatever onnxruntime raises."""
        kind = self._kind()
        values: list[NDArray[np.float64]] = []
        expected = iter(self._reference)

        def compare(outputs: Outputs) -> None:
            values.append(np.ravel(kind(next(expected), outputs)))

        metric, value = self._evaluate(path, library, compare)
        return Verdict(metric, value, kind.__name__, float(np.concatenate(values).mean()))

    def _kind(self) -> Callable[[Outputs, Outputs], NDArray[np.float64]]:
        """The measure of divergence.py for the task, chosen as its `main` does."""
        module = self._module
        if self.case.task.startswith(module.KL_TASKS):
            return module.kl
        return module.cosine if self.case.task in module.COSINE_TASKS else module.nmse

    def _evaluate(self, path: Path, library: str | None, hear: Callable[[Outputs], None]) -> tuple[str, float]:
        tasks = self._module.tasks
        original = tasks.session

        def session(file: str, lib: str | None = None, threads: int = 0) -> Listening:
            return Listening(original(file, lib, threads), hear)

        tasks.session = session
        try:
            metric, value = tasks.evaluate(self.case.task, str(path), library)
        finally:
            tasks.session = original
        return metric, float(value)


def _load(path: Path) -> ModuleType:
    """A script as a module; it finds its siblings itself."""
    spec = importlib.util.spec_from_file_location("divergence", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
