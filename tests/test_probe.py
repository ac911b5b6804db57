"""A probe tells how far the outputs move, from the original's, the same on any number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_compress.optimizer import distortion
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.errors import CompressError
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.probe import Prober
from onnx_compress.optimizer.synthetic import synthesize
from onnx_compress.optimizer.weights import Rules, Weight, find_weights
from onnx_compress.passes.simplify import simplify

from models.network import Network, tensor
from models.storage import plain, write_external
from models.structures import STRUCTURES

SHARED = Path(__file__).parents[2] / "shared" / "models"


def prepared(model: onnx.ModelProto, folder: Path) -> tuple[ir.Model, tuple[Weight, ...], tuple[Feed, ...]]:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    loaded = load(path)
    simplify(loaded)
    return loaded, find_weights(loaded, Rules()).weights, synthesize(loaded, 0)


def noisy(weight: Weight, seed: int = 0) -> NDArray[np.float32]:
    values = weight.array().astype(np.float32)
    return values + 0.1 * values.std() * np.random.default_rng(seed).standard_normal(values.shape).astype(np.float32)


@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_replaced_moves_nothing_and_noise_moves_something(tmp_path: Path, name: str) -> None:
    model, weights, feeds = prepared(STRUCTURES[name](0), tmp_path)
    floats = [weight for weight in weights if weight.is_float]
    prober = Prober(model, weights, feeds, 2)
    assert prober.divergence({}) == 0
    assert prober.divergence({weight.name: weight.array().astype(np.float32) for weight in floats}) == 0
    if floats:
        assert prober.divergence({weight.name: noisy(weight) for weight in floats}) > 0


def test_the_divergence_is_that_of_a_model_file_with_the_new_weights(tmp_path: Path) -> None:
    model, weights, feeds = prepared(plain(0), tmp_path)
    changed = onnx.load(tmp_path / "model.onnx")
    replaced = {weight.name: noisy(weight) for weight in weights}
    for initializer in changed.graph.initializer:
        if initializer.name in replaced:
            initializer.CopyFrom(numpy_helper.from_array(replaced[initializer.name], initializer.name))
    kinds, total = distortion.kinds(model), 0.0
    sessions = [onnxruntime.InferenceSession(one) for one in (str(tmp_path / "model.onnx"), changed.SerializeToString())]
    for feed in feeds:
        outputs = [{"y": session.run(None, feed)[0]} for session in sessions]
        total += distortion.divergence(kinds, *outputs, None) / len(feeds)
    assert Prober(model, weights, feeds, 1).divergence(replaced) == pytest.approx(total, rel=1e-3)


def test_a_detector_that_finds_nothing_is_probed_by_its_logits(tmp_path: Path) -> None:
    """Its probabilities are 1e-9 and less, whatever happens to the weight: their error is rounding, that of the logits is not."""
    net = Network(0)
    score = net.add("MatMul", ["x", net.weight("w", (64, 80))])
    net.named(net.add("Sigmoid", [net.add("Sub", [score, net.constant("far", 24.0)])]), "y")
    model, weights, feeds = prepared(net.model("m", [tensor("x", ["n", 64])], [tensor("y", ["n", 80])]), tmp_path)
    prober = Prober(model, weights, feeds, 1)
    assert prober.kind == "map"
    small, large = (prober.divergence({"w": weights[0].array() + share * noisy(weights[0])}) for share in (0.01, 0.1))
    assert large == pytest.approx(100 * small, rel=0.05)


def test_biases_can_be_replaced_and_other_initializers_where_asked_for(tmp_path: Path) -> None:
    model, weights, feeds = prepared(plain(0), tmp_path)
    bias = {"first_bias": np.full(192, 0.5, np.float32)}
    assert Prober(model, weights, feeds, 1).divergence(bias) > 0
    others = [model.graph.initializers["second"]]
    assert Prober(model, others, feeds, 1).divergence({"second": np.zeros((192, 192), np.float32)}) > 0


@pytest.mark.parametrize("name", ["float16_cast", "bfloat16_cast", "float16_activations"])
def test_replacements_are_rounded_to_the_stored_type(tmp_path: Path, name: str) -> None:
    model, weights, feeds = prepared(STRUCTURES[name](0), tmp_path)
    prober = Prober(model, weights, feeds, 1)
    for weight in (weight for weight in weights if weight.dtype != 1):
        values = weight.array().astype(np.float32)
        assert prober.divergence({weight.name: values * np.float32(1 + 2.0**-14)}) == 0  # below half a unit of either type
        assert prober.divergence({weight.name: noisy(weight)}) > 0


@pytest.mark.parametrize("name", ["tied_transformer", "depthwise_batchnorm", "if_branches", "gru_language"])
def test_results_are_the_same_bits_on_any_number_of_threads(tmp_path: Path, name: str) -> None:
    model, weights, feeds = prepared(STRUCTURES[name](0), tmp_path)
    jobs = [{weight.name: noisy(weight, seed)} for weight in weights for seed in range(3)]
    results = [Prober(model, weights, feeds, threads).divergences(jobs) for threads in (1, 2, 4)]
    assert results[0] == results[1] == results[2]
    assert results[0] == [Prober(model, weights, feeds, 1).divergence(job) for job in jobs]


def test_a_weight_used_inside_branches_only_is_replaced_there(tmp_path: Path) -> None:
    model, weights, feeds = prepared(STRUCTURES["scan_body"](0), tmp_path)
    prober = Prober(model, weights, feeds, 1)
    assert all(prober.divergence({weight.name: noisy(weight)}) > 0 for weight in weights)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model, weights, feeds = prepared(plain(0), tmp_path)
    before = ir.serde.serialize_model(model).SerializeToString()
    Prober(model, weights, feeds, 1).divergence({weight.name: noisy(weight) for weight in weights})
    assert ir.serde.serialize_model(model).SerializeToString() == before


def test_external_data_is_read_where_it_lies(tmp_path: Path) -> None:
    model = load(write_external(plain(0), tmp_path / "model.onnx"))
    weights = find_weights(model, Rules()).weights
    assert Prober(model, weights, synthesize(model, 0), 1).divergence({weights[0].name: noisy(weights[0])}) > 0


def test_outputs_that_are_not_kept_are_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights, feeds = prepared(plain(0), tmp_path)
    job = {weights[0].name: noisy(weights[0])}
    kept = Prober(model, weights, feeds, 1).divergence(job)
    monkeypatch.setattr("onnx_compress.optimizer.probe.KEPT_BYTES", 1)
    assert Prober(model, weights, feeds, 1).divergence(job) == kept


def test_weights_that_break_the_model_are_infinitely_far(tmp_path: Path) -> None:
    model, weights, feeds = prepared(plain(0), tmp_path)
    broken = np.full(weights[0].view.dims, np.nan, np.float32)
    assert Prober(model, weights, feeds, 1).divergence({weights[0].name: broken}) == np.inf


def test_unknown_names_and_wrong_dims_are_refused(tmp_path: Path) -> None:
    model, weights, feeds = prepared(plain(0), tmp_path)
    prober = Prober(model, weights, feeds, 1)
    with pytest.raises(ValueError, match="nobody"):
        prober.divergence({"nobody": np.zeros(1, np.float32)})
    with pytest.raises(ValueError, match="dims"):
        prober.divergence({weights[0].name: np.zeros((1, 1), np.float32)})


def test_feeds_that_do_not_run_are_an_error_with_the_reason(tmp_path: Path) -> None:
    model, weights, _ = prepared(plain(0), tmp_path)
    with pytest.raises(CompressError, match=r"x \[2, 5\].*--input-shape"):
        Prober(model, weights, [{"x": np.zeros((2, 5), np.float32)}], 1)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no models in {SHARED}")
@pytest.mark.parametrize("name", ["mobilenet_v1_075_w16", "minilm_l6_v2", "charrnn_shakespeare_wbf16"])
def test_real_models_can_be_probed(name: str) -> None:
    model = load(SHARED / f"{name}.onnx")
    simplify(model)
    weights = find_weights(model, Rules()).weights
    prober = Prober(model, weights, synthesize(model, 0)[:1], 2)
    divergences = prober.divergences([{weight.name: noisy(weight)} for weight in weights[:6]])
    assert all(0 < value < np.inf for value in divergences)
