"""Initializers of the same dtype, dims and bytes are stored once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .constants import is_constant, is_untouchable, tensor_of


@dataclasses.dataclass
class DeduplicateResult(ir.passes.PassResult):
    """What was merged: {name that is gone: name that is kept}."""

    merged: dict[str, str]


class Deduplicate(ir.passes.InPlacePass):
    """Merge equal initializers of the main graph (subgraph initializers are lifted there first).

    onnx_ir's own pass hashes every tensor, up to gigabytes; here bytes are read only where dtype, dims and a sample agree.
    An untouchable initializer is the one that is kept, so its name and bytes survive.
    """

    def call(self, model: ir.Model) -> DeduplicateResult:
        values = [v for v in model.graph.initializers.values() if is_constant(v) and not v.is_graph_output()]
        merged: dict[str, str] = {}
        for similar in _repeated(values, lambda tensor: (tensor.dtype.value, tuple(tensor.shape.numpy()))):
            for candidates in _repeated(similar, _sample):
                merged |= _merge_equal(model.graph, candidates)
        return DeduplicateResult(model, bool(merged), merged)


def _repeated(values: list[ir.Value], key: Callable[[ir.TensorProtocol], object]) -> list[list[ir.Value]]:
    """Groups of two and more with the same key."""
    groups: dict[object, list[ir.Value]] = defaultdict(list)
    for value in values:
        groups[key(tensor_of(value))].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _merge_equal(graph: ir.Graph, values: list[ir.Value]) -> dict[str, str]:
    """`values` agree in dtype and dims."""
    kept: dict[bytes, ir.Value] = {}
    merged: dict[str, str] = {}
    # Stable: among equals the first in the file is kept, untouchable ones before all others.
    for value in sorted(values, key=lambda v: not is_untouchable(v)):
        first = kept.setdefault(_digest(tensor_of(value)), value)
        if first is not value and value.name is not None and first.name is not None:
            value.replace_all_uses_with(first)
            del graph.initializers[value.name]
            merged[value.name] = first.name
    return merged


def _content(tensor: ir.TensorProtocol) -> NDArray[np.uint8]:
    """The bytes, without a copy where the tensor is mapped: it may be gigabytes."""
    if tensor.dtype == ir.DataType.STRING:
        strings = b"".join(len(s).to_bytes(8, "little") + s for s in tensor.numpy().reshape(-1).tolist())
        return np.frombuffer(strings, np.uint8)
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def _sample(tensor: ir.TensorProtocol) -> bytes:
    """16 blocks of 64 bytes: tells different weights of one size apart. Few, for each costs a page of a mapped file (1.6 s for 4,096)."""
    content = _content(tensor)
    return b"".join(content[start : start + 64].tobytes() for start in range(0, len(content), max(64, len(content) // 16)))


def _digest(tensor: ir.TensorProtocol) -> bytes:
    """SHA-256 (2 ** -128: collisions do not happen)."""
    return hashlib.sha256(_content(tensor).data).digest()
