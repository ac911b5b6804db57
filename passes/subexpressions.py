"""Nodes that compute the same are computed once."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from .evaluate_nodes import is_random


class MergeEqualNodes(ir.passes.InPlacePass):
    """onnx_ir's elimination of common subexpressions, for graphs in which equal nodes give equal results.

    That pass takes custom operators, Bernoulli and Dropout in training for deterministic: where there are any, nothing is merged.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if any(node.domain != "" or is_random(node) for node in model.graph):
            return ir.passes.PassResult(model, modified=False)
        result = common.CommonSubexpressionEliminationPass()(model)
        return ir.passes.PassResult(model, result.modified)
