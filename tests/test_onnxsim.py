"""onnxsim is a helper that may be absent, slow or wrong."""

from __future__ import annotations

import importlib.util

import onnx_ir as ir
import pytest
from onnx_compress.passes import onnxsim_adapter
from onnx_compress.passes.simplify import simplify

from models.structures import STRUCTURES, feeds
from tests.slimming import assert_same, loaded_copy, run, slimmed, stored


def test_onnxsim_that_is_absent_or_slow_costs_a_note_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = STRUCTURES["tiny"](1)
    if importlib.util.find_spec("onnxsim") is not None:
        loaded = loaded_copy(model)
        assert "onnxsim: skipped, not done after 0.001 seconds" in simplify(loaded, onnxsim_seconds=0.001)
    monkeypatch.setattr(onnxsim_adapter.importlib.util, "find_spec", lambda name: None)
    assert "onnxsim: skipped, not installed" in simplify(loaded_copy(model), onnxsim_seconds=10)


def test_onnxsim_keeps_weights_and_values() -> None:
    if importlib.util.find_spec("onnxsim") is None:
        pytest.skip("onnxsim is not installed")
    for name in ("depthwise_batchnorm", "float16_cast", "argmax_classifier"):
        model = STRUCTURES[name](1)
        loaded = loaded_copy(model)
        notes = simplify(loaded, onnxsim_seconds=60)
        assert any(note.startswith(("onnxsim: saved", "onnxsim: result refused")) for note in notes)
        slim = ir.to_proto(loaded)
        assert {n for n, a in stored(slimmed(model)).items() if a.size >= 64} == {n for n, a in stored(slim).items() if a.size >= 64}
        assert_same(run(model, feeds(model, 2)), run(slim, feeds(model, 2)))
