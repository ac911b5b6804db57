"""What a compression must have done, whatever the model: `compressed` runs the whole pipeline, `Outcome.check` looks at every promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.emit import FOLDED_KEY
from onnx_compress.optimizer.errors import UsageError
from onnx_compress.optimizer.files import model_bytes
from onnx_compress.optimizer.operators import PAYLOAD_INPUTS
from onnx_compress.optimizer.report import Report
from onnx_compress.optimizer.verify import FLOAT_PRODUCTS
from onnx_compress.passes.simplify import simplify
from onnx_compress.runtime import evaluate, library, reader, session
from onnx_compress.runtime.form import Member

from models.structures import feeds

DOMAIN = "onnx_compress"
TOLERANCE, TOLERANCE_FLOAT16 = 1e-4, 4e-3
WINDOW = 1.02
Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Outcome:
    """A model, what it became, and what it was restored to."""

    original: onnx.ModelProto
    source: Path
    target: Path
    restored: Path
    report: Report

    def check(self, batches: Sequence[int] = (1, 3), tolerance: float = TOLERANCE) -> None:
        """Every promise that holds for all models."""
        for path in (self.target, self.restored):
            onnx.checker.check_model(str(path), full_check=True)
        self.check_interface()
        self.check_weights()
        self.check_outputs([feeds(self.original, seed, batch) for seed, batch in enumerate(batches)], tolerance)
        self.check_report()
        with pytest.raises(UsageError, match="compressed already"):
            compress(self.target, self.target.with_name("again.onnx"), Request(target_ratio=2))

    def check_interface(self) -> None:
        """The inputs and outputs are the original's; nothing of ours is left in the restored model."""
        expected = interface(self.original)
        assert interface(onnx.load(self.target, load_external_data=False)) == expected
        plain = onnx.load(self.restored)
        assert interface(plain) == expected
        assert DOMAIN not in {opset.domain for opset in plain.opset_import} | {node.domain for node in nodes(plain.graph)}
        assert not [entry.key for entry in plain.metadata_props if entry.key.startswith(DOMAIN)]

    def check_weights(self) -> None:
        """One member or folded value a weight, decoded bit for bit alike by both decoders, or by onnxruntime, and by `restore`; dtypes and dims as
        in the original, or as they are without its dead channels; integers without loss."""
        found = [*(key(member.dtype, member.view.dims, array) for member, array in self.members()), *self.folded()]
        reported = Counter((weight.dtype, weight.dims) for weight in self.report.weights)
        assert Counter((ir.DataType(dtype).name.lower(), dims) for dtype, dims, _ in found) == reported
        plain, wanted = onnx.load(self.restored), Counter(found)
        stored = Counter((tensor.data_type, tuple(tensor.dims), bits(tensor)) for tensor in plain.graph.initializer)
        assert not wanted - stored
        assert all(count == 1 for found, count in wanted.items() if len(found[2]) > 1024), "a weight is stored twice"
        whole = {(tensor.data_type, tuple(tensor.dims), bits(tensor)) for tensor in constants(self.original)}
        assert all(one in whole for one in found if one[0] not in (1, 10, 16)), "an integer weight was changed"
        slim = ir.load(self.source)
        simplify(slim)
        original = {(tensor.data_type, tuple(tensor.dims)) for model in (self.original, ir.to_proto(slim)) for tensor in constants(model)}
        assert all((dtype, dims) in original for dtype, dims, _ in found)

    def members(self) -> Iterator[tuple[Member, NDArray[Any]]]:
        """Every member that a node reads, with its tensor as the reader decodes it; the library's is the same."""
        model = onnx.load(self.target)
        payloads = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for name, number in sorted({read for node in nodes(model.graph) if node.domain == DOMAIN for read in reads(node)}):
            member = reader.read(payloads[name]).members[number]
            array = evaluate.member_array(member)
            assert np.array_equal(library.decode(payloads[name], np.empty_like(array), number).view(np.uint8), array.view(np.uint8))
            yield member, array

    def folded(self) -> Iterator[Key]:
        """What onnxruntime makes of the folded weights, without any optimization."""
        model = onnx.load(self.target)
        names = next((entry.value.split() for entry in model.metadata_props if entry.key == FOLDED_KEY), [])
        for array in constant_values(model, names):
            yield key(int(helper.np_dtype_to_tensor_dtype(array.dtype)), array.shape, array)

    def check_outputs(self, inputs: Sequence[Feed], tolerance: float = TOLERANCE) -> None:
        """Fused and restored model agree on every feed; the original's NaNs are the only ones."""
        for feed in inputs:
            first, fused, plain = (
                run(one, feed) for one in (plain_session(self.source), session(self.target, options()), plain_session(self.restored))
            )
            for before, ours, theirs in zip(first, fused, plain, strict=True):
                assert before.shape == ours.shape == theirs.shape
                assert before.dtype == ours.dtype == theirs.dtype
                assert not (np.isnan(ours.astype(np.float64)) & ~np.isnan(before.astype(np.float64))).any()
                assert apart(ours, theirs) <= tolerance

    def check_report(self) -> None:
        """The report counts the bytes that are there."""
        report = self.report
        assert (report.bytes_before, report.bytes_after) == (model_bytes(self.source), model_bytes(self.target))
        assert report.ratio == pytest.approx(report.bytes_before / report.bytes_after)
        assert report.bytes_after >= sum(weight.bytes_after for weight in report.weights)
        assert np.isfinite(report.divergence)


def compressed(folder: Path, model: onnx.ModelProto, ratio: float, **wishes: Any) -> Outcome:
    """Compresses and restores a model."""
    source = folder / "in.onnx"
    onnx.save(model, source)
    return compressed_file(source, ratio, **wishes)


def compressed_file(source: Path, ratio: float, **wishes: Any) -> Outcome:
    """Compresses and restores a model file."""
    target, restored = source.with_name("out.onnx"), source.with_name("restored.onnx")
    report = compress(source, target, Request(target_ratio=ratio, force=True, threads=2, **wishes))
    restore(target, restored, force=True)
    return Outcome(onnx.load(source), source, target, restored, report)


def calibration(folder: Path, model: onnx.ModelProto, count: int = 3) -> tuple[Path, ...]:
    """Files with a batch each."""
    paths = tuple(folder / f"batch{number}.npz" for number in range(count))
    for number, path in enumerate(paths):
        np.savez(path, **feeds(model, 100 + number, batch=4))
    return paths


def interface(model: onnx.ModelProto) -> list[tuple[str, int, tuple[int | str, ...]]]:
    """(name, element type, dims) of all inputs, without the overridable ones, and of all outputs."""
    stored = {tensor.name for tensor in model.graph.initializer}
    values = [*(value for value in model.graph.input if value.name not in stored), *model.graph.output]
    return [(v.name, v.type.tensor_type.elem_type, tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim)) for v in values]


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)


def constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All initializers and Constant nodes, also of bodies and functions."""
    graphs = [model.graph, *(a.g for node in nodes(model.graph) for a in node.attribute if a.HasField("g"))]
    for graph in graphs:
        yield from graph.initializer
    everywhere = [*nodes(model.graph), *(node for function in model.functions for node in function.node)]
    yield from (a.t for node in everywhere if node.op_type == "Constant" for a in node.attribute if a.HasField("t"))


def reads(node: onnx.NodeProto) -> list[tuple[str, int]]:
    """(payload, member) of each weight that a node of ours reads."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    inputs = PAYLOAD_INPUTS[node.op_type]
    numbers = attributes.get("members", [attributes.get("member", 0)] * len(inputs))
    return [(node.input[index], number) for index, number in zip(inputs, numbers, strict=True)]


Key = tuple[int, tuple[int, ...], bytes]
"""(dtype, dims, bytes; 4-bit integers one a byte)."""


def key(dtype: int, dims: tuple[int, ...], array: NDArray[Any]) -> Key:
    return dtype, dims, np.ascontiguousarray(array).tobytes()


def constant_values(model: onnx.ModelProto, names: Sequence[str]) -> list[NDArray[Any]]:
    """Values that depend on constants alone, run by onnxruntime without the rest of the graph; bfloat16 through a Cast to float and back."""
    needed, kept, casts = set(names), [], []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    halves = {node.output[0] for node in kept if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.BFLOAT16}
    casts = [helper.make_node("Cast", [name], [f"{name}.float"], to=onnx.TensorProto.FLOAT) for name in names if name in halves]
    outputs = [helper.make_empty_tensor_value_info(f"{name}.float" if name in halves else name) for name in names]  # types are inferred
    graph = helper.make_graph([*reversed(kept), *casts], "constants", [], outputs, [one for one in model.graph.initializer if one.name in needed])
    made = options()
    made.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    part = helper.make_model(graph, ir_version=model.ir_version, opset_imports=[one for one in model.opset_import if not one.domain])
    found = onnxruntime.InferenceSession(part.SerializeToString(), made, providers=["CPUExecutionProvider"]).run(None, {}) if names else []
    return [array.astype(ml_dtypes.bfloat16) if name in halves else array for name, array in zip(names, found, strict=True)]


def bits(tensor: onnx.TensorProto) -> bytes:
    """The values' bytes; 4-bit integers one a byte."""
    array = numpy_helper.to_array(tensor)
    whole = array.astype(np.int8) if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4) else array
    return np.ascontiguousarray(whole).tobytes()


def options() -> onnxruntime.SessionOptions:
    """Options under which onnxruntime multiplies floats where weights are dequantized, in both forms of a model."""
    made = onnxruntime.SessionOptions()
    made.log_severity_level = 4
    made.add_session_config_entry(*FLOAT_PRODUCTS)
    return made


def plain_session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), options(), providers=["CPUExecutionProvider"])


def run(made: onnxruntime.InferenceSession, feed: Feed) -> list[NDArray[Any]]:
    """All outputs."""
    outputs: list[NDArray[Any]] = made.run(None, dict(feed))
    return outputs


def apart(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference in units of the largest value; for integers the share of unequal ones."""
    if one.dtype.kind != "f":
        return float(np.mean(one != other)) if one.size else 0.0
    a, b = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(b)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / max(float(np.abs(b[finite]).max(initial=0.0)), 1e-30)
