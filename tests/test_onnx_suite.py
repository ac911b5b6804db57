"""The nodes and converted models of onnx's own test suite survive compression."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase
from onnx_compress.optimizer.weights import Rules

from tests.outcomes import apart, compressed, plain_session, run

NODE_TESTS = {
    "test_conv_with_strides_padding": (1,),
    "test_convtranspose_1d": (1,),
    "test_convtranspose_3d": (1,),
    "test_convtranspose_dilations": (1,),
    "test_convtranspose_autopad_same": (1,),
    "test_basic_conv_with_padding": (1,),
    "test_conv_with_autopad_same": (1,),
    "test_gemm_all_attributes": (1, 2),
    "test_gemm_transposeA": (1, 2),
    "test_gemm_alpha": (0, 1),
    "test_gemm_beta": (1, 2),
    "test_gemm_default_matrix_bias": (1, 2),
    "test_gemm_default_scalar_bias": (1, 2),
    "test_matmul_2d": (1,),
    "test_matmul_3d": (1,),
    "test_matmul_4d": (1,),
    "test_gather_0": (0,),
    "test_gather_1": (0,),
    "test_gather_2d_indices": (0,),
    "test_gather_elements_0": (0,),
    "test_gathernd_example_float32": (0,),
    "test_lstm_defaults": (1, 2),
    "test_lstm_with_initial_bias": (1, 2, 3),
    "test_lstm_with_peepholes": (1, 2, 3, 4, 5, 6, 7),
    "test_gru_with_initial_bias": (1, 2),
    "test_gru_seq_length": (1, 2, 3),
    "test_simple_rnn_defaults": (1, 2),
    "test_concat_2d_axis_0": (0,),
    "test_where_example": (2,),
}
"""Tests of onnx's own suite and which of their inputs become initializers."""


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even weights of one value are touched, and no header stands in the way."""
    pipeline = importlib.import_module("onnx_compress.optimizer.compress")
    monkeypatch.setattr(pipeline, "Rules", lambda include, exclude: Rules(include, exclude, least=1, least_integers=1))


@pytest.fixture(scope="module")
def corpus() -> dict[str, TestCase]:
    """onnx's own tests of single nodes, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", NODE_TESTS)
def test_the_nodes_of_onnx_own_suite_survive(tmp_path: Path, name: str, corpus: dict[str, TestCase]) -> None:
    case = corpus[name]
    assert case.model is not None
    assert case.data_sets is not None
    made = onnx.ModelProto()
    made.CopyFrom(case.model)
    given = {value.name: np.asarray(array) for value, array in zip(made.graph.input, case.data_sets[0][0], strict=True)}
    for index in sorted(NODE_TESTS[name], reverse=True):
        weight = made.graph.input[index].name
        made.graph.initializer.append(numpy_helper.from_array(given.pop(weight), weight))
        del made.graph.input[index]
    made.ir_version = min(made.ir_version, 10)
    survives(tmp_path, made, given)

CONVERTED = sorted((Path(onnx.backend.test.__file__).parent / "data").glob("pytorch-*/*/model.onnx"))

CONSUMERS = ("Conv1d", "Conv2d", "Conv3d_dilated", "ConvTranspose2d", "Embedding", "operator_conv")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "path", [path for path in CONVERTED if any(one in path.parent.name for one in CONSUMERS)], ids=lambda path: path.parent.name
)
def test_the_converted_models_of_onnx_own_suite_survive(tmp_path: Path, path: Path) -> None:
    made = onnx.load(path)
    stored = {tensor.name for tensor in made.graph.initializer}
    names = [value.name for value in made.graph.input if value.name not in stored]
    given = {}
    for number, name in enumerate(names):
        content = onnx.TensorProto()
        content.ParseFromString((path.parent / "test_data_set_0" / f"input_{number}.pb").read_bytes())
        given[name] = numpy_helper.to_array(content)
    survives(tmp_path, made, given)


def survives(folder: Path, made: onnx.ModelProto, given: dict[str, NDArray[Any]]) -> None:
    """Compressed, restored, checked, and about the same result on the suite's own input."""
    made.doc_string = "room for headers " * 1000
    outcome = compressed(folder, made, 1.5)
    assert outcome.report.weights
    for path in (outcome.target, outcome.restored):
        onnx.checker.check_model(str(path), full_check=True)
    outcome.check_interface()
    outcome.check_weights()
    outcome.check_outputs([given])
    for before, after in zip(run(plain_session(outcome.source), given), run(plain_session(outcome.restored), given), strict=True):
        assert apart(after, before) < 1e-3
