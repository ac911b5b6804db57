"""Loading says what is wrong with a file, and which models are not for compressing with loss; a model is in memory once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.optimizer.files import load_graph
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.weights import Rules, find_weights
from onnx_compress.runtime.header import FORMAT_VERSION

from models.network import Network, tensor
from models.storage import plain, write_external

TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
MAPS = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, TENSOR))
KINDS = [
    (helper.make_sequence_type_proto(TENSOR), "a sequence"),
    (MAPS, "a sequence"),
    (helper.make_map_type_proto(TensorProto.INT64, TENSOR), "a map"),
    (helper.make_optional_type_proto(TENSOR), "an optional"),
]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_output(kind: onnx.TypeProto) -> onnx.ModelProto:
    """A model with one more output, of that type; nothing makes it, as these tests never run the model."""
    model = plain(0)
    model.graph.output.append(helper.make_value_info("odd", kind))
    return model


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"junk, not a model", "no ONNX model"), (bytes(100), "no ONNX model"), (os.urandom(1000), "no ONNX model")],
)
def test_a_file_that_is_no_model_is_refused_with_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(CompressError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_truncated_model_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(plain(0), tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CompressError, match="no ONNX model"):
        load(path)


def test_a_missing_file_and_a_folder_are_usage_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.onnx", tmp_path):
        with pytest.raises(UsageError, match=str(path)):
            load(path)


def test_external_data_that_is_missing_or_too_short_is_named(tmp_path: Path) -> None:
    path = write_external(plain(0), tmp_path / "model.onnx")
    assert len(find_weights(load(path), Rules()).weights) == 3
    data = path.with_name("model.onnx.data")
    content = data.read_bytes()
    data.write_bytes(content[:-100])
    with pytest.raises(CompressError, match="truncated or belongs to another model"):
        load(path)
    data.unlink()
    with pytest.raises(CompressError, match="missing"):
        load(path)


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    model = plain(0)
    helper.set_model_props(model, {"onnx_compress.format": FORMAT_VERSION})
    with pytest.raises(CompressError, match="compressed already"):
        load(saved(model, tmp_path))


@pytest.mark.parametrize(("kind", "words"), KINDS)
def test_an_output_that_is_no_tensor_is_named(tmp_path: Path, kind: onnx.TypeProto, words: str) -> None:
    path = saved(with_output(kind), tmp_path)
    with pytest.raises(CompressError, match=f"output 'odd' of .* is {words}.*zipmap=False.*--lossless"):
        load(path)


def test_a_sparse_weight_is_named(tmp_path: Path) -> None:
    model = plain(0)
    values = helper.make_tensor("thin", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("places", TensorProto.INT64, [2], [0, 5])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    with pytest.raises(CompressError, match=r"weight 'thin' of .* is a sparse tensor.*make it dense"):
        load(saved(model, tmp_path))


def test_a_sparse_weight_without_values_is_refused_as_well(tmp_path: Path) -> None:
    model = plain(0)
    model.graph.sparse_initializer.add()
    with pytest.raises(CompressError, match=r"weight '' of .* is a sparse tensor"):
        load(saved(model, tmp_path))


def test_a_model_with_a_map_is_compressed_without_loss_also_where_the_output_exists(tmp_path: Path) -> None:
    path = saved(with_output(MAPS), tmp_path)
    for force in (False, True):  # which data files an input has is asked only where something is to be replaced
        compress(path, tmp_path / "out.onnx", Request(lossless=True, force=force))
    restore(str(tmp_path / "out.onnx"), str(tmp_path / "again.onnx"))
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_what_onnx_ir_does_not_know_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(CompressError, match=r"Map types are not supported.*--lossless"):
        load_graph(saved(with_output(MAPS), tmp_path))


def test_tensors_are_what_they_are_in_the_file_and_weights_are_arrays(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("Add", [net.add("MatMul", ["x", net.weight("w", (512, 4))]), net.literal([1.0, 2.0, 3.0, 4.0])]), "y")
    model = net.model("built", [tensor("x", ["n", 512])], [tensor("y", ["n", 4])])
    model.graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [2048], np.arange(2048.0).tolist()))  # not raw
    read = load(saved(model, tmp_path))
    written = ir.to_proto(read).graph
    assert (list(written.initializer), list(written.node)) == (list(model.graph.initializer), list(model.graph.node))
    weight, typed = (read.graph.initializers[name].const_value for name in ("w", "typed"))
    assert isinstance(weight, ir.Tensor)
    assert weight.numpy() is weight.numpy()  # nothing is copied
    assert isinstance(typed, ir.serde.TensorProtoTensor)
