"""What says nothing to a runtime, and inputs that are none: removed."""

from __future__ import annotations

import onnx_ir as ir

# Where quantization annotations are kept by onnx_ir; they name values that are renamed.
_ANNOTATION = "quant_parameter_tensor_names"


def overridable(model: ir.Model) -> tuple[str, ...]:
    """Names of initializers that are graph inputs too: whoever runs the model may feed others, so they are no constants."""
    return tuple(v.name for v in model.graph.inputs if v.is_initializer() and v.name)


class RemoveOverridable(ir.passes.InPlacePass):
    """Take initializers out of the inputs of the main graph; needs IR version 4, and later ours need 8.

    onnx_ir's RemoveInitializersFromInputsPass does it in bodies of Loop and Scan too, where inputs count by position.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        inputs = [v for v in model.graph.inputs if not v.is_initializer()]
        is_changed = len(inputs) != len(model.graph.inputs) or model.ir_version < 8
        model.graph.inputs.clear()
        model.graph.inputs.extend(inputs)
        model.ir_version = max(model.ir_version, 8)
        return ir.passes.PassResult(model, is_changed)


class ClearDocumentation(ir.passes.InPlacePass):
    """Doc strings, metadata and annotations of everything but the model itself, whose metadata (class names, ...) applications read."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        model.doc_string = None
        model.producer_name = model.producer_version = None
        for graph in model.graphs():
            graph.doc_string = None
            graph.metadata_props.clear()
            for value in (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs)):
                _clear_value(value)
            for node in graph:
                node.doc_string = None
                node.metadata_props.clear()
                for attribute in node.attributes.values():
                    attribute.doc_string = None
        return ir.passes.PassResult(model, modified=True)


def _clear_value(value: ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()
    value.meta.pop(_ANNOTATION, None)
    if value.const_value is not None:
        value.const_value.metadata_props.clear()
        if isinstance(value.const_value, ir.serde.TensorProtoTensor):  # written back as it was read
            value.const_value.raw.ClearField("doc_string")
