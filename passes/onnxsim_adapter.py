"""onnxsim, at arm's length: in a process of its own, within a time limit, on a model without its weights."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir

from .constants import UNTOUCHABLE, WEIGHT_ELEMENTS, is_constant, tensor_of
from .fold_shapes import ForgetShapes
from .names import shorten
from .slim import ClearDocumentation


def run_onnxsim(model: ir.Model, limit_seconds: float) -> str:
    """Let onnxsim simplify the skeleton of a model, and take the result if it is smaller and has the same inputs and outputs.

    The skeleton has its weights as graph inputs, so that they can be neither folded nor renamed nor inflated, and so that only kilobytes change hands.
    Needs all constants in the main graph. Never fails: returns a note that says what was done. A result that is taken is a new `model.graph`.
    """
    if importlib.util.find_spec("onnxsim") is None:
        return "onnxsim: skipped, not installed"
    if model.functions:
        return "onnxsim: skipped, the model has functions"
    skeleton, weights = _detached(model)
    try:
        after = ir.from_proto(_simplified(ir.to_proto(skeleton), limit_seconds))
        ir.passes.Sequential(ClearDocumentation(), ForgetShapes())(after)
        saved_bytes = _shortest_bytes(skeleton.graph) - _shortest_bytes(after.graph)
    except subprocess.TimeoutExpired:
        return f"onnxsim: skipped, not done after {limit_seconds:g} seconds"
    except Exception as error:  # whatever it wrote may be anything; the adapter's promise is a note
        return f"onnxsim: skipped, it failed ({type(error).__name__})"
    if not _same_interface(skeleton.graph, after.graph):
        return "onnxsim: result refused, its inputs or outputs differ"
    if saved_bytes <= 0:
        return "onnxsim: result refused, it is not smaller"
    _attach(after.graph, weights)
    model.graph = after.graph
    return f"onnxsim: saved {saved_bytes} bytes"


def _detached(model: ir.Model) -> tuple[ir.Model, list[ir.Value]]:
    """A copy whose weights are graph inputs, and the initializers that they were."""
    weights = [v for v in model.graph.initializers.values() if is_constant(v) and not v.is_graph_output()]
    weights = [v for v in weights if tensor_of(v).size >= WEIGHT_ELEMENTS or v.meta.get(UNTOUCHABLE, False)]
    skeleton = model.clone()
    for name in [v.name for v in weights if v.name]:
        value = skeleton.graph.initializers.pop(name)
        value.const_value = None
        skeleton.graph.inputs.append(value)
    ir.passes.Sequential(ClearDocumentation(), ForgetShapes())(skeleton)
    return skeleton, weights


def _shortest_bytes(graph: ir.Graph) -> int:
    """Size with short names, since that is what is written."""
    copy = ir.Model(graph.clone(), ir_version=8)
    shorten(copy)
    return int(ir.to_proto(copy).ByteSize())


def _simplified(proto: onnx.ModelProto, limit_seconds: float) -> onnx.ModelProto:
    """Raises subprocess.TimeoutExpired, CalledProcessError, or what onnx.load raises."""
    with tempfile.TemporaryDirectory(prefix="onnx-compress-") as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        onnx.save(proto, source)
        command = [sys.executable, "-m", "onnxsim", str(source), str(target), "0"]
        subprocess.run(  # noqa: S603  (our own Python, our own arguments)
            command, timeout=limit_seconds, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return onnx.load(target)


def _same_interface(first: ir.Graph, second: ir.Graph) -> bool:
    def interface(graph: ir.Graph) -> list[tuple[str | None, str]]:
        return [(v.name, str(v.type)) for v in (*graph.inputs, *graph.outputs)]

    return len(first.inputs) == len(second.inputs) and interface(first) == interface(second)


def _attach(graph: ir.Graph, weights: list[ir.Value]) -> None:
    inputs = {v.name: v for v in graph.inputs}
    kept = list(graph.inputs)[: len(graph.inputs) - len(weights)]
    graph.inputs.clear()
    graph.inputs.extend(kept)
    for weight in weights:
        value = inputs[weight.name]
        value.const_value = weight.const_value
        value.meta.update(weight.meta)
        graph.register_initializer(value)
