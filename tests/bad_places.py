"""A folder with a model and what a user may do wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer.cli import main

SHAPES = {"fc1": (64, 256), "fc2": (256, 128), "fc3": (128, 10)}


def save_model(path: Path, seed: int = 0, domain: str = "", dtype: type = np.float32) -> Path:
    """Three MatMuls with Relu between: 197 KB of weights from a seed."""
    generator = np.random.default_rng(seed)
    weights = [numpy_helper.from_array((generator.normal(size=shape) / 8).astype(dtype), name) for name, shape in SHAPES.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "fc1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], domain=domain),
        helper.make_node("MatMul", ["b", "fc2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"], domain=domain),
        helper.make_node("MatMul", ["d", "fc3"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", TensorProto.FLOAT, ["n", 64])], [info("y", TensorProto.FLOAT, ["n", 10])], weights)
    imports = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


@dataclass(frozen=True)
class Place:
    """A folder with a good model, and a way to see what a command leaves there."""

    folder: Path
    capture: pytest.CaptureFixture[str]

    def path(self, name: str) -> Path:
        return self.folder / name

    def refuses(self, words: list[str | Path], code: int, *sentences: str) -> None:
        """The command fails with `code` and one sentence that holds all `sentences`; the folder stays as it is."""
        before = contents(self.folder)
        self.capture.readouterr()
        assert main([str(word) for word in words]) == code
        printed = self.capture.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("onnx-compress: ")
        assert printed.err.count("\n") == 1, printed.err
        assert "unexpected" not in printed.err
        for sentence in sentences:
            assert sentence in printed.err
        assert contents(self.folder) == before

    def refuses_compression(self, source: str, code: int, *sentences: str, more: tuple[str | Path, ...] = ("--target-ratio", "4")) -> None:
        """The same for a compression of `source` to out.onnx."""
        self.refuses([self.path(source), self.path("out.onnx"), *more], code, *sentences)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(file): file.read_bytes() if file.is_file() else None for file in sorted(folder.rglob("*"))}
