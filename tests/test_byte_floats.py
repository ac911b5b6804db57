"""Small floats in 8 bits: what moves, how near it stays, that onnxruntime folds all of it, and which tensors are chosen."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes.byte_floats import Chain, chains, coded, eligible, rounded, store_in_bytes

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.outcomes import compressed

OPSETS = (7, 10, 12, 13, 18, 21)
RANDOM = np.random.default_rng(0)


def normal(*dims: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(dims).astype(np.float32)


def model(tensors: dict[str, NDArray[Any]], opset: int = 13, operators: dict[str, str] | None = None) -> onnx.ModelProto:
    """One output for each tensor: x [2, 1] with it, by Add unless `operators` names another; float16 ones behind a Cast."""
    nodes, outputs = [], []
    for number, (name, array) in enumerate(tensors.items()):
        if array.dtype == np.float16:
            nodes.append(helper.make_node("Cast", [name], [f"{name} cast"], to=TensorProto.FLOAT))
        source = f"{name} cast" if array.dtype == np.float16 else name
        nodes.append(helper.make_node((operators or {}).get(name, "Add"), ["x", source], [f"y{number}"]))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, list(array.shape)))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [numpy_helper.from_array(array, name) for name, array in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def stored(proto: onnx.ModelProto, names: set[str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    loaded = ir.serde.deserialize_model(proto)
    moved = store_in_bytes(loaded, names)
    found = ir.serde.serialize_model(loaded)
    onnx.checker.check_model(found, full_check=True)
    return found, moved


def seen(proto: onnx.ModelProto, names: list[str]) -> dict[str, NDArray[np.float32]]:
    """What x = 0 finds of each tensor, which is added to it."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(None, {"x": np.zeros(1, np.float32)}), strict=True))


MANY = {f"v{size}.{number}": normal(size) for size in (48, 96, 144) for number in range(4)}


@pytest.mark.parametrize("opset", OPSETS)
def test_vectors_share_a_chain_and_stay_within_half_a_step_of_their_block(opset: int) -> None:
    tensors = MANY | {"half": normal(96).astype(np.float16), "odd": normal(13)}
    after, moved = stored(model(tensors, opset), set(tensors))
    assert set(moved) == {*MANY, "half"}
    for name, found in seen(after, list(tensors)).items():
        array = tensors[name].astype(np.float32)
        if name == "odd":
            assert found.tobytes() == array.tobytes()
            continue
        blocks = array.reshape(-1, 48)
        step = np.abs(blocks).max(axis=1, keepdims=True) / 127
        assert (np.abs(found.reshape(-1, 48) - blocks) <= 0.5 * step + 1e-3 * np.abs(blocks)).all()
    kept = [one for one in after.graph.initializer if one.data_type == TensorProto.INT8]
    assert [list(one.dims) for one in kept] == [[26, 48]]


@pytest.mark.parametrize("opset", OPSETS)
def test_a_tensor_of_higher_rank_has_one_scale_and_zeros_at_its_end_take_no_bytes(opset: int) -> None:
    tensors = {"matrix": normal(2, 200), "padded": np.concatenate([normal(2, 200), np.zeros((2, 300), np.float32)], axis=1)}
    after, moved = stored(model(tensors, opset), set(tensors))
    assert set(moved) == set(tensors)
    for name, found in seen(after, list(tensors)).items():
        assert np.array_equal(found, rounded(tensors[name]))
    assert all(list(one.dims) == [2, 200] for one in after.graph.initializer if one.data_type == TensorProto.INT8)


@pytest.mark.parametrize("opset", OPSETS)
def test_onnxruntime_folds_all_that_was_added(opset: int, tmp_path: Path) -> None:
    after, _ = stored(model(MANY | {"padded": np.pad(normal(1, 200), ((0, 0), (0, 300)))}, opset), {*MANY, "padded"})
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(after.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node} == {"Add"}


def test_the_file_becomes_as_much_smaller_as_the_chains_promise() -> None:
    names, moved = set(MANY), chains({name: array.size for name, array in MANY.items()})
    before, after = model(MANY), stored(model(MANY), names)[0]
    assert before.ByteSize() - after.ByteSize() >= sum(3 * array.size for array in MANY.values()) - 700  # names of test tensors are long
    assert [chain.block for chain in moved] == [48]


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ({"a": 64, "b": 12}, []),
        ({"a": 640, "b": 12}, [(("a",), 640)]),
        ({"a": 581, "b": 581, "c": 960, "d": 480}, [(("c", "d"), 480), (("a", "b"), 581)]),
        ({}, []),
    ],
)
def test_a_chain_is_made_only_where_it_saves_more_than_its_nodes_take(sizes: dict[str, int], wanted: list[tuple[tuple[str, ...], int]]) -> None:
    found: list[Chain] = chains(sizes)
    assert sorted((chain.names, chain.block) for chain in found) == sorted(wanted)
    assert all(one.saved_bytes >= other.saved_bytes > 0 for one, other in pairwise([*found, found[-1]])) if found else not wanted


def test_what_8_bits_cannot_hold_is_not_eligible() -> None:
    tensors = {
        "fine": normal(64), "tiny": np.full(64, 1e-5, np.float32), "huge": np.full(64, 1e8, np.float32), "nan": np.full(64, np.nan, np.float32),
        "infinite": np.full(64, np.inf, np.float32), "divisor": normal(64), "excluded": normal(64), "zeros": np.zeros(64, np.float32),
    }  # fmt: skip
    loaded = ir.serde.deserialize_model(model(tensors, operators={"divisor": "Div"}))
    assert [value.name for value in eligible(loaded, {"excluded"})] == ["fine"]
    assert eligible(ir.serde.deserialize_model(model(tensors, 6)), ()) == []


def test_blocks_without_values_and_blocks_far_below_others_keep_within_their_scale() -> None:
    blocks = np.array([[0, 0, 0], [1e-7, -1e-7, 0], [1000, -3, 0.1]], np.float32)
    levels, scales = coded(blocks)
    assert np.abs(levels * scales.astype(np.float32) - blocks).max(axis=1) == pytest.approx([0, 1e-7, 3], abs=1e-3)
    assert levels.min() >= -127


def biased(seed: int) -> onnx.ModelProto:
    """A net whose biases are a tenth of its bytes; the last one decides more than the others."""
    net = Network(seed)
    x = "x"
    for number in range(6):
        x = net.add("Relu", [net.add("Gemm", [x, net.weight(f"w{number}", (64, 64)), net.bias(f"b{number}", 64)], {"transB": 1})])
    net.named(x, "y")
    return net.model("biased", [tensor("x", ["batch", 64])], [tensor("y", ["batch", 64])])


def test_biases_get_8_bits_where_bytes_are_dear_and_16_where_they_are_cheap(tmp_path: Path) -> None:
    notes = {}
    for ratio in (8, 2.5):
        (folder := tmp_path / str(ratio)).mkdir()
        outcome = compressed(folder, biased(0), ratio)
        outcome.check()
        notes[ratio] = " ".join(outcome.report.notes)
    assert "are stored in 8 bits" in notes[8]
    assert "are stored in 8 bits" not in notes[2.5]
    assert "are stored in 16 bits" in notes[2.5]


def test_excluded_tensors_keep_every_bit_and_restored_files_the_same_values(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, biased(0), 8, exclude=("b3",))
    outcome.check()
    kept = {one.name: numpy_helper.to_array(one) for one in onnx.load(outcome.restored).graph.initializer}
    wanted = next(numpy_helper.to_array(one) for one in outcome.original.graph.initializer if one.name == "b3")
    assert any(array.tobytes() == wanted.tobytes() for array in kept.values())


@pytest.mark.parametrize("name", ["lstm_bidirectional", "gru_language"])
def test_recurrent_biases_in_8_bits_keep_all_promises(tmp_path: Path, name: str) -> None:
    compressed(tmp_path, STRUCTURES[name](0), 12).check()
