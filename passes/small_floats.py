"""Small float tensors of a graph (biases, normalisation): which may be stored otherwise, and how standard operators give them back.

The nodes read constants alone, so onnxruntime folds them when it creates a session.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .constants import add_constant, all_names, fresh_name

LEAST_VALUES = 8
"""Below this, a Split output costs as much as it saves."""

SPLIT_INPUT_OPSET, SPLIT_COUNT_OPSET = 13, 18
"""From here on Split takes its sizes as an input instead of an attribute, and must be told how many equal parts there are."""

RELATIVE_OPERATORS = frozenset({"Div", "Reciprocal", "Log", "Pow", "Sqrt", "QuantizeLinear", "DequantizeLinear"})
"""To these a small value matters as much as a large one: a divisor that becomes zero gives an infinity."""


def small_floats(model: ir.Model, untouchable: Container[str]) -> list[ir.Value]:
    """Initializers of at least 8 floats: float32, or float16 vectors behind a Cast to float; no scalars, no graph inputs or outputs, nothing that `untouchable` names."""
    return [value for value in model.graph.initializers.values() if value.name not in untouchable and _is_small_float(value)]


def _is_small_float(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or value.is_graph_output() or value.is_graph_input() or len(tensor.shape) < 1 or tensor.size < LEAST_VALUES:
        return False
    if tensor.dtype == ir.DataType.FLOAT16:
        return casts_of(value) is not None and len(tensor.shape) == 1
    return tensor.dtype == ir.DataType.FLOAT and bool(value.uses())


def is_relative(value: ir.Value) -> bool:
    """Whether a small value matters as much as a large one."""
    return any(use.node.op_type in RELATIVE_OPERATORS for use in value.uses())


def casts_of(value: ir.Value) -> list[ir.Node] | None:
    """The nodes that consume a 16-bit value, if all of them cast it to float for other nodes alone."""
    nodes = [use.node for use in value.uses()]
    to_float = all(
        node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT and not node.outputs[0].is_graph_output()
        for node in nodes
    )
    return nodes if nodes and to_float else None


class Restorer:
    """`Restorer(model)`: adds constants and the nodes that make floats of them, before all other nodes."""

    def __init__(self, model: ir.Model) -> None:
        self._model, self._taken = model, all_names(model)
        self._last: ir.Node | None = None

    @property
    def opset(self) -> int:
        """Of ai.onnx."""
        return self._model.graph.opset_imports.get("", 1)

    def constant(self, stem: str, array: NDArray[Any]) -> ir.Value:
        """A new initializer."""
        return add_constant(self._model.graph, fresh_name(stem, self._taken), array)

    def node(self, op_type: str, inputs: Sequence[ir.Value], attributes: dict[str, Any] | None = None, outputs: int = 1) -> list[ir.Value]:
        """The outputs of a new node."""
        made = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs)
        if self._last is None:
            self._model.graph.insert_before(next(iter(self._model.graph)), made)
        else:
            self._model.graph.insert_after(self._last, made)
        self._last = made
        return list(made.outputs)

    def to_float(self, value: ir.Value) -> ir.Value:
        """The value cast to float."""
        return self.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})[0]

    def split(self, value: ir.Value, sizes: list[int]) -> list[ir.Value]:
        """A vector in parts."""
        if len(set(sizes)) == 1 and len(sizes) > 1:
            count = {"num_outputs": len(sizes)} if self.opset >= SPLIT_COUNT_OPSET else {}
            return self.node("Split", [value], {"axis": 0} | count, len(sizes))
        if self.opset < SPLIT_INPUT_OPSET:
            return self.node("Split", [value], {"axis": 0, "split": sizes}, len(sizes))
        return self.node("Split", [value, self.constant("small_float_sizes", np.array(sizes, np.int64))], None, len(sizes))

    def replace(self, value: ir.Value, piece: ir.Value) -> None:
        """Lets the consumers of an initializer, or of its Casts, use a piece instead; the initializer goes."""
        casts = casts_of(value) if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT16 else None
        for node in casts or ():
            ir.convenience.replace_all_uses_with(node.outputs[0], piece)
            node.graph.remove(node, safe=True)  # type: ignore[union-attr]
        if casts is None:
            ir.convenience.replace_all_uses_with(value, piece)
        piece.name = fresh_name(f"{value.name}.float", self._taken)
        del self._model.graph.initializers[str(value.name)]
