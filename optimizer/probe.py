"""Probes: how far the model's outputs move, from the original's, when some of its constants are replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from . import distortion
from .calibrate import Feed, masked
from .rig import Rig, as_input
from .weights import Weight

KEPT_BYTES = 512 << 20
"""Outputs of the original that are kept; those of further batches are computed anew in every probe."""

BIASED = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "Add": None, "Sum": None}
"""Operators that add a constant vector, and as which input (None: any)."""

Arrays = Mapping[str, NDArray[np.float32]]


class Prober:
    """`Prober(model, weights, feeds, threads)`: a session in which `weights` and all biases are inputs, fed without copies.

    `weights` may also hold other initializers (ir.Value) that are to be replaced. Names are those of the weights, and of initializers in
    the graph. Each run uses one thread, so results do not depend on `threads` (0: one for each core). Calls may come from any thread.
    Raises CompressError where onnxruntime cannot load or run the model.
    """

    def __init__(self, model: ir.Model, weights: Sequence[Weight | ir.Value], feeds: Sequence[Feed], threads: int = 0) -> None:
        fed = {str(value.name): value for value in _biases(model)}
        for one in weights:
            if isinstance(one, ir.Value) or one.is_float:
                fed[one.name or ""] = one if isinstance(one, ir.Value) else one.value
        self._fed = fed
        logits = distortion.logits(model)
        self._rig = Rig(model, fed.values(), sorted(set(logits.values())))
        self._feeds, self._masks = tuple(feeds), tuple(map(masked, feeds))
        kinds = distortion.kinds(model)
        self._kinds = self._informative({name: kinds[name] for name in distortion.counted(kinds) if name in self._rig.outputs}, logits)
        self._names = list(self._kinds)
        self._threads = threads or os.cpu_count() or 1
        self._shares = _shares(feeds)
        self._originals = self._first_runs()

    @property
    def kind(self) -> distortion.Kind:
        """What the divergence is measured in: see distortion.py."""
        return distortion.main_kind(self._kinds)

    def divergence(self, replaced: Arrays) -> float:
        """Mean over the samples; infinite where an output is NaN or infinite that was not. Arrays have the dims of the constant that they
        replace and are rounded to its dtype. Raises ValueError for unknown names and wrong dims.
        """
        inputs = dict(self._input(name, array) for name, array in replaced.items())
        total = 0.0
        for index, (feed, mask, share) in enumerate(zip(self._feeds, self._masks, self._shares, strict=True)):
            kept = self._originals[index] or self._rig.run(feed, self._names)
            total += share * distortion.divergence(self._kinds, kept, self._rig.run(feed, self._names, inputs), mask)
            if not np.isfinite(total):
                break
        return total

    def divergences(self, many: Iterable[Arrays]) -> list[float]:
        """`divergence` of each, in order, at most `threads` at a time."""
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self.divergence, many))

    def _informative(self, kinds: Mapping[str, distortion.Kind], logits: Mapping[str, str]) -> dict[str, distortion.Kind]:
        """The outputs to look at. One that says no to all of the first batch, as a detector does where inputs are made up, is replaced by its logits."""
        ask = [name for name in kinds if name in logits]
        seen = self._rig.run(self._feeds[0], ask) if ask and self._feeds else {}
        silent = {name for name, array in seen.items() if distortion.is_silent(array)}
        return {logits[name] if name in silent else name: "map" if name in silent else kind for name, kind in kinds.items()}

    def _first_runs(self) -> list[dict[str, NDArray[np.generic]] | None]:
        """The original's outputs, as many as may be kept; at least one batch runs, so that a model that does not is found out here."""
        with ThreadPoolExecutor(self._threads) as pool:
            first = [self._rig.run(feed, self._names) for feed in self._feeds[:1]]
            size = max((sum(array.nbytes for array in outputs.values()) for outputs in first), default=0)
            keep = KEPT_BYTES // max(size, 1)
            rest = list(pool.map(lambda feed: self._rig.run(feed, self._names), self._feeds[1:keep]))
        return [*first, *rest, *[None] * (len(self._feeds) - len(first) - len(rest))]

    def _input(self, name: str, array: NDArray[np.float32]) -> tuple[str, ort.OrtValue]:
        value = self._fed.get(name)
        if value is None or value.const_value is None:
            raise ValueError(f"{name} is neither a weight nor a bias of this probe")
        tensor = value.const_value
        if tuple(array.shape) != tuple(tensor.shape.numpy()):
            raise ValueError(f"{name} has dims {tensor.shape.numpy()}, not {array.shape}")
        with np.errstate(over="ignore"):
            return str(value.name), as_input(array.astype(tensor.dtype.numpy(), copy=False), int(tensor.dtype))


def _biases(model: ir.Model) -> list[ir.Value]:
    """Float vectors that some operator adds to what it computes: bias correction replaces them."""
    found = []
    for value in model.graph.initializers.values():
        tensor = value.const_value
        is_vector = tensor is not None and tensor.size > 1 and tensor.size == max(tensor.shape.numpy()) and tensor.dtype.is_floating_point()
        if is_vector and any(use.node.op_type in BIASED and BIASED[use.node.op_type] in (None, use.idx) for use in value.uses()):
            found.append(value)
    return found


def _shares(feeds: Sequence[Feed]) -> list[float]:
    """The share of the samples that each batch holds."""
    counts = [max((array.shape[0] for array in feed.values() if array.ndim), default=1) for feed in feeds]
    return [count / sum(counts) for count in counts]
