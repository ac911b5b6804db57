"""`inspect` accounts for every byte of a compressed file and notices every changed one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer.cli import main
from onnx_compress.optimizer.errors import CompressError, UsageError
from onnx_compress.optimizer.inspect import form_text, inspect, symbol_bits
from onnx_compress.passes import writer
from onnx_compress.runtime import reader
from onnx_compress.runtime.form import Codebook, Dense, Grid, Member, Symbols, View
from onnx_compress.runtime.library import DECODE_BUFFER_BYTES

from tests.forms import mapped, plain_view, trellis
from tests.payloads import POOLS


def grid(rows: int, k: int, seed: int = 0) -> Member:
    levels = np.rint(np.random.default_rng(seed).normal(0, 1.5, (1, rows, k))).astype(np.int32)
    return Member(1, View((rows, k), (0, 1), 1, rows), Grid(Dense("float32", np.ones(rows, "<f4").view("<u4")), Symbols(levels)))


def codebook(rows: int, k: int) -> Member:
    codes = np.random.default_rng(1).integers(0, 4, (1, rows, k)).astype(np.int32)
    return Member(10, View((rows, k), (0, 1), 1, rows), Codebook(Dense("float16", np.arange(4, dtype="<f2").view("<u2")), Symbols(codes)))


def save(path: Path, chunked: bytes, pool: bytes) -> Path:
    """x -> MatMul (chunked payload `p`) -> MatMul (pool `q`, member 1), member 0 in a branch."""
    payloads = [numpy_helper.from_array(np.frombuffer(data, np.uint8), name) for name, data in (("p", chunked), ("q", pool))]
    plain = numpy_helper.from_array(np.ones(100, np.float32), "plain")
    info = helper.make_tensor_value_info
    branch = helper.make_graph([helper.make_node("Decompress", ["q"], ["z"], domain="onnx_compress")], "b", [], [info("z", 1, [8, 32])])
    nodes = [
        helper.make_node("CompressedMatMul", ["x", "p"], ["h"], domain="onnx_compress"),
        helper.make_node("CompressedMatMul", ["h", "q"], ["y"], domain="onnx_compress", member=1),
        helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch),
        helper.make_node("Identity", ["plain"], ["v"]),
    ]
    inputs = [info("x", 1, [1, 300]), info("c", TensorProto.BOOL, [])]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", 1, [1, 16]), info("w", 1, [8, 32]), info("v", 1, [100])], [*payloads, plain])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_compress", 1)], ir_version=8)
    names = json.dumps({"p": ["encoder.weight"]})
    helper.set_model_props(model, {"onnx_compress.format": reader.FORMAT_VERSION, "onnx_compress.package": "1.2.3", "onnx_compress.names": names})
    onnx.save(model, path)
    return path


@pytest.fixture
def payloads() -> tuple[bytes, bytes]:
    return writer.write(grid(64, 300)), writer.write_pool([grid(8, 32, 1), codebook(16, 64)])


@pytest.fixture
def file(tmp_path: Path, payloads: tuple[bytes, bytes]) -> Path:
    return save(tmp_path / "c.onnx", *payloads)


def test_all_bytes_are_accounted_for(file: Path, payloads: tuple[bytes, bytes]) -> None:
    found = inspect(file)
    assert found.total_bytes == file.stat().st_size
    assert found.total_bytes == found.graph_bytes + found.payload_bytes + found.plain_bytes
    assert found.payload_bytes == sum(map(len, payloads)) == sum(weight.bytes for weight in found.weights)
    assert found.plain_bytes == 400
    assert (found.format, found.package, found.payloads) == (reader.FORMAT_VERSION, "1.2.3", 2)


def test_every_weight_is_listed_with_its_name_operator_and_form(file: Path) -> None:
    weights = inspect(file).weights
    assert [weight.name for weight in weights] == ["encoder.weight", "q.0", "q.1"]
    assert [weight.operator for weight in weights] == ["CompressedMatMul", "Decompress", "CompressedMatMul"]
    assert [weight.dims for weight in weights] == [(64, 300), (8, 32), (16, 64)]
    assert [weight.dtype for weight in weights] == ["float", "float", "float16"]
    assert [weight.form.partition("(")[0] for weight in weights] == ["Grid", "Grid", "Codebook"]
    assert weights[0].bits_per_weight == pytest.approx(8 * weights[0].bytes / 19200)


def test_a_pool_is_shared_out_by_information(payloads: tuple[bytes, bytes]) -> None:
    payload = reader.read(np.frombuffer(payloads[1], np.uint8))
    bits = [symbol_bits(payload, member) for member in payload.members]
    assert bits[1] == pytest.approx(2 * 1024, rel=0.05)  # four codes, evenly spread: two bits each
    stream_bytes = len(payloads[1]) - reader.read_header(np.frombuffer(payloads[1], np.uint8)).header_bytes
    assert sum(bits) / 8 == pytest.approx(stream_bytes, rel=0.1)


def test_a_pool_of_trellises_and_row_classes_is_shared_out_by_information() -> None:
    data = np.frombuffer(writer.write_pool([*POOLS["of rows that differ"](), trellis(plain_view(1, 90, 70)), mapped(plain_view(1, 40, 50), 3, 7)]), np.uint8)
    payload, header = reader.read(data), reader.read_header(data)
    assert header.pool is not None
    assert any(member.symbols.row_class is not None for member in payload.members)
    bits = sum(symbol_bits(payload, member) for member in payload.members)
    assert bits / 8 == pytest.approx(len(data) - header.header_bytes - 2 * header.pool.lanes, rel=0.01)


def test_forms_are_named_with_what_is_special_about_them() -> None:
    assert form_text(trellis(plain_view(1, 4, 9)).form) == "Grid(scale 4 log8, 1 table, trellis)"
    assert form_text(mapped(plain_view(1, 4, 9), 3, 7).form) == "Mapped(3 x 7 float16 centroids, 1 table)"


@pytest.mark.parametrize("which", [0, 1])
def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, payloads: tuple[bytes, bytes], which: int) -> None:
    for place in range(0, len(payloads[which]), 97):
        damaged = [bytearray(data) for data in payloads]
        damaged[which][place] ^= 4
        file = save(tmp_path / "damaged.onnx", bytes(damaged[0]), bytes(damaged[1]))
        with pytest.raises(CompressError, match=rf"payload '{'pq'[which]}' of .*damaged\.onnx cannot be read"):
            inspect(file)


def test_a_truncated_payload_is_noticed(tmp_path: Path, payloads: tuple[bytes, bytes]) -> None:
    with pytest.raises(CompressError, match="announces"):
        inspect(save(tmp_path / "c.onnx", payloads[0][:-5], payloads[1]))


def test_an_unknown_draft_names_the_remedy(tmp_path: Path, payloads: tuple[bytes, bytes]) -> None:
    newer = payloads[0][:2] + b"\x63" + payloads[0][3:]
    with pytest.raises(CompressError, match=r"draft 99.*install the onnx-compress that wrote it"):
        inspect(save(tmp_path / "c.onnx", newer, payloads[1]))


def test_a_plain_model_is_refused(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info("x", 1, [1])], [info("y", 1, [1])])
    onnx.save(helper.make_model(graph), tmp_path / "plain.onnx")
    with pytest.raises(UsageError, match=r"plain\.onnx was not written by onnx-compress"):
        inspect(tmp_path / "plain.onnx")


def test_the_command_prints_a_table_or_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(file)]) == 0
    text = capsys.readouterr().out
    assert "encoder.weight" in text
    assert "64x300" in text
    assert main(["inspect", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"][2]["name"] == "q.1"


def test_the_decode_buffer_is_that_of_the_library() -> None:
    source = (Path(__file__).resolve().parents[1] / "runtime/cpp/decode.h").read_text()
    found = re.search(r"constexpr int64_t TILE_FLOATS = (\d+)", source)
    assert found
    assert 4 * int(found[1]) == DECODE_BUFFER_BYTES
