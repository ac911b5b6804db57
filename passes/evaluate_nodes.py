"""Nodes with constant inputs, evaluated by onnxruntime: it knows what every operator meant at every opset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

Arrays = dict[ir.Value, NDArray[np.generic]]

# Operators whose output differs from run to run.
_RANDOM = frozenset({"RandomUniform", "RandomNormal", "RandomUniformLike", "RandomNormalLike", "Multinomial", "Bernoulli", "Dropout"})
# An intermediate result of a folded region may be larger than the inputs of its node up to here.
_SMALL_BYTES = 4096
# Larger constants are not worth the copies that a protobuf takes.
_LARGE_BYTES = 1 << 28
# Shape inference needs contents of shapes and axes only.
_CONTENT_BYTES = 4096


def is_random(node: ir.Node) -> bool:
    """An operator whose output may differ from run to run."""
    return node.op_type in _RANDOM


def is_pure(node: ir.Node) -> bool:
    """A deterministic operator of the standard domain without subgraphs."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return node.domain == "" and not is_random(node) and not any(a.is_ref() or a.type in graphs for a in node.attributes.values())


def evaluate(nodes: Sequence[ir.Node], tensors: Mapping[ir.Value, ir.TensorProtocol], model: ir.Model) -> Arrays:
    """Outputs of those nodes whose outputs are no larger than their inputs or 4 KB. All inputs have to be in `tensors`.

    A node that onnxruntime cannot run alone is left out of the result, never an error.
    """
    fitting = _fitting(nodes, tensors, model)
    small = [n for n in fitting if sum(tensors[v].nbytes for v in n.inputs if v is not None) <= _SMALL_BYTES]
    results: Arrays = {}
    try:
        results = _run(small, tensors, model)
    except Exception:  # onnxruntime's errors have no common base class; one bad node must not cost the others
        small = []
    for node in [n for n in fitting if n not in set(small)]:  # large ones one by one: a protobuf holds 2 GB
        try:
            results |= _run([node], tensors, model)
        except Exception:  # noqa: S112  # as above: this one stays in the graph
            continue
    return results


def _fitting(nodes: Sequence[ir.Node], tensors: Mapping[ir.Value, ir.TensorProtocol], model: ir.Model) -> list[ir.Node]:
    """The nodes whose outputs have a known and small enough size, by shape inference: nothing is allocated to find out."""
    nodes = [n for n in nodes if sum(tensors[v].nbytes for v in n.inputs if v is not None) <= _LARGE_BYTES]
    if not nodes:
        return []
    try:
        inferred = onnx.shape_inference.infer_shapes(_proto(nodes, tensors, model, content_limit=_CONTENT_BYTES), data_prop=True)
    except Exception:  # a node that contradicts its schema is for onnxruntime to complain about
        return []
    sizes = {v.name: _nbytes(v.type.tensor_type) for v in (*inferred.graph.output, *inferred.graph.value_info)}

    def fits(node: ir.Node, number: int) -> bool:
        limit = max(_SMALL_BYTES, sum(tensors[v].nbytes for v in node.inputs if v is not None))
        outputs = [sizes.get(f"o{number}_{i}") for i in range(len(node.outputs))]
        return all(size is not None and size <= limit for size in outputs)

    return [node for number, node in enumerate(nodes) if fits(node, number)]


def _nbytes(kind: onnx.TypeProto.Tensor) -> int | None:
    """None: not known, or a type that numpy cannot carry out of onnxruntime."""
    dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
    if not kind.HasField("shape") or min(dims, default=0) < 0 or kind.elem_type not in _CARRIED:
        return None
    return math.prod(dims) * int(ir.DataType(kind.elem_type).itemsize)


_CARRIED = frozenset(
    int(t)
    for t in (
        ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8,
        ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.INT32, ir.DataType.UINT32, ir.DataType.INT64, ir.DataType.UINT64,
    )
)  # fmt: skip


def _proto(nodes: Sequence[ir.Node], tensors: Mapping[ir.Value, ir.TensorProtocol], model: ir.Model, content_limit: int) -> onnx.ModelProto:
    """A model of these nodes: inputs i0, i1, ... (initializers up to content_limit bytes), outputs o<node>_<index>."""
    sources = {value: f"i{number}" for number, value in enumerate(dict.fromkeys(v for n in nodes for v in n.inputs if v is not None))}
    values = {v: ir.Value(name=name, shape=ir.Shape(tensors[v].shape.numpy()), type=ir.TensorType(tensors[v].dtype)) for v, name in sources.items()}
    copies: list[ir.Node] = []
    for number, node in enumerate(nodes):
        inputs = [values[v] if v is not None else None for v in node.inputs]
        copy = ir.Node("", node.op_type, inputs, list(node.attributes.values()), num_outputs=len(node.outputs))
        for index, output in enumerate(node.outputs):
            copy.outputs[index].name = f"o{number}_{index}" if output.name else ""
        copies.append(copy)
    outputs = [v for c in copies for v in c.outputs if v.name]
    inputs_only = [new for v, new in values.items() if tensors[v].nbytes > content_limit]
    graph = ir.Graph(inputs_only, outputs, nodes=copies, name="g", opset_imports={"": model.opset_imports.get("", 1)})
    for v, new in values.items():
        if tensors[v].nbytes <= content_limit:
            new.const_value = ir.tensor(tensors[v].numpy(), dtype=tensors[v].dtype, name=new.name)
            graph.register_initializer(new)
    return ir.to_proto(ir.Model(graph, ir_version=8))


def _run(nodes: Sequence[ir.Node], tensors: Mapping[ir.Value, ir.TensorProtocol], model: ir.Model) -> Arrays:
    if not nodes:
        return {}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    proto = _proto(nodes, tensors, model, content_limit=_LARGE_BYTES)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = iter(session.run(None, {}))
    return {value: np.asarray(next(arrays)) for node in nodes for value in node.outputs if value.name}
