"""The cost model against nodes inside models: `python benchmarks/runtime/rates.py [NAME ...] [--out FILE.csv]`.

Layers follow each other there and back, so that what one makes is what the next reads, and weights are not in the first caches: convolutions of a kind,
depthwise ones in turn with pointwise ones, as models have them. Of each node, dense (onnxruntime) and fused (ours) in microseconds by onnxruntime's profile,
both sessions in turn, and what optimizer/cost.py makes of it; of what is reordered between the two, too. Forms are compared on one matrix and one vector:
decoding is nearly all of that time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from layers import Case, member, models, opened
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer.cost import CALL_US, reordering, times
from onnx_compress.optimizer.work import VECTORS, Times, Work
from onnx_compress.runtime import evaluate, library_path, reader
from pairs import alternate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from onnx_compress.passes import writer
from onnx_compress.passes.codebook import Cluster
from onnx_compress.passes.distinct import Distinct
from onnx_compress.passes.mapping import LearnedMap
from onnx_compress.passes.quantize import Quantize
from onnx_compress.passes.technique import Context
from onnx_compress.runtime.form import Member, View
from rows import line, processor, write_rows

Layer = tuple[int, int, int, int]
"""Channels in and out, size of the kernel, groups."""


def there_and_back(channels: int, outputs: int, kernel: int) -> list[Layer]:
    return [(channels, outputs, kernel, 1), (outputs, channels, kernel, 1)]


def separable(channels: int, outputs: int, kernel: int) -> list[Layer]:
    return [(channels, channels, kernel, channels), (channels, outputs, 1, 1), (outputs, outputs, kernel, outputs), (outputs, channels, 1, 1)]


CONVOLUTIONS = {
    f"{make.__name__} {kernel}x{kernel} {channels}>{outputs} @{size}": (make(channels, outputs, kernel), size)
    for make, shapes in (
        (separable, ((32, 64, 3, 112), (64, 128, 3, 56), (48, 96, 5, 56), (16, 96, 3, 80), (128, 128, 3, 28), (96, 240, 5, 28), (256, 512, 3, 14), (480, 480, 3, 14))),
        (separable, ((160, 320, 5, 14), (112, 672, 3, 14), (512, 1024, 3, 7), (320, 640, 3, 7), (64, 64, 3, 25), (116, 116, 3, 20), (24, 96, 3, 40), (58, 58, 3, 40))),
        (there_and_back, ((16, 16, 3, 64), (32, 32, 3, 32), (64, 64, 3, 16), (64, 64, 3, 56), (128, 128, 3, 28), (48, 64, 3, 40), (24, 24, 3, 80), (256, 256, 3, 14))),
        (there_and_back, ((512, 512, 3, 7), (32, 64, 5, 28), (20, 40, 3, 30), (30, 30, 3, 40), (58, 58, 3, 20))),
    )
    for channels, outputs, kernel, size in shapes
}
MATRICES = tuple((k, n, m) for k, n in ((384, 1536), (384, 384), (1024, 4096), (768, 3072), (64, 256), (128, 512), (512, 512), (256, 1024)) for m in (1, 4, 16, 64, 128))
BLOCKS, ROUNDS, WARM_UP = 3, 40, 3
LARGE_VALUES = 1 << 23
"""Matrices there and back are so many that they have this many values, as in models that caches do not hold."""


def network(layers: Sequence[Layer], size: int, fused: Sequence[bool]) -> bytes:
    """Convolutions that keep their plane, each with a Relu, some of them fused."""
    nodes, weights, last = [], [], "x"
    for number, ((channels, outputs, kernel, group), ours) in enumerate(zip(layers, fused, strict=True)):
        payload = np.frombuffer(writer.write(member("Conv", (outputs, channels // group, kernel, kernel), number)), np.uint8)
        dense = evaluate.member_array(reader.read(payload).members[0])
        weights.append(numpy_helper.from_array(payload if ours else dense, f"w{number}"))
        given = {"pads": [kernel // 2] * 4, "group": group}
        if ours:
            nodes.append(helper.make_node("CompressedConv", [last, f"w{number}"], [f"y{number}"], f"{number}", domain="onnx_compress", activation="Relu", **given))
        else:
            nodes += [helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], f"{number}", **given), helper.make_node("Relu", [f"c{number}"], [f"y{number}"])]
        last = f"y{number}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, layers[0][0], size, size))
    graph = helper.make_graph(nodes, "graph", [x], [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_compress", 1)], ir_version=8).SerializeToString()


def profiled(sources: Sequence[bytes], x: NDArray[np.float32]) -> list[list[tuple[str, float]]]:
    """(operator, microseconds) of the nodes of each model in their order, models running in turn."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for source in sources:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.enable_profiling, options.profile_file_prefix = 1, True, f"{folder}/{len(sessions)}"
            options.register_custom_ops_library(library_path())
            sessions.append(onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]))
        for _ in range(ROUNDS):
            for session in sessions:
                session.run(None, {"x": x})
        return [_nodes(json.loads(Path(session.end_profiling()).read_text())) for session in sessions]


def _nodes(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found.setdefault((event["name"], event["args"]["op_name"]), []).append(event["dur"])
    return [(operator, float(np.median(times[WARM_UP:]))) for (_, operator), times in found.items()]


def compared(name: str, kind: str, measured: Sequence[float], modelled: Times) -> dict[str, object]:
    """One row; `measured` is (dense, fused)."""
    dense, fused = measured
    return {
        "case": name, "kind": kind, "dense_us": f"{dense:.1f}", "dense_model": f"{modelled.folded:.1f}", "fused_us": f"{fused:.1f}",
        "fused_model": f"{modelled.fused:.1f}", "ratio": f"{fused / dense:.2f}", "ratio_model": f"{modelled.fused / modelled.folded:.2f}",
    }  # fmt: skip


def convolutions(name: str) -> list[dict[str, object]]:
    """A row for each of the layers that follow each other, and one for what is reordered where every second is fused."""
    layers, size = CONVOLUTIONS[name]
    all_layers = [*layers] * BLOCKS
    x = np.abs(np.random.default_rng(1).standard_normal((1, layers[0][0], size, size))).astype(np.float32)
    mixed = [bool(number % 2) for number in range(len(all_layers))]
    dense, fused, both = profiled([network(all_layers, size, one) for one in ([False] * len(mixed), [True] * len(mixed), mixed)], x)
    rows = []
    for number, (channels, outputs, kernel, group) in enumerate(layers):
        kind = "depthwise" if group > 1 else "pointwise" if kernel == 1 else "spatial"
        measured = [float(np.median([us for operator, us in nodes if operator.endswith("Conv")][number :: len(layers)])) for nodes in (dense, fused)]
        dims = (outputs, channels // group, kernel, kernel)
        modelled = times(member("Conv", dims, 0).view, (Work(kind, float(size**2)),), Quantize(1.0))
        rows.append(compared(f"{kind} {kernel}x{kernel} {channels}>{outputs} @{size}", kind, measured, modelled))
    moved = [us for operator, us in both if operator.startswith("Reorder")]
    if moved:
        values = float(np.mean([layer[1] for layer in layers])) * size**2
        rows.append({"case": name, "kind": "reordering", "dense_us": f"{np.median(moved):.1f}", "dense_model": f"{reordering(values):.1f}"})
    return rows


def matrix(k: int, n: int, m: int) -> dict[str, object]:
    """One row: a matrix of this shape, in turn with one back."""
    case = Case("", "MatMul", (k, n), (m, k), {}, max(BLOCKS, min(LARGE_VALUES // (2 * k * n), 6 * BLOCKS)))
    x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    found = profiled([model.SerializeToString() for model in models(case)], x)
    measured = [float(np.median([us for operator, us in nodes if operator.endswith("MatMul")])) for nodes in found]
    kind = "matrix" if m > VECTORS else "vector"
    return compared(f"MatMul {k}x{n} M={m}", kind, measured, times(member("MatMul", (k, n), 0).view, (Work(kind, m),), Quantize(1.0)))


FORMS = {
    "grid": Quantize(0.4),
    "trellis": Quantize(0.6, trellis=True),
    "codebook": Cluster(8),
    "mapped": LearnedMap(8, 4),
    "distinct": Distinct(),
}


def forms() -> list[dict[str, object]]:
    """Values decoded in a nanosecond by form: what a matrix takes with one vector, without the call."""
    rows = []
    values = np.random.default_rng(0).standard_normal((1, 1024, 1024)).astype(np.float32)
    few = np.random.default_rng(0).choice(np.array([0.0, 0.5, -0.25], np.float32), values.shape, p=(0.5, 0.3, 0.2))
    for name, technique in FORMS.items():
        form = technique.apply(few if name == "distinct" else values, Context())
        payload = np.frombuffer(writer.write(Member(1, View((1024, 1024), (1, 0), 1, 1024), form)), np.uint8)
        node = helper.make_node("CompressedMatMul", ["x", "w"], ["y"], domain="onnx_compress")
        shaped = [helper.make_tensor_value_info(one, TensorProto.FLOAT, (1, 1024)) for one in "xy"]
        graph = helper.make_graph([node], "graph", shaped[:1], shaped[1:], [numpy_helper.from_array(payload, "w")])
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_compress", 1)]
        session = opened(helper.make_model(graph, opset_imports=opsets, ir_version=8), 1, {})
        feeds = {"x": np.ones((1, 1024), np.float32)}
        fused = float(np.median(alternate(lambda session=session, feeds=feeds: session.run(None, feeds)))) * 1e6
        rows.append({"form": name, "bits": f"{8 * len(payload) / values.size:.2f}", "fused_us": f"{fused:.1f}", "values_ns": f"{values.size / (fused - CALL_US.fused) / 1000:.2f}"})
    return rows


def wanted(name: str, names: Sequence[str]) -> bool:
    """Whether a case was asked for."""
    return not names or any(one in name for one in names)


def main(arguments: Sequence[str] | None = None) -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    for one in forms():
        print(line(one), flush=True)
    rows: list[dict[str, object]] = []
    for k, n, m in MATRICES:
        if wanted(f"MatMul {k}x{n} M={m}", given.names):
            rows.append(matrix(k, n, m))
            print(line(rows[-1]), flush=True)
    for name in CONVOLUTIONS:
        if wanted(name, given.names):
            rows += (found := convolutions(name))
            print(*map(line, found), sep="\n", flush=True)
    if given.out:
        write_rows(given.out, [one | {"onnxruntime": onnxruntime.__version__, "processor": processor()} for one in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
