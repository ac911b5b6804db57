"""What a technique is: float weights in, a form out, or a refusal with its reason.

A technique is its parameters: the fields of a frozen dataclass are the operating point, its repr and its equality. A new family is one new file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..runtime.evaluate import LOG8_MANTISSAS
from ..runtime.form import Dense, Form
from .feedback import Factor


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a technique does not apply to a weight; shown in the report."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What is known about a weight besides its values.

    `square` is E[x^2] of what each value is multiplied with (a variance where the mean is corrected in a bias), float32, broadcastable
    to [batch, rows, k]; None where nothing was measured. `rows` is how much each row's output matters, float32 [batch * rows] with mean 1; None: all
    alike. `factor` fetches the factor of the whole matrix E[x x^T], in the same unit,
    where one was measured: error feedback needs it.
    """

    square: NDArray[np.float32] | None = None
    rows: NDArray[np.float32] | None = None
    factor: Callable[[], Factor] | None = None
    seed: int = 0

    @property
    def unit(self) -> float:
        """The mean of `square`: errors are counted in this unit."""
        return 1.0 if self.square is None or not self.square.any() else float(self.square.mean(dtype=np.float64))

    def importance(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """`square` in `unit` times `rows`, or ones, as a read-only view of `shape`."""
        measured = np.float32(1) if self.square is None or not self.square.any() else (self.square / self.unit).astype(np.float32)
        if self.rows is not None:
            measured = measured * self.rows.reshape(*shape[:2], 1)
        return np.broadcast_to(measured, shape)


class Technique(Protocol):
    """Turns float weights into a form."""

    def apply(self, weight: NDArray[np.float32], context: Context) -> Form | Refusal:
        """`weight` [batch, rows, k]; the form's levels have the same shape. Never changes its input."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A form and its squared error on the second moments, in `Context.unit`: on the whole matrix where the technique feeds errors back."""

    form: Form
    error: float


@runtime_checkable
class Adjustable(Technique, Protocol):
    """A technique that knows its own error, and whose rate moves smoothly with one number."""

    def made(self, weight: NDArray[np.float32], context: Context) -> Made | Refusal:
        """The form that `apply` gives, with its error."""
        ...

    def at(self, factor: float) -> Technique:
        """The same with steps times a factor, or whatever stands for that."""
        ...


def log8(values: NDArray[np.float32]) -> Dense | Refusal:
    """Positive values to their nearest neighbours on the log8 scale of FORMAT.md, ratio 2^(1/16) apart; a range of 2^16 below the largest.

    Zeros and values below that range become the smallest code.
    """
    largest = float(values.max(initial=0.0))
    if not 1e-25 < largest < 1e25:
        return Refusal(f"a scale of {largest:g} is outside 1e-25..1e25")
    top = int(np.floor(np.log2(largest) * 16 + 0.5))
    exponent = (top >> 4) - 15
    with np.errstate(divide="ignore"):
        codes = np.floor(np.log2(values.astype(np.float64)) * 16 + 0.5) - 16 * exponent
    return Dense("log8", np.clip(codes, 0, 255).astype(np.uint8).reshape(-1), exponent)


def log8_values(dense: Dense) -> NDArray[np.float32]:
    """The values of a log8 leaf."""
    return np.ldexp(LOG8_MANTISSAS[dense.codes & 15], dense.exponent + (dense.codes >> 4).astype(np.int32))


def row_rms(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square of each row, float32 [batch, rows]."""
    return np.sqrt(np.einsum("brk,brk->br", weight, weight, dtype=np.float64) / max(weight.shape[2], 1)).astype(np.float32)
