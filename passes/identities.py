"""Nodes that give their input back: found, and removed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .constants import small_array


class RemoveIdentities(ir.passes.InPlacePass):
    """Remove Identity, Dropout at inference, and casts, transposes, concatenations and pads that change nothing.

    onnx_ir's IdentityEliminationPass is not used: it renames a value that is itself a graph output (one of the two names is lost), and lets a branch of
    If return a value of the outer graph, which is invalid.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        count = 0
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            if _does_nothing(node, model.opset_imports.get("", 1)) and _bypass(node):
                count += 1
        return ir.passes.PassResult(model, bool(count))


def _does_nothing(node: ir.Node, opset: int) -> bool:
    if node.domain != "" or not node.inputs or node.inputs[0] is None:
        return False
    match node.op_type:
        case "Identity":
            return True
        case "Dropout":
            return _is_inference(node, opset)
        case "Concat":
            return len(node.inputs) == 1
        case "Transpose":
            perm = node.attributes.get_ints("perm", ())
            return len(perm) > 0 and list(perm) == sorted(perm)
        case "Cast":
            return node.inputs[0].dtype is not None and node.attributes.get_int("to", 0) == node.inputs[0].dtype.value
        case "Pad":
            return _pads_nothing(node, opset)
    return False


def _is_inference(node: ir.Node, opset: int) -> bool:
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return False
    if opset < 12 or len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    training = small_array(node.inputs[2])
    return training is not None and not training.any()


def _pads_nothing(node: ir.Node, opset: int) -> bool:
    if opset < 11:
        return not any(node.attributes.get_ints("pads", (1,)))
    pads = small_array(node.inputs[1]) if len(node.inputs) > 1 else None
    return pads is not None and not np.any(pads)


def _bypass(node: ir.Node) -> bool:
    """Let the consumers of a node read its input instead. False: the node has to stay."""
    source, result = node.inputs[0], node.outputs[0]
    graph = node.graph
    if source is None or graph is None:
        return False
    if result.is_graph_output():
        # The input takes over the name, so it has to be a node's output in the same graph, and no graph output itself.
        producer = source.producer()
        if producer is None or producer.graph is not graph or source.is_graph_output():
            return False
        name, shape, kind = result.name, result.shape, result.type
        result.replace_all_uses_with(source, replace_graph_outputs=True)
        result.name = None
        source.name, source.shape, source.type = name, shape, kind or source.type
    else:
        result.replace_all_uses_with(source)
    graph.remove(node, safe=True)
    return True
