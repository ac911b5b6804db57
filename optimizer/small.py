"""Which small float tensors (biases, normalisation) are stored in 8 bits: those whose rounding costs less than the bytes that it saves are worth elsewhere.

All of them are rounded in one probe. Unless that costs next to nothing beside what they save, each one gets a probe of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes.byte_floats import rounded, saved_bytes
from .parallel import spread
from .probe import Prober

CLEAR = 0.2
"""Share of what the bytes are worth up to which all are taken together."""


class SmallFloats:
    """`SmallFloats(values, prober, threads)`: initializers that 8 bits can hold (`byte_floats.eligible`); the prober can replace them."""

    def __init__(self, values: Sequence[ir.Value], prober: Prober, threads: int) -> None:
        self._values = {str(value.name): value for value in values}
        self._saved = saved_bytes(values)
        self._prober, self._threads = prober, threads
        self._together: float | None = None
        self._alone: dict[str, float] | None = None

    def chosen(self, price: float) -> frozenset[str]:
        """The names of those that pay where a byte less costs `price` of divergence."""
        if not self._saved or not price > 0:
            return frozenset()
        if self._together is None:
            self._together = self._prober.divergence({name: self._rounded(name) for name in self._saved})
        if self._together <= CLEAR * price * sum(self._saved.values()):
            return frozenset(self._saved)
        if self._alone is None:
            names = list(self._saved)
            measured = spread(lambda name: self._prober.divergence({name: self._rounded(name)}), names, lambda name: self._values[name].const_value.size, self._threads)  # type: ignore[union-attr]
            self._alone = dict(zip(names, measured, strict=True))
        return frozenset(name for name, cost in self._alone.items() if cost <= price * self._saved[name])

    def arrays(self, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The tensors with these names as they were."""
        return {name: self._values[name].const_value.numpy().astype(np.float32) for name in names}  # type: ignore[union-attr]

    def _rounded(self, name: str) -> NDArray[np.float32]:
        return rounded(self.arrays([name])[name])
