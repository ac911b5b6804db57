"""The initializers of a model that may be compressed.

A weight is a constant initializer of the main graph: a float matrix or filter, or a large 4- or 8-bit integer tensor (which is coded
without loss). How it is seen as [batch, rows, k] follows from what consumes it: `rows` are the outputs of the multiply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.form import View
from .errors import UsageError
from .loading import NAMES_KEY
from .views import ACTIVATIONS, FLOATS, SIXTEEN_BITS, Stored, plain, wanted

INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)

RECURRENT, LAST_MATRIX = ("LSTM", "GRU", "RNN"), 2
"""Operators whose inputs 1 and 2 are matrices, and later ones biases."""

CHECKED_AT_ONCE = 1 << 20
"""Values looked at in one go for NaN: bounds the temporary arrays."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which weights the user wants touched: names as in the file, `re.search`; without includes all of them."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    least: int = 128
    """Values in a float weight: with fewer the operator's own bytes eat the gain (depthwise 3x3 filters of 16 channels still pay)."""
    least_integers: int = 1024

    def wants(self, name: str) -> bool:
        """Raises re.error for a pattern that `check` has not seen."""
        included = not self.include or any(re.search(pattern, name) for pattern in self.include)
        return included and not any(re.search(pattern, name) for pattern in self.exclude)

    def check(self, names: Iterable[str]) -> None:
        """Raises UsageError for a pattern that is no regular expression, or that is in none of the names."""
        known = sorted(set(names))
        for option, patterns in (("--include", self.include), ("--exclude", self.exclude)):
            for pattern in patterns:
                try:
                    found = any(re.search(pattern, name) for name in known)
                except re.error as error:
                    raise UsageError(f"{option} {pattern!r} is no regular expression ({error}): put \\ before special characters") from None
                if not found:
                    some = ", ".join(known[:3]) or "none"
                    raise UsageError(
                        f"{option} {pattern!r} matches none of the model's {len(known)} constants (such as {some}): check the names"
                    )


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """One place where a weight is consumed, seen through the Cast and Transpose nodes `between` the initializer and `node`."""

    node: ir.Node
    index: int
    kind: str  # "MatMul" | "Gemm" | "Conv" | "Gather" | "LSTM" | "GRU" | "Other"
    between: tuple[ir.Node, ...]

    @property
    def cast_to(self) -> int:
        """The dtype that the weight is cast to on its way to this consumer, 0 for none."""
        casts = [node for node in self.between if node.op_type == "Cast"]
        return casts[-1].attributes["to"].as_int() if casts else 0


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """An initializer that we may touch: `name` as in the file, `value` in the graph, `dtype` as stored (ONNX number)."""

    name: str
    value: ir.Value
    dtype: int
    view: View
    uses: tuple[Use, ...]

    @property
    def is_float(self) -> bool:
        """Whether it may be coded with loss; integers are coded as they are."""
        return self.dtype in FLOATS

    def array(self) -> NDArray[np.generic]:
        """The stored tensor in its own dtype (ml_dtypes for bfloat16 and 4-bit integers) and dims."""
        return _array(self.value)

    def viewed(self) -> NDArray[np.float32]:
        """float32 [batch, rows, k]."""
        return np.ascontiguousarray(self.view.see(self.array()), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The weights in the order of the file, and what is left alone: (name, reason, bytes)."""

    weights: tuple[Weight, ...]
    left_alone: tuple[tuple[str, str, int], ...]


def unwanted(model: ir.Model, rules: Rules) -> frozenset[str]:
    """Names of the constants that stay byte-identical, for `simplify`. Raises UsageError for bad rules."""
    names = _known_names(model)
    rules.check(names)
    return frozenset(name for name in names if not rules.wants(name))


def find_weights(model: ir.Model, rules: Rules) -> Found:
    """The weights of a simplified model. Raises UsageError for bad rules."""
    rules.check(_known_names(model))
    weights: list[Weight] = []
    left_alone: list[tuple[str, str, int]] = []
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            reason = _hindrance(value, rules, graph is model.graph)
            seen = weight_of(value) if reason is None else reason
            if isinstance(seen, Weight):
                weights.append(seen)
            elif _is_notable(value):
                left_alone.append((name, seen, 0 if value.const_value is None else value.const_value.nbytes))
    return Found(tuple(weights), tuple(left_alone))


def _known_names(model: ir.Model) -> frozenset[str]:
    original: frozenset[str] = model.meta.get(NAMES_KEY, frozenset())
    return original.union(*(graph.initializers for graph in model.graphs()))


def _array(value: ir.Value) -> NDArray[np.generic]:
    if value.const_value is None:
        raise ValueError(f"{value.name} is no constant")
    return np.asarray(value.const_value.numpy())


def _is_notable(value: ir.Value) -> bool:
    """Large enough for a user to wonder why it was not compressed. Axes, biases and limits are not."""
    tensor = value.const_value
    return tensor is None or tensor.size >= 1024 or (tensor.dtype in FLOATS and len(tensor.shape) >= 2 and tensor.size >= 64)


def _hindrance(value: ir.Value, rules: Rules, main_graph: bool) -> str | None:
    """Why this initializer is left alone, or None."""
    tensor = value.const_value
    if tensor is None:
        return "it has no data"
    if not rules.wants(value.name or ""):
        return "left out by --include or --exclude"
    if not main_graph:
        return "it belongs to a branch or loop body"
    if value.is_graph_output():
        return "it is an output of the model"
    if value.is_graph_input():
        return "it is also an input of the model, so callers may replace it"
    if tensor.dtype in INTEGERS:
        least = rules.least_integers
    elif tensor.dtype not in FLOATS:
        return f"its type {tensor.dtype.name.lower()} is not one that is compressed"
    else:
        least = rules.least
        if len(tensor.shape) < 2:
            return f"rank-{len(tensor.shape)} tensor, needs a matrix"
    if tensor.size < max(least, 1):
        return f"it has {tensor.size} values, fewer than {least}"
    if tensor.dtype in FLOATS and not _is_finite(_array(value)):
        return "it holds NaN or infinite values"
    return None


def _is_finite(array: NDArray[np.generic]) -> bool:
    flat = array.reshape(-1)
    return all(np.isfinite(flat[start : start + CHECKED_AT_ONCE]).all() for start in range(0, flat.size, CHECKED_AT_ONCE))


def _uses(value: ir.Value, stored: Stored, between: tuple[ir.Node, ...] = ()) -> Iterator[Use]:
    """Where a constant is consumed; `kind` is settled when all uses have agreed on one view."""
    for usage in value.uses():
        node = usage.node
        if _is_transparent(node, stored) and not node.outputs[0].is_graph_output():
            yield from _uses(node.outputs[0], stored, (*between, node))
        else:
            yield Use(node, usage.idx, "Other", between)


def _is_transparent(node: ir.Node, stored: Stored) -> bool:
    """A widening Cast of a 16-bit weight, or the Transpose of a matrix."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Cast":
        return stored.dtype in SIXTEEN_BITS and node.attributes.get_int("to", 0) in ACTIVATIONS
    return node.op_type == "Transpose" and len(stored.dims) == 2 and _is_swap(node)


def _is_swap(node: ir.Node) -> bool:
    return tuple(node.attributes.get_ints("perm", (1, 0))) == (1, 0)


def weight_of(value: ir.Value) -> Weight | str:
    """One view for all uses: that of an embedding if there is one, else of the first consumer that has one. Or why it is no weight."""
    tensor = value.const_value
    assert tensor is not None
    stored = Stored(tensor.dtype, tuple(tensor.shape.numpy()))
    uses, dims = tuple(_uses(value, stored)), stored.dims
    if not uses:
        return "nothing in the graph uses it"
    needs = [wanted(use.node, use.index, use.between, stored) for use in uses]
    if max(dims) == tensor.size and tensor.dtype in FLOATS and all(kind == "Other" for kind, _ in needs):
        return "a vector, needs a matrix"
    if all(use.node.op_type in RECURRENT and use.index > LAST_MATRIX for use in uses):
        return "the biases of a recurrent layer, needs a matrix"
    fused = sorted((sight for sight in needs if sight[0] != "Other"), key=lambda sight: sight[0] != "Gather")
    view = fused[0][1] if fused else next((sight[1] for sight in needs if sight[1]), plain(dims))
    assert view is not None
    kinds = [kind if seen == view else "Other" for kind, seen in needs]
    agreed = tuple(Use(use.node, use.index, kind, use.between) for use, kind in zip(uses, kinds, strict=True))
    return Weight(value.name or "", value, int(tensor.dtype), view, agreed)
