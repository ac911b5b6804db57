"""The cost model against single layers: `python benchmarks/runtime/rates.py [NAME ...] [--out FILE.csv]`.

For each layer, dense (onnxruntime) and fused (ours) in microseconds, measured in turn, and what optimizer/cost.py makes of it. The layers are those that small
models are made of. Forms are compared on one matrix and one vector: decoding is nearly all of that time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from layers import Case, conv, matmul, member, models, opened
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.optimizer.cost import CALL_US, times
from onnx_compress.optimizer.work import VECTORS, Work
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

CASES = (
    *(matmul(k, n, m) for k, n in ((4096, 4096), (384, 1536), (384, 384)) for m in (1, 16, 128)),
    *(conv(c, o, 1, s) for c, o, s in ((256, 1024, 14), (64, 64, 56), (24, 48, 112), (96, 192, 28), (384, 384, 14), (768, 768, 7), (64, 64, 25), (58, 58, 20))),
    *(conv(c, o, 3, s) for c, o, s in ((256, 256, 14), (512, 512, 7), (64, 64, 56), (16, 16, 32), (32, 32, 16), (64, 64, 8), (3, 16, 32), (16, 32, 60))),
    *(conv(c, c, 3, s, 1, c) for c, s in ((384, 14), (96, 56), (24, 112), (64, 25), (116, 20))),
)


def kind(case: Case) -> str:
    """As `work.measure` names it."""
    if case.op == "MatMul":
        return "matrix" if case.x[0] > VECTORS else "vector"
    return "depthwise" if case.dims[1] == 1 else "pointwise" if case.dims[2] == 1 else "spatial"


def positions(case: Case) -> float:
    """Vectors that the weight meets; strides of convolutions are 1."""
    return case.x[0] if case.op == "MatMul" else case.x[2] * case.x[3]


def measure(case: Case) -> dict[str, object]:
    """One row."""
    feeds = {"x": np.random.default_rng(1).standard_normal(case.x).astype(np.float32)}
    sessions = [opened(model, 1, {}) for model in models(case)]
    dense, fused = np.median(alternate(*(lambda session=session: session.run(None, feeds) for session in sessions)), axis=0) * 1e6
    modelled = times(member(case.op, case.dims, 0).view, (Work(kind(case), positions(case)),), Quantize(1.0))
    products = positions(case) * np.prod(case.dims)
    return {
        "case": case.name, "kind": kind(case), "dense_us": f"{dense:.1f}", "dense_model": f"{modelled.folded:.1f}", "fused_us": f"{fused:.1f}",
        "fused_model": f"{modelled.fused:.1f}", "dense_products_ns": f"{products / dense / 1000:.1f}", "fused_products_ns": f"{products / fused / 1000:.1f}",
    }  # fmt: skip


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


def main(arguments: Sequence[str] | None = None) -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    for one in forms():
        print(line(one), flush=True)
    rows = []
    for case in CASES:
        if not given.names or any(name in case.name for name in given.names):
            rows.append(measure(case))
            print(line(rows[-1]), flush=True)
    if given.out:
        write_rows(given.out, [one | {"onnxruntime": onnxruntime.__version__, "processor": processor()} for one in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
