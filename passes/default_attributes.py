"""Attributes that say what would hold without them are left out."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir


class RemoveDefaultAttributes(ir.passes.InPlacePass):
    """Remove attributes equal to the operator's default at the model's opset (`onnx.defs`; for windows, its documented default)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            for name in _defaults(node, model.opset_imports):
                del node.attributes[name]
                count += 1
        return ir.passes.PassResult(model, bool(count))


def _defaults(node: ir.Node, opsets: Mapping[str, int]) -> list[str]:
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:  # an operator of some runtime's own: nothing is known of it
        return []
    return [
        name
        for name, attribute in node.attributes.items()
        if not attribute.is_ref()
        and (_is_schema_default(schema, name, attribute) or _is_window_default(node, name, attribute) or _is_even_split(node, name, attribute))
    ]


def _is_schema_default(schema: onnx.defs.OpSchema, name: str, attribute: ir.Attr) -> bool:
    declared = schema.attributes.get(name)
    if declared is None or declared.required or declared.default_value.type == onnx.AttributeProto.UNDEFINED:
        return False
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSOR):
        return False
    default = ir.serde.deserialize_attribute(declared.default_value)
    return attribute.type == default.type and attribute.value == default.value


def _is_window_default(node: ir.Node, name: str, attribute: ir.Attr) -> bool:
    """Conv and the pools: "if not present, 1 (0 for pads) along each axis"; a Conv takes kernel_shape from its weight."""
    if node.domain != "" or node.op_type not in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"):
        return False
    match name:
        case "strides" | "dilations":
            return all(size == 1 for size in attribute.as_ints())
        case "pads":
            return not any(attribute.as_ints())
        case "kernel_shape":
            return node.op_type == "Conv"
    return False


def _is_even_split(node: ir.Node, name: str, attribute: ir.Attr) -> bool:
    """Split before opset 13: "if not specified, split to equal sized parts"."""
    return node.domain == "" and node.op_type == "Split" and name == "split" and len(set(attribute.as_ints())) == 1
