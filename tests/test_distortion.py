"""Each kind of output is measured in its own way, the same way as the shared divergence.py, and told apart by the graph."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx_compress.optimizer.distortion import WARN_ABOVE, Kind, counted, divergence, is_silent, kinds, logits, main_kind
from onnx_compress.optimizer.loading import load
from onnx_compress.passes.simplify import simplify

from models.network import Network, tensor
from models.structures import STRUCTURES

SHARED = Path(__file__).parents[2] / "shared" / "models"
REAL: dict[str, set[Kind]] = {
    "mobilenet_v1_075": {"classes"},
    "mobilenet_v1_075_w16": {"classes"},
    "cifar10_resnet20": {"classes"},
    "cifar10_resnet20_jpegft": {"classes"},
    "mlperf_kws_dscnn": {"classes"},
    "mnist_cntk": {"classes"},
    "charrnn_shakespeare": {"classes"},
    "charrnn_shakespeare_wbf16": {"classes"},
    "minilm_l6_v2": {"embedding"},
    "nanodet_m": {"map", "probability"},
    "ultraface_rfb320": {"map"},
}


def one(kind: Kind, original: NDArray[np.generic], changed: NDArray[np.generic], mask: NDArray[np.bool_] | None = None) -> float:
    return divergence({"y": kind}, {"y": original}, {"y": changed}, mask)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax(x: NDArray[np.float32]) -> NDArray[np.float32]:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def kinds_of(net: Network, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> dict[str, Kind]:
    model = ir.serde.deserialize_model(net.model("m", inputs, outputs))
    before = kinds(model)
    simplify(model)
    assert kinds(model) == before
    return before


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    if not SHARED.is_dir():
        pytest.skip(f"no models in {SHARED}")
    sys.path.insert(0, str(SHARED))
    try:
        spec = importlib.util.spec_from_file_location("shared_divergence", SHARED / "divergence.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SHARED))
    return module


@pytest.mark.parametrize("kind", WARN_ABOVE)
def test_equal_outputs_diverge_by_nothing_and_different_ones_by_more(kind: Kind) -> None:
    x = normal(6, 10)
    assert one(kind, x, x.copy()) == 0
    assert one(kind, x, x + 0.1 * normal(6, 10, seed=1)) > 0


def test_the_measures_agree_with_the_shared_script(reference: ModuleType) -> None:
    a, b = normal(7, 5), normal(7, 5) + 0.3 * normal(7, 5, seed=1)
    assert one("classes", a, b) == pytest.approx(reference.kl([a], [b]).mean())
    assert one("classes", softmax(a), softmax(b)) == pytest.approx(reference.kl([softmax(a)], [softmax(b)]).mean())
    assert one("embedding", a, b) == pytest.approx(reference.cosine([a], [b]).mean())
    assert one("map", a, b) == pytest.approx(reference.nmse([a], [b]).mean())


def test_logits_and_their_distribution_diverge_alike() -> None:
    a, b = normal(9, 12), normal(9, 12, seed=2)
    assert one("classes", a, b) == pytest.approx(one("classes", softmax(a), softmax(b)), rel=1e-4)
    assert one("classes", a, b) == pytest.approx(one("classes", a.reshape(9, 12, 1, 1), b.reshape(9, 12, 1, 1)))
    assert one("classes", a, a + 5) == pytest.approx(0, abs=1e-9)


def test_the_share_of_unequal_integers_counts() -> None:
    assert one("integer", np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25


@pytest.mark.parametrize("kind", ["classes", "embedding", "probability", "map"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_new_nan_or_infinity_is_infinitely_far_and_an_old_one_does_not_count(kind: Kind, bad: float) -> None:
    x = normal(6, 10)
    broken = x.copy()
    broken[2, 3] = bad
    assert one(kind, x, broken) == np.inf
    assert np.isfinite(one(kind, broken, x))
    assert one(kind, broken, broken.copy()) == 0


def test_classes_that_minus_infinity_rules_out_in_both_cost_nothing() -> None:
    x = normal(4, 6)
    x[:, 2] = -np.inf
    y = x + 0.1 * normal(4, 6, seed=1)
    assert 0 < one("classes", x, y) < 0.1


@pytest.mark.parametrize("kind", ["classes", "embedding", "probability", "map"])
def test_masked_positions_do_not_count(kind: Kind) -> None:
    x = normal(2, 5, 8)
    mask = np.arange(5) < np.array([[2], [4]])
    changed = np.where(mask[..., None], x, 100).astype(np.float32)
    assert one(kind, x, changed, mask) == 0
    assert one(kind, x, changed) > 0


def test_one_number_a_sample_is_never_hidden_by_a_softmax() -> None:
    x = normal(8, 1)
    assert one("classes", x, x + 1) > 0.1


def test_outputs_of_another_shape_are_entirely_different() -> None:
    assert one("map", normal(3, 4), normal(2, 4)) == 1


def test_zero_vectors_agree_with_themselves_only() -> None:
    zero = np.zeros((2, 4), np.float32)
    assert one("embedding", zero, zero + 1) == 1
    assert one("map", zero, zero) == 0
    assert one("classes", np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) == 0


def test_the_mean_is_over_floats_and_integers_count_only_alone() -> None:
    kinds_here: dict[str, Kind] = {"label": "integer", "a": "map", "b": "map"}
    original = {"label": np.array([1]), "a": np.ones(4), "b": np.ones(4)}
    changed = {"label": np.array([2]), "a": np.ones(4), "b": np.full(4, 1.5)}
    assert divergence(kinds_here, original, changed, None) == pytest.approx(0.125)
    assert main_kind(kinds_here) == "map"
    assert counted({"label": "integer"}) == ("label",)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no models in {SHARED}")
@pytest.mark.parametrize("name", REAL)
def test_outputs_of_real_models_are_told_apart(name: str) -> None:
    model = load(SHARED / f"{name}.onnx")
    assert set(kinds(model).values()) == REAL[name] or name == "mnist_cntk"  # its last weight is reshaped at run time
    simplify(model)
    assert set(kinds(model).values()) == REAL[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tied_transformer", {"logits": "classes"}),
        ("argmax_classifier", {"logits": "classes", "label": "integer"}),
        ("lstm_bidirectional", {"scores": "classes", "final": "map"}),
        ("gru_language", {"logits": "classes", "next_state": "map"}),
        ("depthwise_batchnorm", {"logits": "classes"}),
        ("conv_transpose", {"map": "map"}),
        ("scan_body", {"states": "map"}),
        ("also_an_output", {"y": "classes", "table": "integer"}),
    ],
)
def test_outputs_of_our_own_structures_are_told_apart(name: str, expected: dict[str, Kind]) -> None:
    assert kinds(ir.serde.deserialize_model(STRUCTURES[name](0))) == expected


def test_layer_normalised_states_and_pooled_features_are_embeddings() -> None:
    net = Network(0)
    x = net.add("MatMul", ["x", net.weight("w", (64, 64))])
    x = net.add("LayerNormalization", [x, net.constant("scale", np.ones(64, np.float32)), net.bias("shift", 64)])
    net.named(x, "last_hidden_state")
    first = net.add("Gather", ["last_hidden_state", net.constant("zero", 0, "int64")], {"axis": 1})
    net.named(net.add("Tanh", [net.add("Gemm", [first, net.weight("pooler", (64, 64)), net.bias("bias", 64)])]), "pooler_output")
    outputs = [tensor("last_hidden_state", ["n", "t", 64]), tensor("pooler_output", ["n", 64])]
    found = kinds_of(net, [tensor("x", ["n", "t", 64])], outputs)
    assert found == {"last_hidden_state": "embedding", "pooler_output": "embedding"}


def test_names_decide_where_the_last_multiply_leaves_it_open() -> None:
    net = Network(0)
    for name in ("pred_boxes", "image_embeds", "pred_logits", "out"):
        net.named(net.add("MatMul", ["x", net.weight(f"w_{name}", (64, 4 if name == "pred_boxes" else 96))]), name)
    outputs = [tensor(name, ["n", 4 if name == "pred_boxes" else 96]) for name in ("pred_boxes", "image_embeds", "pred_logits", "out")]
    found = kinds_of(net, [tensor("x", ["n", 64])], outputs)
    assert found == {"pred_boxes": "map", "image_embeds": "embedding", "pred_logits": "classes", "out": "classes"}


def test_a_single_number_is_a_map_and_a_sigmoid_gives_probabilities() -> None:
    net = Network(0)
    net.named(net.add("Sigmoid", [net.add("MatMul", ["x", net.weight("w", (64, 5))])]), "probabilities")
    net.named(net.add("MatMul", ["x", net.weight("v", (64, 1))]), "price")
    net.named(net.add("ArgMax", ["probabilities"]), "best")
    outputs = [tensor("probabilities", ["n", 5]), tensor("price", ["n", 1]), tensor("best", [1, 5], TensorProto.INT64)]
    assert kinds_of(net, [tensor("x", ["n", 64])], outputs) == {"probabilities": "probability", "price": "map", "best": "integer"}


def test_probabilities_that_are_all_but_zero_do_not_diverge_by_their_rounding() -> None:
    a = np.full((2, 8), 1e-6)
    assert one("probability", a, a * 1.1) < 1e-7
    assert one("probability", a + 0.5, a + 0.4) == pytest.approx(one("map", a + 0.5, a + 0.4))
    assert is_silent(a)
    assert not is_silent(np.array([1e-6, 0.4]))
    assert not is_silent(np.zeros((0, 4)))


def test_what_a_sigmoid_reads_is_found_behind_what_moves_values() -> None:
    net = Network(0)
    score = net.add("MatMul", ["x", net.weight("w", (64, 5))])
    net.named(net.add("Transpose", [net.add("Sigmoid", [score])], {"perm": [1, 0]}), "y")
    net.named(net.add("Tanh", [score]), "z")
    graph = net.model("m", [tensor("x", ["n", 64])], [tensor("y", [5, "n"]), tensor("z", ["n", 5])])
    assert logits(ir.from_proto(graph)) == {"y": score}
