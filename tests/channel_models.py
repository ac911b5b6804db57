"""Small models with channels that are dead, and what is left of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tests.slimming import Array, assert_same, floats, model_of, normal, run, slimmed, stored

IMAGE = (2, 4, 7, 7)

FLOAT16_IMAGE = helper.make_tensor_value_info("x", TensorProto.FLOAT16, IMAGE)


def two_layers(between: Sequence[onnx.NodeProto], pads: int = 0, extra: dict[str, Array] | None = None, **replaced: Array) -> onnx.ModelProto:
    """x -> Conv 8 channels -> `between` (h to m) -> Conv 3x3 5 channels; `replaced` are other values of w, b, v, c."""
    constants = {"w": normal(8, 4, 1, 1), "b": normal(8, seed=2), "v": normal(5, 8, 3, 3, seed=3), "c": normal(5, seed=4)} | replaced | (extra or {})
    last = helper.make_node("Conv", ["m", "v", "c"], ["y"], pads=[pads] * 4)
    return model_of([helper.make_node("Conv", ["x", "w", "b"], ["h"]), *between, last], [floats(*IMAGE)], ["y"], constants)


def zero_rows(array: NDArray[np.float32], rows: Sequence[int], value: float = 0.0) -> NDArray[np.float32]:
    array[list(rows)] = value
    return array


def check(model: onnx.ModelProto, untouchable: Sequence[str] = (), dims: tuple[int, ...] = IMAGE) -> dict[str, tuple[int, ...]]:
    """The dims of all constants once slimmed, with which the outputs are what they were."""
    slim = slimmed(model, untouchable)
    for seed in range(3):
        feed: dict[str, Array] = {"x": 3 * normal(*dims, seed=seed)}
        assert_same(run(model, feed), run(slim, feed))
    return {name: array.shape for name, array in stored(slim).items()}

RELU = [helper.make_node("Relu", ["h"], ["m"])]

CLIP = [helper.make_node("Clip", ["h", "low", "high"], ["m"])]

LIMITS: dict[str, Array] = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}

DEAD = (1, 2, 5, 6)
