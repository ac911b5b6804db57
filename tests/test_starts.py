"""Probes that begin behind what a weight has no part in find what probes of the whole model find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_compress.optimizer import starts as module
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.probe import Prober
from onnx_compress.optimizer.rig import Rig
from onnx_compress.optimizer.starts import starts
from onnx_compress.optimizer.synthetic import synthesize
from onnx_compress.optimizer.weights import Weight

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.measuring import correlated, finished, loaded

LAYERS, WIDTH = 12, 16
FEEDS: list[Feed] = [{"x": correlated(6, WIDTH, seed=number)} for number in range(3)]
VALUE_BYTES = 4 * 6 * WIDTH * len(FEEDS)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[ir.Model, tuple[Weight, ...]]:
    """Layers that each add to what the one before gave; the first weight is multiplied with once more at the end."""
    net = Network(0)
    x, first = "x", net.weight("w0", (WIDTH, WIDTH))
    for number in range(LAYERS):
        product = net.add("MatMul", [x, first if number in (0, LAYERS - 1) else net.weight(f"w{number}", (WIDTH, WIDTH))])
        x = net.add("Relu", [product])
    return loaded(finished(net, x, [tensor("x", ["n", WIDTH])], 2), tmp_path)


def noisy(weight: Weight, share: float = 0.1) -> dict[str, np.ndarray]:
    values = weight.array().astype(np.float32)
    return {weight.name: values + np.float32(share) * values.std() * np.random.default_rng(0).standard_normal(values.shape).astype(np.float32)}


def divergences(model: ir.Model, weights: tuple[Weight, ...], feeds: list[Feed]) -> list[float]:
    prober = Prober(model, weights, feeds, 2)
    return [prober.divergence(noisy(weight)) for weight in weights if weight.is_float]


@pytest.mark.parametrize("name", STRUCTURES)
def test_probes_find_the_same_from_wherever_they_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model, weights = loaded(STRUCTURES[name](0), tmp_path)
    feeds = list(synthesize(model, 0))
    near = divergences(model, weights, feeds)
    monkeypatch.setattr(module, "KEPT_BYTES", 0)
    np.testing.assert_allclose(near, divergences(model, weights, feeds), rtol=2e-3, atol=1e-9)


def test_the_places_that_are_kept_fit_and_spare_most(chain: tuple[ir.Model, tuple[Weight, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = chain
    fed = {weight.name: weight.value for weight in weights}
    output = [str(model.graph.outputs[0].name)]
    for fitting in (0, 1, 3, module.PLACES - 1):
        monkeypatch.setattr(module, "KEPT_BYTES", fitting * VALUE_BYTES)
        found = starts(model, fed, output, FEEDS, 1)
        assert [len(one.kept) for one in found] == [len(FEEDS)] * fitting
        passed = [len(one.passed & fed.keys()) for one in found]
        assert passed == sorted(set(passed))
        if fitting == 1:
            assert passed[0] in (5, 6, 7)  # in the middle it spares half of the way to half of the layers


def test_a_weight_that_is_used_again_later_is_probed_from_its_first_use(chain: tuple[ir.Model, tuple[Weight, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = chain
    runs: list[Rig] = []
    real = Rig.run

    def counted(self: Rig, *args: object, **named: object) -> object:
        runs.append(self)
        return real(self, *args, **named)  # type: ignore[arg-type]

    prober = Prober(model, weights, FEEDS, 1)
    monkeypatch.setattr(Rig, "run", counted)
    begun = {}
    for weight in weights:
        runs.clear()
        prober.divergence(noisy(weight))
        begun[weight.name] = next((number for number, start in enumerate(prober._starts) if start.rig is runs[0]), -1)
    assert begun["w0"] == -1
    assert begun[f"w{LAYERS - 2}"] == len(prober._starts) - 1 > 0
    prober.forget()
    runs.clear()
    prober.divergence(noisy(weights[-1]))
    assert {*runs} == {prober._rig}
