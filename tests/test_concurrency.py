"""Concurrent runs of one session give the outputs of single ones: kernels are read-only once they are created."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx_compress.runtime import session
from onnx_compress.runtime.form import View
from operator_models import linear, model, node, weight

THREADS, RUNS = 8, 6


def network(folder: Path) -> Path:
    """Ids to rows, a convolution over them, and a multiplication: every kind of kernel that keeps memory of its thread."""
    rows = weight(View((900, 64), (0, 1), 1, 900))
    taps = weight(View((96, 64, 3), (0, 1, 2), 1, 96), seed=1)
    matrix = weight(linear(200, 96), "trellis", seed=2)
    nodes = [
        node("CompressedGather", ["rows", "ids"], output="looked_up"),
        helper.make_node("Transpose", ["looked_up"], ["channels"], perm=[0, 2, 1]),
        node("CompressedConv", ["channels", "taps"], {"pads": [1, 1]}, output="convolved"),
        helper.make_node("Transpose", ["convolved"], ["back"], perm=[0, 2, 1]),
        node("CompressedMatMul", ["back", "matrix"]),
    ]
    constants = {"rows": rows.payload, "taps": taps.payload, "matrix": matrix.payload}
    onnx.save(model(nodes, {"ids": ids(0)}, constants, TensorProto.FLOAT), folder / "model.onnx")
    return folder / "model.onnx"


def ids(seed: int) -> NDArray[np.int64]:
    """Sequences whose number and length differ from seed to seed."""
    return np.random.default_rng(seed).integers(0, 900, (1 + seed % 3, 5 + 7 * seed))


@pytest.mark.parametrize("loop_threads", [1, 2])
@pytest.mark.parametrize("residency", ["tile", "dense"])
def test_eight_threads_on_one_session_give_what_one_thread_gives(residency: str, loop_threads: int, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = loop_threads
    shared = session(network(tmp_path), options, residency=residency)
    expected = [shared.run(None, {"ids": ids(seed)})[0] for seed in range(THREADS)]

    def differing(seed: int) -> int:
        return sum(not np.array_equal(shared.run(None, {"ids": ids(seed)})[0], expected[seed]) for _ in range(RUNS))

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(differing, range(THREADS))) == [0] * THREADS
