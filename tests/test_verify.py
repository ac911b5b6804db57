"""Verification: what it must find, and what it says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_compress.optimizer import Request, compress
from onnx_compress.optimizer.errors import CompressError, VerificationError
from onnx_compress.optimizer.verify import _apart, verify
from onnx_compress.runtime import session
from onnx_compress.runtime.errors import UnsupportedVersionError
from onnx_compress.runtime.header import MAGIC

from models.network import Network, tensor
from models.storage import plain
from models.structures import STRUCTURES, feeds
from tests.outcomes import Outcome, calibration, compressed, plain_session


def with_payload(outcome: Outcome, number: int, change: Any) -> Path:
    """A copy of the compressed model in which the bytes of its payload with that number, by size, are changed."""
    made = onnx.load(outcome.target)
    payloads = sorted((one for one in made.graph.initializer if one.raw_data[:2] == MAGIC), key=lambda one: -len(one.raw_data))
    chosen = payloads[number]
    data = bytearray(chosen.raw_data)
    change(data)
    chosen.raw_data, chosen.dims[0] = bytes(data), len(data)
    path = outcome.target.with_name("changed.onnx")
    onnx.save(made, path)
    return path


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Chunked payloads whose streams have a raw section."""
    return compressed(tmp_path_factory.mktemp("verify"), plain(0), 4)


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_a_flipped_bit_is_found_wherever_it_is(outcome: Outcome, where: float) -> None:
    """Tables, rANS bytes, heads, raw bits: no bit of a payload is without a checksum."""

    def flip(data: bytearray) -> None:
        data[int(where * (len(data) - 1))] ^= 4

    path = with_payload(outcome, 0, flip)
    with pytest.raises(CompressError, match=r"changed\.onnx"):
        verify(str(outcome.source), str(path))


@pytest.mark.parametrize("kept", [5, 0.5, -1])
def test_a_truncated_payload_is_found(outcome: Outcome, kept: float) -> None:
    def cut(data: bytearray) -> None:
        del data[int(kept if kept < 0 or kept > 1 else kept * len(data)) :]

    path = with_payload(outcome, 1, cut)
    with pytest.raises(CompressError, match=r"changed\.onnx.*copy the file again"):
        verify(outcome.source, path)


def test_another_draft_is_named(outcome: Outcome) -> None:
    def later(data: bytearray) -> None:
        data[2] = 9

    path = with_payload(outcome, 0, later)
    with pytest.raises(CompressError, match="draft 9"):
        verify(outcome.source, path)
    with pytest.raises(UnsupportedVersionError, match="draft 9"):
        session(path)


def test_an_honest_file_passes_and_says_how_far_it_is(outcome: Outcome) -> None:
    report = verify(outcome.source, outcome.target, max_divergence=0.1)
    assert 0 < report.divergence < 0.01
    assert report.fused_against_restored <= 1e-4
    assert not report.warnings


def test_the_largest_divergence_is_a_limit(outcome: Outcome) -> None:
    with pytest.raises(VerificationError, match="more than --max-divergence 1e-09"):
        verify(outcome.source, outcome.target, max_divergence=1e-9)


def test_compression_itself_verifies_and_leaves_nothing(tmp_path: Path) -> None:
    onnx.save(plain(0), tmp_path / "in.onnx")
    with pytest.raises(VerificationError, match="max-divergence") as caught:
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=10, max_divergence=1e-9))
    assert caught.value.exit_code == 4
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


def test_given_inputs_are_used(tmp_path: Path) -> None:
    model = STRUCTURES["argmax_classifier"](0)
    outcome = compressed(tmp_path, model, 4)
    report = verify(outcome.source, outcome.target, calibration(tmp_path, model))
    assert "3 batches" in report.inputs


def division(seed: int) -> onnx.ModelProto:
    """y = log(min over columns of |x W| + c): where the product becomes smaller than -c a NaN appears."""
    net = Network(seed)
    product = net.add("MatMul", ["x", net.weight("weight", (128, 128))])
    net.named(net.add("Log", [net.add("Add", [product, net.constant("shift", 30.0)])]), "y")
    return net.model("division", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])])


def test_a_nan_that_the_original_does_not_have_is_refused(tmp_path: Path) -> None:
    """The original of the compressed file has a shift of 30, below which no logarithm falls; a file with -30 gives NaN everywhere."""
    outcome = compressed(tmp_path, division(0), 4)
    made = onnx.load(outcome.target)
    shift = next(one for one in made.graph.initializer if not one.dims)
    shift.CopyFrom(numpy_helper.from_array(np.array(-30.0, np.float32), shift.name))
    onnx.save(made, tmp_path / "broken.onnx")
    with pytest.raises(VerificationError, match="'y' of the compressed model holds NaN"):
        verify(outcome.source, tmp_path / "broken.onnx")


def test_one_more_nan_beside_those_of_the_original_is_refused(tmp_path: Path) -> None:
    net = Network(0)
    product = net.add("MatMul", ["x", net.weight("weight", (128, 128))])
    shift = np.full(128, 1e4, np.float32)
    shift[0] = -1e4  # the first column is NaN in the original already
    net.named(net.add("Log", [net.add("Add", [product, net.constant("shift", shift)])]), "y")
    outcome = compressed(tmp_path, net.model("m", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])]), 4)
    outcome.check()
    made = onnx.load(outcome.target)
    held = next(one for one in made.graph.initializer if len(one.dims) == 1 and 64 <= one.dims[0] <= 128)
    values = numpy_helper.to_array(held).copy()
    values[5] = -values[5]
    held.CopyFrom(numpy_helper.from_array(values, held.name))
    onnx.save(made, tmp_path / "broken.onnx")
    with pytest.raises(VerificationError, match="holds NaN"):
        verify(outcome.source, tmp_path / "broken.onnx")


def test_a_fused_operator_that_computes_something_else_is_found(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bug of the library would: its outputs are a thousandth too large."""
    module = importlib.import_module("onnx_compress.optimizer.verify")
    real = module.run

    def wrong(made: onnxruntime.InferenceSession, given: Any, *tick: Any) -> list[dict[str, NDArray[Any]]]:
        results = real(made, given, *tick)
        is_ours = "onnx_compress.format" in made.get_modelmeta().custom_metadata_map
        return [{name: array * np.float32(1.001) for name, array in one.items()} for one in results] if is_ours else results

    monkeypatch.setattr(module, "run", wrong)
    with pytest.raises(VerificationError, match=r"differs from the restored model's by 0\.001"):
        verify(outcome.source, outcome.target)


def test_outputs_that_are_all_rounding_are_no_bug(tmp_path: Path) -> None:
    """A Sigmoid of -14 is 8e-7, and floats near it are multiples of 6e-8 in onnxruntime's kernel: the order of a sum moves it by a tenth."""
    net = Network(0)
    product = net.add("MatMul", ["x", net.weight("weight", (256, 128))])
    net.named(net.add("Sigmoid", [net.add("Sub", [product, net.constant("far", 14.0)])]), "y")
    outcome = compressed(tmp_path, net.model("m", [tensor("x", ["batch", 256])], [tensor("y", ["batch", 128])]), 4)
    outcome.check_weights()


def test_an_output_that_one_input_hardly_moves_is_judged_by_what_others_make_of_it(outcome: Outcome) -> None:
    big, small = {"y": np.full(9, 100.0, np.float32)}, {"y": np.full(9, 1e-4, np.float32)}
    other = {"y": np.full(9, 1.5e-4, np.float32)}
    assert _apart([big, small], [big, other]) == {"y": pytest.approx(5e-7)}
    assert _apart([small], [other]) == {"y": pytest.approx(1 / 3)}


def test_outputs_of_other_shapes_are_infinitely_apart_and_integers_have_a_check_of_their_own() -> None:
    three, four = ({"y": np.ones(size, np.float32), "label": np.full(size, size)} for size in (3, 4))
    assert _apart([three], [four]) == {"y": np.inf}
    assert _apart([three, three], [three, four]) == {"y": np.inf}
    assert _apart([three], [three | {"label": np.zeros(3, np.int64)}]) == {"y": 0.0}


def test_a_visible_loss_is_never_silent(tmp_path: Path) -> None:
    """At 25 times, half a bit a weight is left beside the scales."""
    model = STRUCTURES["conv_1d"](0)
    report = compressed(tmp_path, model, 25).report
    assert re.search("accuracy usually suffers: give --calibration data, or ask for a lower ratio", report.warnings[0])
    (calibrated,) = compressed(tmp_path, model, 25, calibration=calibration(tmp_path, model)).report.warnings
    assert calibrated.endswith("ask for a lower ratio")
    assert "calibration" not in calibrated


def test_without_the_library_the_error_names_our_domain_and_the_file_says_what_to_install(outcome: Outcome) -> None:
    with pytest.raises(Exception, match=r"onnx_compress:Compressed\w+\(-1\) is not a registered function/op"):
        plain_session(outcome.target)
    entries = {entry.key: entry.value for entry in onnx.load(outcome.target).metadata_props}
    assert entries["onnx_compress.package"].startswith("pip install onnx-compress")


@pytest.mark.parametrize("name", ["if_branches", "loop_body", "nested_bodies"])
def test_every_batch_that_is_given_is_compared(tmp_path: Path, name: str) -> None:
    """Also where a condition on the data decides which branch runs."""
    outcome = compressed(tmp_path, STRUCTURES[name](0), 4)
    outcome.check_outputs([feeds(outcome.original, seed, batch=1 + seed % 3) for seed in range(6)])
