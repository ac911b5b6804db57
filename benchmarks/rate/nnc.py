"""NNCodec, the implementation of the standard ISO/IEC 15938-17, in an environment of its own."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from .cases import HERE
from .coders import Coded, Weights


def standard(weights: Weights, qp: int, opt_qp: bool, python: Path) -> Coded:
    """Dependent quantization at one quantization parameter, 4 of which double the step; `opt_qp` makes large layers coarser, as its authors do.

    `bytes` are the bitstream's. Raises subprocess.CalledProcessError where the worker fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "weights.npz", Path(folder) / "decoded.npz"
        np.savez(source, **{str(number): array for number, array in enumerate(weights.values())})  # type: ignore[arg-type]
        command = [str(python), "-P", str(HERE / "nncodec_worker.py"), str(source), str(target), "--qp", str(qp), *(["--opt-qp"] if opt_qp else [])]
        size, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        with np.load(target) as decoded:
            arrays = {name: decoded[str(number)] for number, name in enumerate(weights)}
    return Coded(arrays, int(size), float(seconds))
