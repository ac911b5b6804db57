"""Residency: weights decoded once when the session is created are those that are decoded at every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_compress.passes import writer
from onnx_compress.runtime import session
from onnx_compress.runtime.form import View
from onnx_compress.runtime.reader import read_header
from operator_models import assert_close, linear, model, node, run, weight

from tests.payloads import PLANES, POOLS

RNG = np.random.default_rng(3)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One operator, its payload and its other inputs; the payload is the input `w`."""

    op_type: str
    inputs: tuple[str, ...]
    payload: NDArray[np.uint8]
    feeds: Mapping[str, NDArray] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)

    def output(self, residency: str, **config: str) -> NDArray:
        proto = model([node(self.op_type, self.inputs, self.attributes)], self.feeds, {"w": self.payload}, TensorProto.FLOAT)
        return run(proto, self.feeds, threads=2, config={"onnx_compress.residency": residency, **config})


def plain(*dims: int) -> View:
    return View(dims, tuple(range(len(dims))), 1, dims[0])


def pooled() -> NDArray[np.uint8]:
    return np.frombuffer(writer.write_pool(POOLS["of 2"]()), np.uint8)


CASES: dict[str, Case] = {
    **{f"matmul, {form}": Case("CompressedMatMul", ("x", "w"), weight(linear(330, 70), form).payload, {"x": normal(5, 70)}) for form in ("grid", "block", "trellis", "sparse", "mapped")},
    "matmul, more than a tile": Case("CompressedMatMul", ("x", "w"), weight(linear(140, 3000)).payload, {"x": normal(9, 3000)}),
    "matmul, one row": Case("CompressedMatMul", ("x", "w"), weight(linear(300, 2000)).payload, {"x": normal(1, 2000)}),
    "matmul, batches": Case("CompressedMatMul", ("x", "w"), weight(View((3, 8, 70), (0, 2, 1), 3, 70)).payload, {"x": normal(3, 4, 8)}),
    "gemm": Case("CompressedGemm", ("x", "w"), weight(linear(66, 40)).payload, {"x": normal(5, 40)}),
    "conv": Case("CompressedConv", ("x", "w"), weight(plain(70, 3, 3, 3)).payload, {"x": normal(2, 3, 9, 14)}),
    "conv, depthwise": Case("CompressedConv", ("x", "w"), weight(plain(70, 1, 3, 3)).payload, {"x": normal(1, 70, 9, 8)}, {"group": 70}),
    "gather": Case("CompressedGather", ("w", "i"), weight(plain(500, 30)).payload, {"i": np.array([3, 499, 64, 3, 130])}),
    "decompress": Case("Decompress", ("w",), weight(View((4, 3, 3, 65), (3, 0, 1, 2), 1, 65)).payload),
    "matmul, exact": Case("CompressedMatMul", ("x", "w"), np.frombuffer(PLANES["planes of dtype 1"](), np.uint8), {"x": normal(5, 21)}),
    "decompress, exact": Case("Decompress", ("w",), np.frombuffer(PLANES["turned planes of dtype 1"](), np.uint8)),
    "a pool's member": Case("Decompress", ("w",), pooled(), attributes={"member": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_dense_weights_give_the_outputs_of_tiles(name: str) -> None:
    dense, tiles = CASES[name].output("dense"), CASES[name].output("tile")
    if CASES[name].op_type in {"CompressedGather", "Decompress"}:
        assert dense.tobytes() == tiles.tobytes()
    else:
        assert_close(dense, tiles)


def broken(payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The payload with a changed byte in its stream: its header is good."""
    changed = payload.copy()
    changed[read_header(payload).header_bytes + 9] ^= 255
    return changed


def opened(proto: onnx.ModelProto, folder: Path, residency: str) -> onnxruntime.InferenceSession:
    onnx.save(proto, folder / "model.onnx")
    return session(folder / "model.onnx", residency=residency)


def test_dense_weights_are_decoded_when_the_session_is_created_and_tiles_when_it_runs(tmp_path: Path) -> None:
    feeds = {"x": normal(2, 70)}
    proto = model([node("CompressedMatMul", ["x", "w"])], feeds, {"w": broken(weight(linear(330, 70)).payload)}, TensorProto.FLOAT)
    with pytest.raises(Exception, match=r"rows from .*corruption error"):
        opened(proto, tmp_path, "dense")
    by_tiles = opened(proto, tmp_path, "tile")
    with pytest.raises(Exception, match=r"rows from .*corruption error"):
        by_tiles.run(None, feeds)


def test_a_payload_that_arrives_at_the_run_is_decoded_there_whatever_the_residency(tmp_path: Path) -> None:
    made = weight(linear(70, 40))
    feeds = {"x": normal(3, 40), "w": made.payload}
    proto = model([node("CompressedMatMul", ["x", "w"])], feeds, {}, TensorProto.FLOAT)
    outputs = [opened(proto, tmp_path, residency).run(None, feeds)[0] for residency in ("dense", "tile")]
    assert np.array_equal(*outputs)


def test_an_unknown_residency_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="residency is 'ram', legal is tile and dense"):
        opened(model([node("Decompress", ["w"])], {}, {"w": weight(linear(9, 9)).payload}, TensorProto.FLOAT), tmp_path, "ram")
