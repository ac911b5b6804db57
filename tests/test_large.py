"""A model of 0.4 GB of small weights: the long version is benchmarks/lossless/big.py with gigabytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lossless import big

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory as Linux has them")

GIGABYTES, WIDTH, WORDS = 0.4, 1024, 2000
"""Weights of 2 to 8 MB: far less than what is held of a batch (32 MB) or decoded ahead (64 MB), and large enough to be fused."""

PROGRAM, RUNTIME = "import onnx_compress.optimizer.lossless", "import onnx_compress.runtime, onnxruntime"


def peak(code: str) -> int:
    """MB that a process takes which runs `code`."""
    done = subprocess.run([sys.executable, "-c", big.PEAK.format(code)], check=True, capture_output=True, text=True)
    return int(done.stderr.splitlines()[-1].split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", big.DTYPES)
def test_a_model_of_external_data_comes_back_and_runs_in_less_memory_than_it_has(kind: str, tmp_path: Path) -> None:
    """Beside what the program itself takes: compressing and restoring hold a few weights, running holds the compressed file and no weight as a whole."""
    program = peak(PROGRAM)
    compressed, restored, ran = big.measure(tmp_path, big.Case(kind, GIGABYTES, WIDTH, WIDTH, WORDS), threads=1)
    model = (tmp_path / "big.bin").stat().st_size / 1e6
    assert compressed.peak_mb < program + model / 2
    assert restored.peak_mb < program + 0.3 * model
    assert ran.peak_mb < peak(RUNTIME) + (tmp_path / "out.onnx.data").stat().st_size / 1e6 + 30
