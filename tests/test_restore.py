"""Restoration: a plain model, by people who have neither our library nor our package's version; damage is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer import restore
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.passes import writer
from onnx_compress.runtime.form import Dense, Grid, Member, Symbols, View
from onnx_compress.runtime.header import FORMAT_VERSION

from models.network import Network, tensor
from models.storage import plain, write_external
from models.structures import STRUCTURES, feeds
from tests.outcomes import apart, compressed, compressed_file, options, run

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def member(dims: tuple[int, ...], view: View, dtype: int = 1) -> Member:
    levels = np.rint(np.random.default_rng(0).normal(0, 2, view.shape)).astype(np.int32)
    assert np.prod(dims) == levels.size
    return Member(dtype, view, Grid(Dense("float32", np.full(view.batch * view.rows, 0.125, "<f4").view("<u4")), Symbols(levels)))


def save(
    path: Path, node: onnx.NodeProto, payload: bytes, x: tuple[int, ...], y: tuple[int, ...], more: tuple[onnx.TensorProto, ...] = ()
) -> Path:
    """A model with one node of ours, which no compression of today would write."""
    node.domain = "onnx_compress"
    data = numpy_helper.from_array(np.frombuffer(payload, np.uint8), "payload")
    graph = helper.make_graph([node], "g", [tensor("x", x)], [tensor("y", y)], [data, *more])
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_compress", 1)])
    helper.set_model_props(made, {"onnx_compress.format": FORMAT_VERSION})
    onnx.save(made, path)
    return path


def agree(folder: Path, path: Path, x: tuple[int, ...]) -> onnx.ModelProto:
    """Restores, runs both; gives the restored model."""
    restore(path, folder / "plain.onnx")
    feed = {"x": np.random.default_rng(1).standard_normal(x).astype(np.float32)}
    made = options()
    from onnx_compress.runtime import session

    ours = run(session(path, made), feed)
    theirs = run(onnxruntime.InferenceSession(str(folder / "plain.onnx"), providers=["CPUExecutionProvider"]), feed)
    assert all(apart(one, other) < 1e-5 for one, other in zip(ours, theirs, strict=True))
    return onnx.load(folder / "plain.onnx")


ROWS = View((80, 48), (0, 1), 1, 80)


def test_every_optional_input_is_restored(tmp_path: Path) -> None:
    """bias, residual and activation are parts of the signature that no compression of today uses."""
    more = (
        numpy_helper.from_array(np.linspace(-1, 1, 80, dtype=np.float32), "b"),
        numpy_helper.from_array(np.ones((4, 80), np.float32), "r"),
    )
    node = helper.make_node("CompressedMatMul", ["x", "payload", "b", "r"], ["y"], activation="Relu")
    found = agree(tmp_path, save(tmp_path / "in.onnx", node, writer.write(member((80, 48), ROWS)), (4, 48), (4, 80), more), (4, 48))
    assert [one.op_type for one in found.graph.node] == ["Transpose", "MatMul", "Add", "Add", "Relu"]


def test_a_residual_without_a_bias_is_restored(tmp_path: Path) -> None:
    more = (numpy_helper.from_array(np.ones((4, 80), np.float32), "r"),)
    node = helper.make_node("CompressedGemm", ["x", "payload", "", "r"], ["y"], alpha=2.0, activation="Relu")
    found = agree(tmp_path, save(tmp_path / "in.onnx", node, writer.write(member((80, 48), ROWS)), (4, 48), (4, 80), more), (4, 48))
    assert [one.op_type for one in found.graph.node] == ["Gemm", "Add", "Relu"]


def test_a_convolution_with_everything_is_restored(tmp_path: Path) -> None:
    view = View((64, 4, 3, 3), (0, 1, 2, 3), 1, 64)
    more = (
        numpy_helper.from_array(np.linspace(-1, 1, 64, dtype=np.float32), "b"),
        numpy_helper.from_array(np.ones((1, 64, 4, 4), np.float32), "r"),
    )
    node = helper.make_node("CompressedConv", ["x", "payload", "b", "r"], ["y"], group=2, pads=[1] * 4, strides=[2, 2], activation="Relu")
    agree(
        tmp_path,
        save(tmp_path / "in.onnx", node, writer.write(member((64, 4, 3, 3), view)), (1, 8, 8, 8), (1, 64, 4, 4), more),
        (1, 8, 8, 8),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_stored_dtype_comes_back(tmp_path: Path, dtype: str) -> None:
    net = Network(0)
    weight = net.constant("layer.weight", net.draw((256, 256)).astype(DTYPES[dtype]))
    cast = weight if dtype == "float32" else net.add("Cast", [weight], {"to": TensorProto.FLOAT})
    net.named(net.add("MatMul", ["x", cast]), "y")
    outcome = compressed(tmp_path, net.model("m", [tensor("x", ["batch", 256])], [tensor("y", ["batch", 256])]), 1.9)
    (found,) = (one for one in onnx.load(outcome.restored).graph.initializer if len(one.dims) == 2)
    assert (found.name, numpy_helper.to_array(found).dtype) == ("layer.weight", np.dtype(DTYPES[dtype]))
    outcome.check()


def test_names_come_back_where_they_cost_next_to_nothing(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, plain(0), 2)
    found = {one.name for one in onnx.load(outcome.restored).graph.initializer}
    assert {"first", "second", "third"} <= found


def test_a_weight_whose_name_an_inner_value_has_by_now_is_renamed(tmp_path: Path) -> None:
    """Inner values are called a, b, c, ... in a compressed file."""
    net = Network(0)
    x = "x"
    for name in ("a", "b", "c", "d"):
        x = net.add("Relu", [net.add("MatMul", [x, net.weight(name, (256, 256))])])
    net.named(net.add("Tanh", [x]), "y")
    outcome = compressed(tmp_path, net.model("m", [tensor("x", ["batch", 256])], [tensor("y", ["batch", 256])]), 4)
    assert any(entry.key == "onnx_compress.names" for entry in onnx.load(outcome.target).metadata_props)
    outcome.check()


def test_restoring_needs_no_library(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, plain(0), 4)
    code = f"""
from pathlib import Path
from onnx_compress.runtime import library
library.library_path = lambda: 1 / 0
from onnx_compress.optimizer import restore
restore(Path({str(outcome.target)!r}), Path({str(tmp_path / "again.onnx")!r}))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(__file__).parents[1], env={"PYTHONPATH": ".typing"})
    assert (tmp_path / "again.onnx").read_bytes() == outcome.restored.read_bytes()


def test_a_restored_model_can_be_compressed_again(tmp_path: Path) -> None:
    first = compressed(tmp_path, plain(0), 4)
    source = tmp_path / "second" / "in.onnx"
    source.parent.mkdir()
    source.write_bytes(first.restored.read_bytes())
    second = compressed_file(source, 8)
    assert second.report.ratio >= 8
    second.check()


def test_external_payloads_are_restored_inline(tmp_path: Path) -> None:
    source = write_external(plain(0), tmp_path / "in.onnx")
    outcome = compressed_file(source, 4, external_data=True)
    assert (tmp_path / "out.onnx.data").exists()
    assert not (tmp_path / "restored.onnx.data").exists()
    assert not any(one.external_data for one in onnx.load(outcome.restored, load_external_data=False).graph.initializer)
    outcome.check()


def test_a_restored_model_beyond_protobufs_limit_gets_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = compressed(tmp_path, plain(0), 4)
    monkeypatch.setattr("onnx_compress.optimizer.expand.PROTOBUF_LIMIT_BYTES", 100_000)
    report = restore(outcome.target, tmp_path / "large.onnx")
    size = (tmp_path / "large.onnx").stat().st_size + (tmp_path / "large.onnx.data").stat().st_size
    assert report.bytes_after == size
    feed = feeds(outcome.original, 0)
    outputs = [run(onnxruntime.InferenceSession(str(tmp_path / name)), feed) for name in ("large.onnx", "restored.onnx")]
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))


def test_a_plain_model_is_refused(tmp_path: Path) -> None:
    onnx.save(plain(0), tmp_path / "in.onnx")
    with pytest.raises(UsageError, match="not written by onnx-compress"):
        restore(tmp_path / "in.onnx", tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("member", "asks for member 7"),
        ("payload", "the file is damaged"),
        ("operator", "CompressedRNN .*install the onnx-compress that wrote the file"),
        ("draft", "draft"),
        ("parts", "no record of an original"),
        ("cut", "copy the file again"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: str, sentence: str) -> None:
    outcome = compressed(tmp_path, plain(0), 4)
    made = onnx.load(outcome.target)
    node = next(one for one in made.graph.node if one.domain)
    payload = next(one for one in made.graph.initializer if one.name == node.input[1])
    match damage:
        case "member":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("member", 7))
        case "payload":
            made.graph.initializer.remove(payload)
            made.graph.input.append(tensor(payload.name, list(payload.dims), TensorProto.UINT8))
        case "operator":
            node.op_type = "CompressedRNN"
        case "parts":
            node.attribute.append(helper.make_attribute("parts", [1, 4]))
        case "draft":
            payload.raw_data = payload.raw_data[:2] + b"\x63" + payload.raw_data[3:]
        case _:
            payload.raw_data, payload.dims[0] = payload.raw_data[:-100], payload.dims[0] - 100
    onnx.save(made, outcome.target)
    with pytest.raises(CompressError, match=sentence) as caught:
        restore(outcome.target, tmp_path / "again.onnx")
    assert "out.onnx" in str(caught.value)
    assert not (tmp_path / "again.onnx").exists()


@pytest.mark.parametrize("name", ["if_branches", "nested_bodies", "odd_shapes"])
def test_nothing_is_left_that_the_weights_do_not_need(tmp_path: Path, name: str) -> None:
    """The tensors that only gave types, payloads and their metadata are gone."""
    outcome = compressed(tmp_path, STRUCTURES[name](0), 4)
    used = {value for node in onnx.load(outcome.restored).graph.node for value in node.input}
    inner = {value for node in onnx.load(outcome.restored).graph.node for a in node.attribute for sub in a.g.node for value in sub.input}
    deeper = {
        value
        for n in onnx.load(outcome.restored).graph.node
        for a in n.attribute
        for s in a.g.node
        for b in s.attribute
        for t in b.g.node
        for value in t.input
    }
    assert {one.name for one in onnx.load(outcome.restored).graph.initializer} <= used | inner | deeper
