"""Small models whose moments are measured: shared by the tests of what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_compress.optimizer.calibrate import Feed
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.moments import Moments, measure
from onnx_compress.optimizer.weights import Rules, Weight, find_weights

from models.network import Network, tensor


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal values around 0.3."""
    return (np.random.default_rng(seed).standard_normal(shape) + 0.3).astype(np.float32)


def correlated(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normal values around 0.3 [n, channels, ..] that channels and neighbours have in common to a good part."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((shape[0], 1, *shape[2:]))
    for axis in range(2, len(shape)):
        common = common + np.roll(common, 1, axis)
    strength = rng.uniform(0.5, 2, (1, shape[1], *(1 for _ in shape[2:])))
    return np.asarray(rng.standard_normal(shape) + strength * common + 0.3, np.float32)


def finished(net: Network, result: str, inputs: list[onnx.ValueInfoProto], rank: int) -> onnx.ModelProto:
    """A model whose output is `result`."""
    net.named(result, "y")
    return net.model("m", inputs, [tensor("y", [f"d{axis}" for axis in range(rank)])])


def loaded(model: onnx.ModelProto, folder: Path) -> tuple[ir.Model, tuple[Weight, ...]]:
    """The model as the optimizer sees it, and its weights."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    found = load(path)
    return found, find_weights(found, Rules()).weights


def collected(model: ir.Model, weights: Sequence[Weight], feeds: Sequence[Feed], matrices: bool = False) -> dict[str, Moments]:
    """The moments of each weight that has some."""
    found: dict[str, Moments] = {}
    measure(model, weights, feeds, lambda weight, moments: found.__setitem__(weight.name, moments), matrices)
    return found


def measured(model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path, matrices: bool = False) -> tuple[dict[str, Weight], dict[str, Moments]]:
    """(weights, moments) by name."""
    read, weights = loaded(model, folder)
    return {weight.name: weight for weight in weights}, collected(read, weights, feeds, matrices)
