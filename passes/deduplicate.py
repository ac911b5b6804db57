"""Initializers of the same dtype, dims and bytes are stored once."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict

import numpy as np
import onnx_ir as ir

from .constants import is_constant, is_untouchable, tensor_of


@dataclasses.dataclass
class DeduplicateResult(ir.passes.PassResult):
    """What was merged: {name that is gone: name that is kept}."""

    merged: dict[str, str]


class Deduplicate(ir.passes.InPlacePass):
    """Merge equal initializers of the main graph (subgraph initializers are lifted there first).

    onnx_ir's own pass hashes every tensor, up to gigabytes; here bytes are read only where dtype and dims agree.
    An untouchable initializer is the one that is kept, so its name and bytes survive.
    """

    def call(self, model: ir.Model) -> DeduplicateResult:
        groups: dict[tuple[int, tuple[int, ...]], list[ir.Value]] = defaultdict(list)
        for value in model.graph.initializers.values():
            if is_constant(value) and not value.is_graph_output():
                tensor = tensor_of(value)
                groups[tensor.dtype.value, tuple(tensor.shape.numpy())].append(value)
        merged: dict[str, str] = {}
        for values in groups.values():
            if len(values) > 1:
                merged |= _merge_equal(model.graph, values)
        return DeduplicateResult(model, bool(merged), merged)


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


def _digest(tensor: ir.TensorProtocol) -> bytes:
    """The bytes themselves up to a digest's length, their SHA-256 beyond (2 ** -128: collisions do not happen)."""
    if tensor.dtype == ir.DataType.STRING:
        content: bytes | memoryview = b"".join(len(s).to_bytes(8, "little") + s for s in tensor.numpy().reshape(-1).tolist())
    else:
        content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data  # no copy: it may be gigabytes
    return bytes(content) if len(content) < 32 else hashlib.sha256(content).digest()
