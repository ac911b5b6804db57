"""A product of two matrices plus a row is one Gemm."""

from __future__ import annotations

import onnx_ir as ir

from .constants import is_constant, tensor_of
from .fold_shapes import known_dims

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


class FuseGemm(ir.passes.InPlacePass):
    """Add(MatMul(a, b), row) -> Gemm(a, b, row), where a and b have rank 2 and row is a constant of [n] or [1, n]; needs InferShapes before."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        fused = [n for n in list(model.graph) if n.op_type == "MatMul" and n.domain == "" and _fuse(model.graph, n)]
        return ir.passes.PassResult(model, bool(fused))


def _fuse(graph: ir.Graph, product: ir.Node) -> bool:
    result = product.outputs[0]
    if result.is_graph_output() or len(result.uses()) != 1:
        return False
    ((add, index),) = result.uses()
    if add.op_type != "Add" or add.domain != "" or add.graph is not graph:
        return False
    row = add.inputs[1 - index]
    if row is None or not _is_row(row, product):
        return False
    gemm = ir.Node("", "Gemm", [*product.inputs, row], num_outputs=1)
    sum_, new = add.outputs[0], gemm.outputs[0]
    name, shape, kind = sum_.name, sum_.shape, sum_.type
    new.meta.update(sum_.meta)
    graph.insert_before(add, gemm)
    sum_.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([add, product], safe=True)
    new.name, new.shape, new.type = name, shape, kind
    return True


def _is_row(row: ir.Value, product: ir.Node) -> bool:
    first, second = known_dims(product.inputs[0]), known_dims(product.inputs[1])
    if first is None or second is None or len(first) != 2 or len(second) != 2 or not is_constant(row):
        return False
    dims = tuple(tensor_of(row).shape.numpy())
    return tensor_of(row).dtype in _FLOATS and dims in ((second[1],), (1, second[1]))
