"""What tests of techniques share: awkward weights, and the error of a form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx_compress.passes.codebook import Chain, Cluster
from onnx_compress.passes.distinct import Distinct
from onnx_compress.passes.mapping import LearnedMap
from onnx_compress.passes.prune import Prune
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Context, Refusal, Technique
from onnx_compress.passes.thin import Thin
from onnx_compress.runtime.evaluate import viewed_values
from onnx_compress.runtime.form import Form, Member

from tests.forms import plain_view

TECHNIQUES: tuple[Technique, ...] = (
    *(Quantize(step, power) for step in (0.05, 0.5, 4.0) for power in (0.0, 0.5, 1.0)),
    *(Quantize(step, power, trellis=True) for step in (0.05, 0.5) for power in (0.0, 1.0)),
    Distinct(),
    *(Prune(share) for share in (0.0, 0.5, 0.97)),
    *(Cluster(count, row_scale) for count in (1, 2, 16, 256) for row_scale in (False, True)),
    *(Chain(Prune(share), Cluster(count, row_scale)) for share in (0.0, 0.8) for count in (2, 16) for row_scale in (False, True)),
    *(LearnedMap(count, groups, row_scale) for count in (1, 8) for groups in (1, 3) for row_scale in (False, True)),
    *(Thin(Prune(share), Quantize(0.5, power)) for share in (0.0, 0.8) for power in (0.0, 1.0)),
)


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def _with(weight: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    weight[0, 0, 0] = value
    return weight


def _read_only(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight.flags.writeable = False
    return weight


def _thinned(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    weight[np.random.default_rng(1).random(weight.shape) < 0.9] = 0
    return weight


def _rows(scale: float) -> NDArray[np.float32]:
    """Rows of very different magnitude, one of them zero."""
    weight = normal(1, 40, 20) * (np.float32(scale) ** np.linspace(-1, 1, 40, dtype=np.float32))[None, :, None]
    weight[0, 3] = 0
    return weight

AWKWARD: dict[str, NDArray[np.float32]] = {
    "normal": normal(1, 70, 30),
    "three batches": normal(3, 65, 9),
    "zeros": np.zeros((1, 10, 10), np.float32),
    "constant": np.full((1, 10, 10), 0.37, np.float32),
    "constant, negative": np.full((2, 3, 7), -2.5, np.float32),
    "one value": np.full((1, 1, 1), 0.1, np.float32),
    "one zero": np.zeros((1, 1, 1), np.float32),
    "huge": normal(1, 20, 20) * np.float32(1e30),
    "largest": np.full((1, 4, 4), np.finfo(np.float32).max, np.float32),
    "large": normal(1, 20, 20) * np.float32(1e22),
    "tiny": normal(1, 20, 20) * np.float32(1e-30),
    "small": normal(1, 20, 20) * np.float32(1e-22),
    "denormals": (normal(1, 20, 20) * np.float32(1e-40)).astype(np.float32),
    "smallest denormal": np.full((1, 4, 4), 1e-45, np.float32),
    "a denormal among ones": _with(np.ones((1, 6, 6), np.float32), 1e-42),
    "negative zeros": np.full((1, 5, 5), -0.0, np.float32),
    "negative zeros among others": np.where(normal(1, 9, 9) > 0, normal(1, 9, 9), np.float32(-0.0)).astype(np.float32),
    "an outlier of 1e6": _with(normal(1, 30, 30), 1e6),
    "an outlier of 1e30": _with(normal(1, 30, 30), 1e30),
    "transposed": normal(1, 30, 70).transpose(0, 2, 1),
    "every second": normal(2, 40, 40)[:, ::2, ::-2],
    "read-only": _read_only(normal(1, 20, 20)),
    "nine tenths zero": _thinned(normal(1, 40, 40)),
    "a single row": normal(1, 1, 200),
    "a single column": normal(1, 200, 1),
    "rows of any magnitude": _rows(1e6),
    "two values": np.sign(normal(1, 12, 12)),
}

IMPORTANCE = {
    "none": None,
    "ones": np.ones((1, 1, 1), np.float32),
    "zeros": np.zeros((1, 1, 1), np.float32),
    "huge": np.full((1, 1, 1), 1e30, np.float32),
    "denormal": np.full((1, 1, 1), 1e-45, np.float32),
}

SPREAD = normal(1, 64, 200)

COLUMNS = np.where(np.arange(200) < 20, 1000.0, 1.0).astype(np.float32)[None, None]


def values(form: Form, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.broadcast_to(viewed_values(member(form, shape)), shape)


def member(form: Form, shape: tuple[int, ...]) -> Member:
    return Member(1, plain_view(*shape), form)


def error(technique: Technique, weight: NDArray[np.float32], context: Context = Context()) -> float:  # noqa: B008  (frozen)
    form = technique.apply(weight, context)
    assert not isinstance(form, Refusal)
    return float(((values(form, weight.shape) - weight).astype(np.float64) ** 2).sum())


def accepted(found: Form | Refusal) -> Form:
    assert not isinstance(found, Refusal), found
    return found
