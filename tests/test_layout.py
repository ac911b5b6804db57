"""Reordering between folded and fused convolutions: which values are, what it costs, and what is best for all weights at once."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer.allocate import Timed, allocate_timed
from onnx_compress.optimizer.cost import reordering
from onnx_compress.optimizer.layout import Layout
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.plan import Layer
from onnx_compress.optimizer.weights import Rules, find_weights
from onnx_compress.optimizer.work import measure
from onnx_compress.passes.technique import Context

from models.network import Network, tensor

NAMES = ("a", "b", "c", "d", "e")


def cost(layout: Layout, gains: dict[str, float], folded: dict[str, bool], price: float) -> float:
    """What a choice costs where not folding a weight costs its gain."""
    return price * layout.microseconds(folded) - sum(gains[name] for name, one in folded.items() if one)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_of_all_choices_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = [*NAMES, None, None]
    borders = tuple((ends[one], ends[other], float(rng.uniform(0, 3))) for one, other in rng.integers(0, len(ends), (8, 2)) if ends[one] != ends[other])
    gains = {name: float(rng.normal(0, 2)) for name in NAMES} | {"e": -math.inf if seed % 3 == 0 else 1.0}
    layout, price = Layout(borders), float(rng.uniform(0.1, 2))
    choices = [dict(zip(NAMES, one, strict=True)) for one in product((False, True), repeat=len(NAMES))]
    least = min(cost(layout, gains, one, price) for one in choices)
    assert cost(layout, gains, layout.best(gains, price), price) == pytest.approx(least)
    for one in choices:
        differing = sum(size for near, far, size in borders if one.get(near or "", False) != one.get(far or "", False))
        assert layout.microseconds(one) == pytest.approx(differing)


def layers(path: Path) -> list[Layer]:
    """Those of a model, with their work."""
    model = load(path)
    weights = find_weights(model, Rules(least=16)).weights
    works = measure(model, weights, [{"x": np.zeros((1, 16, 8, 8), np.float32)}])
    return [Layer(weight, Context(), work=works[weight.name]) for weight in weights]


def network(path: Path) -> list[Layer]:
    """first > Relu > (second > Add with what went in) > pool > third, whose outputs are not a multiple of four, > fourth."""
    net = Network(0)
    one = net.add("Relu", [net.add("Conv", ["x", net.weight("first", (32, 16, 1, 1))])])
    two = net.add("Add", [net.add("Conv", [one, net.weight("second", (32, 32, 1, 1))]), one])
    three = net.add("Conv", [net.add("MaxPool", [two], {"kernel_shape": [2, 2], "strides": [2, 2]}), net.weight("third", (30, 32, 1, 1))])
    net.named(net.add("Conv", [three, net.weight("fourth", (32, 30, 1, 1))]), "y")
    onnx.save(net.model("g", [tensor("x", (1, 16, 8, 8))], [tensor("y", (1, 32, 4, 4))]), path)
    return layers(path)


def test_values_are_reordered_where_layouts_meet(tmp_path: Path) -> None:
    layout = Layout.of(network(tmp_path / "m.onnx"))
    none = dict.fromkeys(("first", "second", "third", "fourth"), False)
    inner, small = reordering(32 * 64), reordering(32 * 16)
    assert layout.microseconds(none) == 0
    # third makes no blocks, folded or not: it is as if it stayed plain.
    assert layout.microseconds(none | {"third": True}) == 0
    assert layout.microseconds(none | {"first": True}) == pytest.approx(reordering(16 * 64) + inner)
    assert layout.microseconds(none | {"first": True, "second": True}) == pytest.approx(reordering(16 * 64) + small)
    assert layout.microseconds(none | {"fourth": True}) == pytest.approx(reordering(30 * 16) + reordering(32 * 16))


def test_few_channels_are_read_as_they_are(tmp_path: Path) -> None:
    net = Network(0)
    net.named(net.add("Conv", ["x", net.weight("filter", (32, 16, 1, 1))]), "y")
    onnx.save(net.model("g", [tensor("x", (1, 16, 8, 8))], [tensor("y", (1, 32, 8, 8))]), tmp_path / "m.onnx")
    (layer,) = layers(tmp_path / "m.onnx")
    assert Layout.of([layer]).microseconds({"filter": True}) == pytest.approx(reordering(16 * 64) + reordering(32 * 64))
    narrow = replace(layer, weight=replace(layer.weight, view=replace(layer.weight.view, dims=(32, 3, 1, 1))))
    assert Layout.of([narrow]).microseconds({"filter": True}) == pytest.approx(reordering(32 * 64))


def test_neighbours_are_folded_together_or_not_at_all() -> None:
    """Each weight gains 4 us folded; between two of them reordering takes 3, so alone none is worth its two borders."""
    names = NAMES[:4]
    layout = Layout(tuple((one, other, 3.0) for one, other in zip((None, *names), (*names, None), strict=True)))
    options = [(np.array([100.0, 100.0]), np.array([1.0, 1.01])) for _ in names]
    folded, microseconds = [np.array([False, True])] * 4, [np.array([10.0, 6.0])] * 4
    found = {}
    for most in (39.0, 31.0, 30.0):
        limit = Timed(microseconds, folded, most, 2.0, 0.0, names, layout)
        chosen = allocate_timed(options, 400, limit)
        assert chosen is not None
        found[most] = (sum(chosen), limit.total(chosen))
    assert found == {39.0: (4, 30.0), 31.0: (4, 30.0), 30.0: (4, 30.0)}
    alone = Timed(microseconds, [np.array([False, number == 0]) for number in range(4)], 39.0, 2.0, 0.0, names, layout)
    barred = [(np.where([False, number > 0], np.inf, size), harm) for number, (size, harm) in enumerate(options)]
    assert allocate_timed(barred, 400, alone) == [0, 0, 0, 0]
