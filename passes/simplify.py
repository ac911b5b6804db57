"""The graph without what it can do without: same inputs, same outputs, same values, fewer bytes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from .compact import CompactTensors
from .constants import WEIGHT_ELEMENTS, mark_untouchable, tensor_of
from .dead_channels import dead_channels_note, remove_dead_channels
from .deduplicate import Deduplicate, DeduplicateResult
from .default_attributes import RemoveDefaultAttributes
from .fold import FoldConstants
from .fold_shapes import FoldShapes, ForgetShapes, InferShapes
from .fuse_affine import FuseAffine
from .fuse_gemm import FuseGemm
from .fuse_pad import FusePad
from .fuse_slices import FuseSlices
from .identities import RemoveIdentities
from .lift import LiftConstants
from .names import UniqueNames
from .onnxsim_adapter import run_onnxsim
from .recurrent_bias import MergeRecurrentBiases
from .slim import ClearDocumentation, RemoveOverridable, overridable
from .subexpressions import MergeEqualNodes
from .zero_states import RemoveZeroStates

__all__ = ["overridable", "simplify"]

# Each round feeds the next (a folded shape makes a Reshape constant, ...); real models are done after three.
_ROUNDS = 8


def simplify(model: ir.Model, untouchable: frozenset[str] = frozenset(), *, onnxsim_seconds: float = 0.0) -> tuple[str, ...]:
    """Simplify in place; returns notes for people. Initializers named in `untouchable` stay byte-identical.

    Afterwards all constants are initializers of the main graph, under the names they had in the file (renamed only where two scopes used one name),
    and inner values have neither shape nor type. onnxsim runs, within that many seconds, if `onnxsim_seconds` is above 0.
    """
    notes = [*_inputs_note(model)]
    nodes_before = sum(len(graph) for graph in model.graphs())
    mark_untouchable(model, untouchable)
    notes += _inline(model)
    ir.passes.Sequential(ClearDocumentation(), RemoveOverridable(), LiftConstants(), UniqueNames())(model)
    notes += _duplicates_note(model, Deduplicate()(model))
    rounds = ir.passes.PassManager([_round()], steps=_ROUNDS)
    rounds(model)
    if onnxsim_seconds > 0:
        notes.append(run_onnxsim(model, onnxsim_seconds))
        rounds(model)
    notes += dead_channels_note(remove_dead_channels(model))
    _last_steps()(model)
    nodes_after = sum(len(graph) for graph in model.graphs())
    return (*notes, f"{nodes_before} nodes became {nodes_after}")


def _round() -> ir.passes.Sequential:
    return ir.passes.Sequential(
        InferShapes(),
        RemoveIdentities(),
        RemoveZeroStates(),
        FoldShapes(),
        FoldConstants(),
        FuseAffine(),
        FuseGemm(),
        FusePad(),
        FuseSlices(),
        common.RemoveUnusedNodesPass(),
        Deduplicate(),
        MergeEqualNodes(),
    )


def _last_steps() -> ir.passes.Sequential:
    return ir.passes.Sequential(
        MergeRecurrentBiases(),
        RemoveDefaultAttributes(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        UniqueNames(),
        ForgetShapes(),
        CompactTensors(),
    )


def _inline(model: ir.Model) -> list[str]:
    """Inline model-local functions, so that their weights are seen. A model that cannot be inlined is compressed as it is."""
    if not model.functions:
        return []
    count = len(model.functions)
    try:
        common.InlinePass(lambda function: _agrees(function, model))(model)
    except (ValueError, ir.passes.PassError) as error:  # recursion, or an attribute that is a graph
        return [f"functions were not inlined: {error.__cause__ or error}"]
    notes = [f"{count - len(model.functions)} functions were inlined"]
    return notes + [f"function {name} was not inlined: its opset is not the model's" for _, name, _ in model.functions]


def _agrees(function: ir.Function, model: ir.Model) -> bool:
    """Its operators mean the same in the main graph."""
    return all(model.opset_imports.get(domain, version) == version for domain, version in function.opset_imports.items())


def _inputs_note(model: ir.Model) -> list[str]:
    count = len(overridable(model))
    return [f"{count} initializers left the graph inputs"] if count else []


def _duplicates_note(model: ir.Model, result: ir.passes.PassResult) -> list[str]:
    """Weights by name; of shapes, axes and the like nobody wants to read."""
    assert isinstance(result, DeduplicateResult)
    kept = {name: model.graph.initializers[other] for name, other in result.merged.items()}
    return [f"{name} is the same as {value.name} and stored once" for name, value in kept.items() if tensor_of(value).size >= WEIGHT_ELEMENTS]
