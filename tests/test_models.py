"""The models of our own are valid, run, come from their seeds alone, and hold what they are named for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from models import digits
from models.storage import plain, write_external
from models.structures import STRUCTURES, feeds

NEWER_DTYPES = ("int4_blocks",)  # 4-bit dtypes need IR 10
LEGACY = ("overridable_initializers",)


def run(model: bytes | str, feed: dict[str, NDArray[np.generic]]) -> list[NDArray[np.generic]]:
    """Outputs of onnxruntime on the CPU."""
    outputs: list[NDArray[np.generic]] = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)
    return outputs


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_model_passes_the_full_check(name: str) -> None:
    onnx.checker.check_model(STRUCTURES[name](0), full_check=True)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_model_runs_on_its_feeds(name: str) -> None:
    model = STRUCTURES[name](0)
    feed = feeds(model, 1)
    outputs = run(model.SerializeToString(), feed)
    assert len(outputs) == len(model.graph.output)
    for value, output in zip(model.graph.output, outputs, strict=True):
        assert output.size and output.dtype == onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        assert name == "not_a_number" or np.isfinite(output).all()
        assert len(np.unique(output)) > 1, "an output that never varies would hide any damage"


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_model_is_a_function_of_its_seed(name: str) -> None:
    first = STRUCTURES[name](0).SerializeToString()
    assert STRUCTURES[name](0).SerializeToString() == first
    assert name == "without_weights" or STRUCTURES[name](1).SerializeToString() != first


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_model_loads_in_old_runtimes(name: str) -> None:
    model = STRUCTURES[name](0)
    expected = (10, 21) if name in NEWER_DTYPES else (3, 7) if name in LEGACY else (8, 17)
    assert (model.ir_version, model.opset_import[0].version) == expected


@pytest.mark.parametrize("name", sorted(set(STRUCTURES) - set(LEGACY)))
def test_feeds_follow_the_batch_and_the_seed(name: str) -> None:
    model = STRUCTURES[name](0)
    names = [value.name for value in model.graph.input]
    first, again, other = feeds(model, 3, batch=2), feeds(model, 3, batch=2), feeds(model, 4, batch=2)
    assert list(first) == names
    assert all(2 in array.shape for array in first.values())
    assert all(np.array_equal(first[key], again[key]) for key in names)
    assert not all(np.array_equal(first[key], other[key]) for key in names)


def test_feeds_leave_overridable_initializers_alone() -> None:
    model = STRUCTURES["overridable_initializers"](0)
    assert list(feeds(model, 0)) == ["image"] and len(model.graph.input) == 1 + len(model.graph.initializer)
    assert not any(initializer.raw_data for initializer in model.graph.initializer)


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_holds_the_weights_and_gives_the_same_outputs(tmp_path: Path, one_file: bool) -> None:
    model = plain(0)
    inline = model.SerializeToString()
    path = write_external(model, write_external(model, tmp_path / "m.onnx", one_file), one_file)
    assert model.SerializeToString() == inline
    beside = [file for file in tmp_path.iterdir() if file != path]
    assert len(beside) == (1 if one_file else 3) and path.stat().st_size < 4096
    stored = sum(np.prod(i.dims) * 4 for i in model.graph.initializer if len(i.dims) == 2)
    assert sum(file.stat().st_size for file in beside) == pytest.approx(stored, abs=2 * 4096)
    onnx.checker.check_model(str(path), full_check=True)
    feed = feeds(model, 0)
    assert all(np.array_equal(a, b) for a, b in zip(run(str(path), feed), run(inline, feed), strict=True))


def test_the_tied_embedding_is_one_initializer_under_gather_and_matmul() -> None:
    graph = STRUCTURES["tied_transformer"](0).graph
    users = [node for node in graph.node if "embedding" in node.input]
    assert [node.op_type for node in users] == ["Gather", "Transpose"]
    assert any(node.op_type == "MatMul" and users[1].output[0] in node.input for node in graph.node)


def test_the_pruned_model_is_nine_tenths_zeros() -> None:
    arrays = [onnx.numpy_helper.to_array(i) for i in STRUCTURES["pruned"](0).graph.initializer]
    assert all(np.mean(array == 0) >= 0.9 for array in arrays)


def test_the_fp16_model_has_no_float32() -> None:
    model = onnx.shape_inference.infer_shapes(STRUCTURES["float16_activations"](0))
    dtypes = {value.type.tensor_type.elem_type for value in model.graph.value_info} | {i.data_type for i in model.graph.initializer}
    assert TensorProto.FLOAT not in dtypes and TensorProto.FLOAT16 in dtypes


def test_branches_and_bodies_use_weights_of_the_outer_scope_and_their_own() -> None:
    for name in ("if_branches", "loop_body", "scan_body"):
        graph = STRUCTURES[name](0).graph
        bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        assert all(any("outer" in node.input for node in body.node) for body in bodies)
        assert any(body.initializer for body in bodies)


def test_integer_outputs_stand_beside_float_outputs() -> None:
    dtypes = [output.type.tensor_type.elem_type for output in STRUCTURES["argmax_classifier"](0).graph.output]
    assert dtypes == [TensorProto.FLOAT, TensorProto.INT64]


def test_training_is_a_function_of_the_seed() -> None:
    first, again, other = digits.train(5, epochs=1), digits.train(5, epochs=1), digits.train(6, epochs=1)
    assert all(np.array_equal(a, b) for a, b in zip(first.arrays(), again.arrays(), strict=True))
    assert not np.array_equal(first.conv2, other.conv2)


def test_calibration_and_evaluation_images_are_apart() -> None:
    calibration, images, labels = digits.data()
    assert calibration.dtype == images.dtype == np.float32 and len(images) == len(labels) == 450
    assert not {image.tobytes() for image in calibration} & {image.tobytes() for image in images}


def test_the_digits_net_reads_99_of_100_held_out_digits(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "digits.onnx"
    digits.main(path)
    assert 580_000 < path.stat().st_size < 620_000
    with np.load(path.with_name("digits_eval.npz")) as evaluation:
        image, label = evaluation["image"], evaluation["label"]
    with np.load(path.with_name("digits_calibration.npz")) as calibration:
        assert calibration.files == ["image"] and calibration["image"].shape == (512, 1, 8, 8)
    (logits,) = run(str(path), {"image": image})
    assert np.mean(logits.argmax(axis=1) == label) >= 0.99
