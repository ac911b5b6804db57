"""What every peer that codes weights only is given for the rest of the file: our slimmed graph, small tensors in 16 bits, shortest names.

So bytes that such a peer does not count are counted for it as for us, and its curve differs from ours by the weights alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_compress.optimizer.loading import load
from onnx_compress.optimizer.weights import Rules, Weight, find_weights
from onnx_compress.passes.halve import halve
from onnx_compress.passes.names import shorten
from onnx_compress.passes.simplify import simplify

Array = NDArray[np.float32]


class Slim:
    """A slimmed model whose weights are apart. `weights`: what ours would compress too, each as [outputs, inputs], by its name in the file."""

    def __init__(self, source: Path) -> None:
        self.original_bytes = source.stat().st_size
        self._model = load(source)
        simplify(self._model)
        self._found: dict[str, Weight] = {weight.name: weight for weight in find_weights(self._model, Rules()).weights if weight.is_float}
        self.weights: dict[str, Array] = {name: _matrix(weight) for name, weight in self._found.items()}
        halve(self._model, self._found)
        shorten(self._model)
        self.graph_bytes = ir.to_proto(self._model).ByteSize() - sum(array.nbytes for array in self.weights.values())
        """Everything but the contents of the weights."""

    def write(self, weights: Mapping[str, Array], target: Path) -> None:
        """The model as a plain ONNX file with other values in its weights."""
        for name, weight in self._found.items():
            values = weight.view.unsee(weights[name].reshape(weight.view.shape))
            weight.value.const_value = ir.tensor(np.ascontiguousarray(values, np.float32), name=weight.value.name)
        onnx.save(ir.to_proto(self._model), target)


def _matrix(weight: Weight) -> Array:
    """[batch * rows, k], as PyTorch would lay it out."""
    seen = weight.viewed()
    return seen.reshape(-1, seen.shape[-1])
