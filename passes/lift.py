"""Constant nodes and initializers of subgraphs become initializers of the main graph."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


class LiftConstants(ir.passes.InPlacePass):
    """Lift every constant to the main graph, under the name of its output; what a branch returns as it is stays where it is.

    Names stay unique afterwards only if UniqueNames follows: a value of a subgraph may have hidden the lifted one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        result = ir.passes.Sequential(
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.LiftSubgraphInitializersToMainGraphPass(),
        )(model)
        return ir.passes.PassResult(model, result.modified)
