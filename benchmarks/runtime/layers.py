"""Latency of single layers with random weights at 2.2 bits against fp32 onnxruntime: `python benchmarks/runtime/layers.py [NAME ...] [--threads N] [--out FILE.csv]`.

NAME is part of a case's name. Both sessions are in one process and run in turn; the ratio is taken pair by pair, median and quartiles.
`--set NAME` forces an instruction set of ours; onnxruntime keeps its own choice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx_compress.passes import writer
from onnx_compress.runtime import evaluate, library_path, reader
from onnx_compress.runtime.form import Dense, Grid, Member, Symbols, View
from pairs import alternate, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rows import processor, run_cases

SPREAD = 0.81
"""Scale of the Laplacian levels: 2.2 bits of entropy a symbol."""


@dataclass(frozen=True, slots=True)
class Case:
    """A layer: the weight's dims, the input's shape, the operator's attributes; `blocks` of them in a row."""

    name: str
    op: str
    dims: tuple[int, ...]
    x: tuple[int, ...]
    attributes: Mapping[str, object]
    blocks: int = 1


def matmul(k: int, n: int, m: int) -> Case:
    return Case(f"MatMul {k}x{n} M={m}", "MatMul", (k, n), (m, k), {})


def conv(channels: int, outputs: int, kernel: int, size: int, stride: int = 1, group: int = 1) -> Case:
    pad = kernel // 2
    attributes = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2, "group": group}
    name = f"Conv {kernel}x{kernel} {channels}>{outputs} @{size}" + (f" /{stride}" if stride > 1 else "") + (f" g{group}" if group > 1 else "")
    return Case(name, "Conv", (outputs, channels // group, kernel, kernel), (1, channels, size, size), attributes)


CASES = (
    *(matmul(4096, 4096, m) for m in (1, 16, 128)),
    *(matmul(384, 1536, m) for m in (1, 16, 128)),
    *(matmul(384, 384, m) for m in (1, 16, 128)),
    Case("12 blocks of 1024x4096 and back, M=1", "MatMul", (1024, 4096), (1, 1024), {}, 12),
    conv(256, 1024, 1, 14),
    conv(256, 256, 3, 14),
    conv(512, 512, 3, 7),
    conv(64, 64, 3, 56),
    conv(3, 64, 7, 224, 2),
    conv(64, 64, 1, 56),
    conv(384, 384, 3, 14, 1, 384),
)


def levels(shape: tuple[int, ...], seed: int) -> NDArray[np.int32]:
    """Laplacian levels."""
    return np.rint(np.random.default_rng(seed).laplace(0, SPREAD, shape)).astype(np.int32)


def member(op: str, dims: tuple[int, ...], seed: int) -> Member:
    """A weight of these dims on a grid with one scale a row."""
    view = View(dims, (1, 0), 1, dims[1]) if op == "MatMul" else View(dims, tuple(range(len(dims))), 1, dims[0])
    scale = np.random.default_rng(seed).uniform(0.01, 0.03, view.batch * view.rows).astype(np.float32)
    return Member(TensorProto.FLOAT, view, Grid(Dense("float32", scale.view(np.uint32)), Symbols(levels(view.shape, seed))))


def models(case: Case) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(fp32, compressed)."""
    plain, ours, constants, payloads, last = [], [], [], [], "x"
    for block in range(case.blocks):
        for back in (False, True) if case.blocks > 1 else (False,):
            name, dims = f"w{block}{int(back)}", case.dims[::-1] if back else case.dims
            payload = np.frombuffer(writer.write(member(case.op, dims, block * 2 + back)), np.uint8)
            constants.append(numpy_helper.from_array(evaluate.member_array(reader.read(payload).members[0]), name))
            payloads.append(numpy_helper.from_array(payload, name))
            plain.append(helper.make_node(case.op, [last, name], [f"y{name}"], name, **case.attributes))
            kept = {key: value for key, value in case.attributes.items() if key != "kernel_shape"}
            ours.append(helper.make_node(f"Compressed{case.op}", [last, name], [f"y{name}"], name, domain="onnx_compress", **kept))
            last = f"y{name}"
    made = []
    for nodes, initializers in ((plain, constants), (ours, payloads)):
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, case.x)
        y = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "graph", [x], [y], initializers)
        made.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_compress", 1)], ir_version=8))
    return made[0], made[1]


def opened(model: onnx.ModelProto | Path, threads: int, entries: Mapping[str, str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(library_path())
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def measure(case: Case, threads: int, entries: Mapping[str, str]) -> dict[str, object]:
    """One row."""
    plain, ours = models(case)
    feeds = {"x": np.random.default_rng(1).standard_normal(case.x).astype(np.float32)}
    sessions = opened(plain, threads, {}), opened(ours, threads, entries)
    found = [session.run(None, feeds)[0] for session in sessions]
    error = float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max())
    seconds = alternate(*(lambda session=session: session.run(None, feeds) for session in sessions))
    return {"case": case.name, "threads": threads, **quartiles(seconds), "error": f"{error:.1e}", "onnxruntime": onnxruntime.__version__, "processor": processor()}


def main(arguments: Sequence[str] | None = None) -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", help="avx512, avx2, sse4 or baseline")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    entries = {"onnx_compress.instruction_set": given.set} if given.set else {}
    run_cases(given, ((case.name, lambda case=case: measure(case, given.threads, entries)) for case in CASES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
