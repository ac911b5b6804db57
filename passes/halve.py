"""Small float tensors (biases, normalisation) in 16 bits: all of them in one initializer, one Cast and one Split.

onnxruntime folds both nodes into float constants when it creates a session, so that nothing is slower and nothing is lost but 13 bits of mantissa.
What can do with 8 bits was taken before (`byte_floats.py`).
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .small_floats import Restorer, is_relative, small_floats

CAST_ALONE_VALUES = 64
"""From here on halving one tensor saves more than its Cast node costs, about 40 bytes with names."""

FLOAT16_MAX = 65504.0
RELATIVE_ERROR = 2.0**-10


def halve(model: ir.Model, untouchable: Container[str]) -> tuple[str, ...]:
    """Stores float32 vectors, and float16 ones behind a Cast to float, in one float16 initializer; gives the names of those that moved.

    Tensors of higher rank, and a vector that is the only one, get a Cast each. Left alone: what `untouchable` names, tensors that float16 would change by more than a relative 2^-10
    of their largest value, graph outputs.
    """
    small = [value for value in small_floats(model, untouchable) if _fits(value)]
    vectors = [value for value in small if len(value.const_value.shape) == 1]  # type: ignore[union-attr]
    alone = [value for value in small if value not in vectors or len(vectors) == 1]
    restorer, others = Restorer(model), [value for value in alone if _pays_alone(value)]
    if len(vectors) > 1:
        _pack(restorer, vectors)
    for value in others:
        stored = restorer.constant(f"{value.name}.half", value.const_value.numpy().astype(np.float16))  # type: ignore[union-attr]
        restorer.replace(value, restorer.to_float(stored))
    return tuple(str(value.name) for value in (*(vectors if len(vectors) > 1 else ()), *others))


def _pack(restorer: Restorer, moved: list[ir.Value]) -> None:
    """All vectors in one initializer, one Cast and one Split."""
    values = np.concatenate([value.const_value.numpy().astype(np.float16) for value in moved])  # type: ignore[union-attr]
    pieces = restorer.split(restorer.to_float(restorer.constant("small_floats", values)), [value.const_value.size for value in moved])  # type: ignore[union-attr]
    for value, piece in zip(moved, pieces, strict=True):
        restorer.replace(value, piece)


def _pays_alone(value: ir.Value) -> bool:
    """Whether half the bytes of a float32 tensor are more than a Cast node's."""
    tensor = value.const_value
    return tensor is not None and tensor.dtype == ir.DataType.FLOAT and tensor.size >= CAST_ALONE_VALUES


def _fits(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or tensor.dtype == ir.DataType.FLOAT16:
        return tensor is not None
    return float16_fits(tensor.numpy()) and (not is_relative(value) or _each_fits(tensor.numpy()))


def float16_fits(values: NDArray[np.float32]) -> bool:
    """Whether rounding to float16 changes no value by more than 2^-10 of the largest."""
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FLOAT16_MAX:
        return False
    return bool(np.abs(values.astype(np.float16).astype(np.float32) - values).max(initial=0.0) <= RELATIVE_ERROR * largest)


def _each_fits(values: NDArray[np.float32]) -> bool:
    """Whether rounding to float16 changes no value by more than 2^-10 of itself."""
    return bool((np.abs(values.astype(np.float16).astype(np.float32) - values) <= RELATIVE_ERROR * np.abs(values)).all())
