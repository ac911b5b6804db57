"""The whole pipeline on every generated structure: ratio, agreement, restoration, interface; and the cases that compressors get wrong."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer import Request, compress
from onnx_compress.optimizer.distortion import ROUNDING
from onnx_compress.optimizer.errors import TargetError, UsageError

from models.structures import STRUCTURES
from tests.outcomes import TOLERANCE, TOLERANCE_FLOAT16, WINDOW, bits, calibration, compressed, constants

NO_WEIGHTS = {
    "tiny": "no large constants",
    "double_weights": "type double",
    "also_an_output": "an output of the model",
    "not_a_number": "NaN or infinite",
    "without_weights": "no large constants",
}
INTEGERS = ("int8_per_channel", "uint8_activations", "integer_operators", "matmul_nbits", "int4_blocks")
"""Their levels are coded without loss: 4 or 8 bits become 3 to 7."""

LOSSLESS_RATIO = 1.1
OUT_OF_REACH = {"infinite"}
"""Half of this one is a mask of -inf, which is left alone."""

TOO_EASY = {
    "cluttered": "mostly dead weights and documentation: the finest grid is below a quarter",
    "pruned": "nine tenths zeros: the finest grid is below a quarter",
    "constant_values": "few distinct values: coded without loss they take a fourteenth",
}
WEIGHTY = tuple(name for name in STRUCTURES if name not in NO_WEIGHTS and name not in INTEGERS and name not in OUT_OF_REACH)
TOLERANCES = {"float16_activations": TOLERANCE_FLOAT16}
FIXED_BATCH = ("overridable_initializers",)


def batches(name: str) -> tuple[int, ...]:
    """Sizes of the batch to run at; the sizes of synthesized and calibration batches are others."""
    return (1,) if name in FIXED_BATCH else (1, 3)


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("name", WEIGHTY)
def test_every_structure_is_compressed_and_restored(tmp_path: Path, name: str, ratio: int) -> None:
    outcome = compressed(tmp_path, STRUCTURES[name](0), ratio)
    assert outcome.report.ratio >= ratio
    assert ratio == 2 or name in TOO_EASY or outcome.report.ratio <= WINDOW * ratio  # half of 32 bits is more than the grid's finest step
    outcome.check(batches(name), TOLERANCES.get(name, TOLERANCE))


@pytest.mark.parametrize("name", WEIGHTY)
def test_every_structure_is_compressed_with_calibration(tmp_path: Path, name: str) -> None:
    model = STRUCTURES[name](1)
    outcome = compressed(tmp_path, model, 6, calibration=calibration(tmp_path, model))
    assert outcome.report.ratio >= 6
    assert name in TOO_EASY or outcome.report.ratio <= WINDOW * 6
    assert "calibration" in outcome.report.inputs
    outcome.check(batches(name), TOLERANCES.get(name, TOLERANCE))


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_a_structure_without_weights_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    onnx.save(STRUCTURES[name](0), tmp_path / "in.onnx")
    with pytest.raises(UsageError, match=NO_WEIGHTS[name]):
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=2))
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


@pytest.mark.parametrize("name", [*INTEGERS, *OUT_OF_REACH])
def test_a_target_out_of_reach_is_an_error_that_names_the_best_ratio(tmp_path: Path, name: str) -> None:
    onnx.save(STRUCTURES[name](0), tmp_path / "in.onnx")
    with pytest.raises(TargetError, match=r"2 times smaller cannot be reached, 1\.\d+ times can") as caught:
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=2))
    assert ("weights that keep their bits (integers, --lossless-weights)" in str(caught.value)) == (name in INTEGERS)
    assert [file.name for file in tmp_path.iterdir()] == ["in.onnx"]


@pytest.mark.parametrize("name", INTEGERS)
def test_weights_that_are_integers_already_are_coded_without_loss(tmp_path: Path, name: str) -> None:
    outcome = compressed(tmp_path, STRUCTURES[name](0), LOSSLESS_RATIO)
    assert outcome.report.ratio >= LOSSLESS_RATIO
    outcome.check()


def test_the_best_ratio_that_an_error_names_can_be_had(tmp_path: Path) -> None:
    onnx.save(STRUCTURES["infinite"](0), tmp_path / "in.onnx")
    with pytest.raises(TargetError) as caught:
        compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=4))
    best = float(str(caught.value).split("reached, ")[1].split(" times")[0])
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=best * 0.999))
    assert best * 0.999 <= report.ratio <= best * WINDOW


def test_a_finite_mask_beside_minus_infinity_is_left_alone_and_the_rest_compressed(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["infinite"](0), 1.6)
    assert [name for name, reason, _ in outcome.report.left_alone if "infinite" in reason] == ["mask"]
    outcome.check()


EXCLUDED = {
    "tied_transformer": "^embedding$",
    "if_branches": "own|outer",
    "duplicated_weights": "^copy$",
    "cluttered": "layer_00[0-2]/dense",
    "bfloat16_cast": "kernel",
    "float16_activations": "hidden",
}


@pytest.mark.parametrize(("name", "excluded"), EXCLUDED.items())
def test_excluded_weights_keep_every_byte(tmp_path: Path, name: str, excluded: str) -> None:
    model = STRUCTURES[name](0)
    outcome = compressed(tmp_path, model, 1.3, exclude=(excluded,))
    outcome.check(tolerance=TOLERANCES.get(name, TOLERANCE))
    wanted = {(tensor.data_type, tuple(tensor.dims), bits(tensor)) for tensor in constants(model) if re.search(excluded, tensor.name)}
    for path in (outcome.target, outcome.restored):
        stored = {(tensor.data_type, tuple(tensor.dims), bits(tensor)) for tensor in onnx.load(path).graph.initializer}
        assert wanted
        assert wanted <= stored
    assert not [weight.name for weight in outcome.report.weights if re.search(excluded, weight.name)]


@pytest.mark.parametrize("name", ["if_branches", "loop_body", "scan_body", "nested_bodies", "local_functions"])
def test_weights_of_bodies_and_functions_are_compressed_too(tmp_path: Path, name: str) -> None:
    outcome = compressed(tmp_path, STRUCTURES[name](0), 4)
    large = sum(np.prod(weight.dims) for weight in outcome.report.weights)
    assert large == sum(np.prod(tensor.dims) for tensor in constants(outcome.original) if len(tensor.dims) == 2)


def test_weights_of_few_values_are_coded_without_loss(tmp_path: Path) -> None:
    outcome = compressed(tmp_path, STRUCTURES["constant_values"](0), 4)
    assert "distinct values" in {weight.form.split(":")[0] for weight in outcome.report.weights}  # two values of one size are a grid as well
    assert outcome.report.divergence < ROUNDING
    originals = {bits(tensor) for tensor in constants(outcome.original) if len(tensor.dims) == 2}
    assert originals <= {bits(tensor) for tensor in onnx.load(outcome.restored).graph.initializer}
    outcome.check()
