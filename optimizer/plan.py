"""The plan: what becomes of every weight. Coding and emitting a plan takes no decision any more but the packing of small weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.quantize import Quantize
from ..passes.technique import Context, Refusal, Technique
from ..runtime.evaluate import viewed_values
from ..runtime.form import Form, Member, Symbols
from .bias import correction
from .fold import Folded
from .moments import Moments
from .weights import Weight
from .work import NO_TIMES, Times, Work

GATES = {"LSTM": 4, "GRU": 3}
"""Of recurrent layers, one after the other in the rows of their weights."""


@dataclass(frozen=True, slots=True, eq=False)
class Remade:
    """What a weight becomes, once that is no longer asked of a technique, and its bias, where it has one to correct."""

    form: Form
    bias: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A weight with all that is known about it: the bias that can take up its mean error, and the moments of its inputs.

    `optimism` is how many times more an error costs on new inputs than on those that it was made and probed with. `shrinkage` is that of the matrix
    that errors are fed back by. `work` is what one run does with it. A weight of at most `pool_values` values shares a pool. Once it is `remade`,
    techniques are not asked any more (`drift.py`).
    """

    weight: Weight
    context: Context
    bias: ir.Value | None = None
    moments: Moments | None = None
    optimism: float = 1.0
    shrinkage: float = 1.0
    work: tuple[Work, ...] = ()
    pool_values: int = 0
    remade: Remade | None = None

    @property
    def is_pooled(self) -> bool:
        """Whether the weight shares a pool: never where a body of If, Loop or Scan consumes it, since older runtimes hand such a payload over anew at
        each run, and would decode the pool each time.
        """
        return self.weight.view.size <= self.pool_values and all(use.node.graph is self.weight.value.graph for use in self.weight.uses)

    @property
    def gates(self) -> int:
        """Equal parts of all rows that matter differently (`gates.py`): the gates of every direction; 1 where it is no weight of recurrent layers alone."""
        kinds, view = {use.node.op_type for use in self.weight.uses}, self.weight.view
        gates = GATES.get(next(iter(kinds), ""), 1) if len(kinds) == 1 else 1
        return gates * view.batch if gates > 1 and view.rows % gates == 0 else 1

    def form(self, technique: Technique | None) -> Form | Refusal:
        """What the technique makes of the weight; integers stay as they are (no technique)."""
        if self.remade is not None:
            return self.remade.form
        if technique is None:
            return Symbols(self.weight.view.see(np.asarray(self.weight.array())).astype(np.int32))
        return technique.apply(self.weight.viewed(), self.context)

    def member(self, technique: Technique | None) -> Member:
        """The form as a member of a payload. Raises ValueError where the technique refuses."""
        return Choice(self, technique, "", 0.0).made()[1]

    def corrected_bias(self, made: Member) -> NDArray[np.float32] | None:
        """The bias, in its own dims, that takes up the mean of W - W'; None where there is none."""
        if self.remade is not None:
            return self.remade.bias
        if self.bias is None or self.moments is None or self.bias.const_value is None:
            return None
        old = self.bias.const_value.numpy()
        shift = correction(self.weight, self.weight.viewed() - viewed_values(made), self.moments)
        return (old.astype(np.float32).reshape(-1) + shift).reshape(old.shape)

    def replacement(self, technique: Technique) -> dict[str, NDArray[np.float32]]:
        """Arrays by initializer name: the weight as the technique leaves it, and the corrected bias."""
        made = self.member(technique)
        replaced = {self.weight.name: self.weight.view.unsee(viewed_values(made))}
        bias = self.corrected_bias(made)
        return replaced if bias is None else replaced | {str(self.bias.name): bias}  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """One weight with the technique that it gets (None: without loss), the family that won, the divergence predicted and the times modelled.

    `instead` is taken where `technique` refuses: a step that was made finer may give levels beyond what can be coded.
    """

    layer: Layer
    technique: Technique | None
    family: str
    predicted: float
    instead: Technique | None = None
    times: Times = NO_TIMES

    @property
    def weight(self) -> Weight:
        """The weight."""
        return self.layer.weight

    @property
    def is_exact_float(self) -> bool:
        """Whether this is a weight of floats that keeps every bit."""
        return self.technique is None and self.weight.is_float

    @property
    def is_folded(self) -> bool:
        """Whether onnxruntime makes the weight dense when it creates a session; else operators of ours decode it at every run."""
        return isinstance(self.technique, Quantize) and self.technique.folded

    def made(self) -> tuple[Choice, Member]:
        """(the choice with the technique that was taken, what it makes of the weight). Raises ValueError where all refuse."""
        form = self.layer.form(self.technique)
        if isinstance(form, Refusal) and self.instead is not None:
            return replace(self, technique=self.instead, instead=None).made()
        if isinstance(form, Refusal):
            raise ValueError(  # noqa: TRY004  (a value that the technique refuses, not a type)
                f"{self.technique} refuses {self.weight.name}: {form.reason}"
            )
        return self, Member(self.weight.dtype, self.weight.view, form)


KIND_BYTE, POOL_KIND = 3, 1
"""Where a payload says what it is, and what a pool says (FORMAT.md, section 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """The bytes of one payload, the choices that it holds by member number, the zeros among their values, and the biases that go with them.

    A folded weight has no bytes of a payload: `folded` is what is stored of it. Of weights in a pool, `shares` tells each one's part of the bytes.
    """

    data: bytes
    choices: tuple[Choice, ...]
    zeros: tuple[float, ...]
    biases: Mapping[str, NDArray[np.float32]]
    folded: Folded | None = None
    shares: tuple[float, ...] = (1.0,)

    @property
    def is_pool(self) -> bool:
        """Whether its weights share one stream: each session keeps their levels, decoded, in 16 bits."""
        return self.folded is None and self.data[KIND_BYTE] == POOL_KIND

    @property
    def bytes(self) -> int:
        """Bytes of payload, or of levels and scales."""
        return len(self.data) if self.folded is None else self.folded.bytes
