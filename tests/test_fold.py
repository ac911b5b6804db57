"""Folded weights: onnxruntime makes them dense, whatever reads them and at every opset, and `restore` gives the very same bits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_compress.optimizer import inspect, preference, restore
from onnx_compress.optimizer.candidates import TECHNIQUES
from onnx_compress.optimizer.emit import FOLDED_KEY
from onnx_compress.optimizer.errors import CompressError
from onnx_compress.optimizer.preference import POOL_VALUES, Pace
from onnx_compress.optimizer.report import WeightReport
from onnx_compress.runtime import library_path

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.outcomes import DOMAIN, TOLERANCE, TOLERANCE_FLOAT16, Outcome, compressed, options

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

CONSTANT = {"Cast", "Div", "Sub", "TopK", "Split", "Concat"}
"""Operators of the chain that the models here do not have themselves."""


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed at any price: whatever is slower fused is folded."""
    monkeypatch.setitem(preference.PREFERENCES, "speed", Pace(0.0, np.inf, 10**9))


def kernels(outcome: Outcome) -> set[str]:
    """The operators that a session has after its own optimization."""
    path, made = outcome.target.with_name("optimized.onnx"), options()
    made.optimized_model_filepath = str(path)
    made.register_custom_ops_library(library_path())
    onnxruntime.InferenceSession(str(outcome.target), made, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(path).graph.node}


def folded_names(outcome: Outcome) -> list[str]:
    return [weight.name for weight in outcome.report.weights if weight.placement == "folded"]


def convolutions(opset: int = 17) -> onnx.ModelProto:
    """Two convolutions of few channels, a grouped one and a matrix: fused they are slower."""
    net = Network(0)
    x = net.add("Relu", [net.add("Conv", ["x", net.weight("first", (16, 3, 3, 3)), net.bias("bias", 16)], {"pads": [1, 1, 1, 1]})])
    x = net.add("Relu", [net.add("Conv", [x, net.weight("apart", (16, 1, 3, 3))], {"group": 16, "pads": [1, 1, 1, 1]})])
    x = net.add("Conv", [x, net.weight("second", (48, 16, 3, 3))], {"pads": [1, 1, 1, 1]})
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    net.named(net.add("MatMul", [x, net.weight("matrix", (48, 96))]), "y")
    made = net.model("case", [tensor("x", ("batch", 3, 24, 24))], [tensor("y", ("batch", 96))])
    made.opset_import[0].version = opset
    return made


def test_whatever_is_slower_fused_is_folded_and_a_session_has_no_trace_of_it(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, convolutions(), 3, prefer="speed")
    assert {"second", "matrix"} <= set(folded_names(outcome))
    assert not kernels(outcome) & CONSTANT
    outcome.check()


@pytest.mark.parametrize("opset", [7, 9, 10, 11, 13, 18, 21])
def test_every_opset_folds(tmp_path: Path, opset: int) -> None:
    outcome = compressed(tmp_path, convolutions(opset), 3, prefer="speed")
    assert folded_names(outcome)
    assert not kernels(outcome) & CONSTANT
    outcome.check()


def test_scales_in_parts_of_equal_sizes_need_not_be_told_apart(tmp_path: Path) -> None:
    """Small float vectors of one length get such a Split, scales of folded weights among them."""
    net = Network(0)
    x = net.add("Relu", [net.add("Conv", ["x", net.weight("first", (32, 32, 3, 3))], {"pads": [1, 1, 1, 1]})])
    net.named(net.add("Conv", [x, net.weight("second", (32, 32, 3, 3))], {"pads": [1, 1, 1, 1]}), "y")
    made = net.model("case", [tensor("x", ("batch", 32, 12, 12))], [tensor("y", ("batch", 32, 12, 12))])
    made.opset_import[0].version = 11
    outcome = compressed(tmp_path, made, 3, prefer="speed")
    model = onnx.load(outcome.target)
    even = [node for node in model.graph.node if node.op_type == "Split" and len(set(node.attribute[-1].ints)) == 1]
    assert even
    for node in even:
        del node.attribute[-1]
    onnx.save(model, tmp_path / "even.onnx")
    restore(tmp_path / "even.onnx", tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx").graph.initializer == onnx.load(outcome.restored).graph.initializer


def test_a_file_of_folded_weights_alone_needs_no_library(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, convolutions(), 1.8, prefer="speed", include=("second",))
    assert folded_names(outcome) == ["second"]
    assert DOMAIN not in {opset.domain for opset in onnx.load(outcome.target).opset_import}
    onnxruntime.InferenceSession(str(outcome.target), options(), providers=["CPUExecutionProvider"])
    outcome.check()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_weight_of_16_bits_is_rounded_to_them_and_cast_as_before(tmp_path: Path, dtype: str) -> None:
    net = Network(0)
    stored = net.constant("stored", net.draw((64, 8, 3, 3)).astype(DTYPES[dtype]))
    weight = net.add("Cast", [stored], {"to": TensorProto.FLOAT})
    net.named(net.add("Conv", ["x", weight], {"pads": [1, 1, 1, 1]}), "y")
    made = net.model("case", [tensor("x", ("batch", 8, 24, 24))], [tensor("y", ("batch", 64, 24, 24))])
    outcome = compressed(tmp_path, made, 3, prefer="speed")
    assert folded_names(outcome) == ["stored"]
    assert kernels(outcome) <= {"Conv", "ReorderInput", "ReorderOutput"}
    outcome.check()


READERS = (
    "shared_weight", "conv_transpose", "lstm_bidirectional", "gru_language", "if_branches", "loop_body", "scan_body", "nested_bodies",
    "float16_activations", "wide_groups", "einsum", "left_matmul", "tied_transformer", "batched_matmul",
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_any_reader_will_do(tmp_path: Path, name: str) -> None:
    """Shared weights, bodies, and operators that ours have no kernel for."""
    outcome = compressed(tmp_path, STRUCTURES[name](0), 3, prefer="speed")
    assert folded_names(outcome)
    outcome.check(tolerance=TOLERANCE_FLOAT16 if "16" in name else TOLERANCE)


def test_memory_folds_nothing(tmp_path: Path) -> None:
    assert not folded_names(compressed(tmp_path, convolutions(), 3, prefer="memory"))


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_only_techniques_with_grids_fold(tmp_path: Path, technique: str) -> None:
    outcome = compressed(tmp_path, convolutions(), 6, prefer="speed", technique=technique)
    assert bool(folded_names(outcome)) == (technique in ("auto", "quantize", "lowrank"))


def pooled_bytes(weight: WeightReport, prefer: str) -> int:
    """What a session keeps of the decoded levels of a weight that is small enough for a pool."""
    return 2 * int(np.prod(weight.dims)) if np.prod(weight.dims) <= POOL_VALUES[prefer] else 0


@pytest.mark.parametrize("prefer", POOL_VALUES)
def test_sessions_keep_what_pools_hold_in_sixteen_bits(tmp_path: Path, prefer: str) -> None:
    report = compressed(tmp_path, STRUCTURES["plain"](0), 6, prefer=prefer).report
    fused = [weight for weight in report.weights if weight.placement != "folded"]
    assert {bool(pooled_bytes(weight, prefer)) for weight in fused} == ({True, False} if prefer == "memory" else {True})
    assert all(weight.resident_bytes == weight.bytes_after + pooled_bytes(weight, prefer) for weight in fused)


def test_the_report_tells_placement_times_and_memory(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, convolutions(), 3, prefer="speed")
    for weight in outcome.report.weights:
        dense = int(np.prod(weight.dims)) * 4
        assert weight.resident_bytes == (dense if weight.placement == "folded" else weight.bytes_after + pooled_bytes(weight, "speed"))
        assert weight.fused_us > 0 and weight.folded_us > 0
        assert weight.microseconds == (weight.folded_us if weight.placement == "folded" else weight.fused_us)


def test_inspection_shows_folded_weights(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, convolutions(), 3, prefer="speed")
    found = inspect(outcome.target)
    shown = [weight for weight in found.weights if weight.operator == "folded"]
    assert sorted(weight.dims for weight in shown) == sorted(w.dims for w in outcome.report.weights if w.placement == "folded")
    assert sum(weight.bytes for weight in found.weights) == found.payload_bytes
    assert found.total_bytes == found.graph_bytes + found.payload_bytes + found.plain_bytes


def damaged(outcome: Outcome, change: Any) -> Path:
    model = onnx.load(outcome.target)
    change(model)
    path = outcome.target.with_name("damaged.onnx")
    onnx.save(model, path)
    return path


def _rename(model: onnx.ModelProto) -> None:
    entry = next(entry for entry in model.metadata_props if entry.key == FOLDED_KEY)
    entry.value += " nothing"


def _other_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "TopK").op_type = "Hardmax"


def _other_shape(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Reshape" and node.output[0])
    name = node.input[1]
    next(one for one in model.graph.initializer if one.name == name).CopyFrom(helper.make_tensor(name, TensorProto.INT64, [1], [7]))


def _constant_of(model: onnx.ModelProto, op_type: str, value: list[int]) -> None:
    """Another value of the last input of the first node of this kind."""
    name = next(node for node in model.graph.node if node.op_type == op_type).input[1]
    old = next(one for one in model.graph.initializer if one.name == name)
    old.CopyFrom(helper.make_tensor(name, old.data_type, [len(value)], value))


def _empty_count(model: onnx.ModelProto) -> None:
    _constant_of(model, "TopK", [])


def _zero_divisor(model: onnx.ModelProto) -> None:
    _constant_of(model, "Div", [0])


@pytest.mark.parametrize("change", [_rename, _other_operator, _other_shape, _empty_count, _zero_divisor])
def test_a_changed_chain_is_named_by_restore(tmp_path: Path, change: Any) -> None:
    outcome = compressed(tmp_path, convolutions(), 3, prefer="speed")
    with pytest.raises(CompressError, match=r"folded weight.*was changed after it was written"):
        restore(damaged(outcome, change), tmp_path / "plain.onnx")


MEMORY = """
import re, sys
from onnx_compress.runtime import session
def private():
    found = dict(re.findall(r"^(Private_\\w+):\\s+(\\d+) kB", open("/proc/self/smaps_rollup").read(), re.MULTILINE))
    return (int(found["Private_Clean"]) + int(found["Private_Dirty"])) * 1024
before = private()
kept = session(sys.argv[1])
print(private() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_session_keeps_little_more_than_the_dense_weight(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("Conv", ["x", net.weight("large", (256, 256, 3, 3))]), "y")
    made = net.model("case", [tensor("x", ("batch", 256, 40, 40))], [tensor("y", ("batch", 256, 38, 38))])
    outcome = compressed(tmp_path, made, 6, prefer="speed")
    assert folded_names(outcome) == ["large"]
    said = subprocess.run([sys.executable, "-c", MEMORY, str(outcome.target)], check=True, capture_output=True, text=True).stdout
    assert int(said) < 6 * 256 * 256 * 9 * 4  # the weight, its packed copy, and what a session takes by itself


def test_scales_of_stacked_matrices_broadcast(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("MatMul", ["x", net.weight("stack", (3, 48, 40))]), "y")
    made = net.model("case", [tensor("x", (3, 20, 48))], [tensor("y", (3, 20, 40))])
    outcome = compressed(tmp_path, made, 3, prefer="speed")
    outcome.check(batches=(3,))
