"""How a weight is seen as [batch, rows, k]: `rows` are the outputs of the multiply that consumes it, `k` what it sums over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..runtime.form import PANEL_ROWS, View

SIXTEEN_BITS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
FLOATS = (ir.DataType.FLOAT, *SIXTEEN_BITS)
ACTIVATIONS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)

SHORT_ROW = 16
"""Values in a row below which a scale for each costs more than half a bit a value."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a tensor is in the file."""

    dtype: ir.DataType
    dims: tuple[int, ...]


def wanted(node: ir.Node, index: int, between: Sequence[ir.Node], stored: Stored) -> tuple[str, View | None]:
    """The kind of a use and the view that it needs; None where any view does."""
    dtype, dims = stored.dtype, stored.dims
    casts = [n for n in between if n.op_type == "Cast"]
    if node.domain not in ("", "ai.onnx") or dtype not in FLOATS:
        return "Other", None
    multiplied = (ir.DataType(casts[-1].attributes.get_int("to", 0)) if casts else dtype) in ACTIVATIONS
    swapped = sum(n.op_type == "Transpose" for n in between) % 2 == 1
    match node.op_type, index:
        case "Gather", 0 if not swapped and node.attributes.get_int("axis", 0) in (0, -len(dims)):
            return "Gather", View(dims, tuple(range(len(dims))), 1, dims[0])
        case "MatMul", 1 if multiplied:
            return "MatMul", matrix(dims, not swapped)
        case "Gemm", 1 if multiplied and len(dims) == 2:
            return "Gemm", matrix(dims, swapped == bool(node.attributes.get_int("transB", 0)))
        case "Conv", 1 if multiplied and not swapped and 3 <= len(dims) <= 5:
            return "Conv", filters(dims, node.attributes.get_int("group", 1))
        case "ConvTranspose", 1 if not swapped and len(dims) >= 2:
            return "Other", View(dims, (1, 0, *range(2, len(dims))), 1, dims[1])
        case (("LSTM" | "GRU" | "RNN"), (1 | 2)) if not swapped and len(dims) == 3:
            fused = multiplied and node.op_type != "RNN"
            return node.op_type if fused else "Other", View(dims, (0, 1, 2), dims[0], dims[1])
    return "Other", None


def matrix(dims: tuple[int, ...], by_columns: bool) -> View:
    """Stacked matrices whose outputs are the last axis (`by_columns`: [.., K, N]) or the one before it ([.., N, K])."""
    rank = len(dims)
    batch = int(np.prod(dims[:-2], dtype=np.int64))
    last = (rank - 1, rank - 2) if by_columns else (rank - 2, rank - 1)
    return View(dims, (*range(rank - 2), *last), batch, dims[last[0]])


def filters(dims: tuple[int, ...], group: int) -> View:
    """Filters [O, I / group, ..]: a group is a batch of its own where it fills a panel."""
    rows = dims[0] // max(group, 1)
    apart = group > 1 and rows >= PANEL_ROWS and rows * group == dims[0]
    return View(dims, tuple(range(len(dims))), group if apart else 1, rows if apart else dims[0])


def plain(dims: tuple[int, ...]) -> View:
    """Rows are the first axis, and the next ones too until a panel is full, while at least a panel's width is left in a row.

    A table of short records, [4420, 2], is seen the other way: two rows.
    """
    order = tuple(range(len(dims)))
    rows, k, axis = 1, int(np.prod(dims, dtype=np.int64)), 0
    while axis < len(dims) - 1 and (axis == 0 or rows < PANEL_ROWS):
        if axis > 0 and rows > 1 and k // dims[axis] < PANEL_ROWS:
            break
        rows, k, axis = rows * dims[axis], k // dims[axis], axis + 1
    if k < SHORT_ROW and dims[-1] == k:
        return View(dims, (order[-1], *order[:-1]), 1, k)
    return View(dims, order, 1, rows)
