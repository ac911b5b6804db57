"""Latency of recurrent layers against fp32 onnxruntime: `python benchmarks/runtime/recurrent.py [--threads N] [--out FILE.csv]`.

Single layers with random weights at 2.2 bits that carry a state from run to run. Both sessions are in one process and run in turn; the
ratio is taken pair by pair, median and quartiles. `models.py` measures charrnn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from layers import levels, opened
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_compress.passes import writer
from onnx_compress.runtime import evaluate, reader
from onnx_compress.runtime.form import Dense, Grid, Member, Symbols, View
from pairs import alternate, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rows import line, processor, write_rows


@dataclass(frozen=True, slots=True)
class Case:
    """A layer with as many inputs as units, its states given."""

    op: str
    hidden: int
    steps: int
    batch: int = 1

    @property
    def name(self) -> str:
        return f"{self.op} {self.hidden}, {self.steps} steps of {self.batch}"


CASES = tuple(
    Case(op, hidden, steps, batch)
    for op, hidden in (("LSTM", 128), ("GRU", 128), ("LSTM", 512), ("GRU", 512), ("LSTM", 1024))
    for steps, batch in ((1, 1), (100, 1), (20, 16))
)
GATES = {"LSTM": 4, "GRU": 3}


def member(rows: int, k: int, seed: int) -> Member:
    """A matrix on a grid with one scale a row, which keeps sums near one."""
    scale = np.random.default_rng(seed).uniform(0.5, 1.5, rows).astype(np.float32) / np.sqrt(k)
    view = View((1, rows, k), (0, 1, 2), 1, rows)
    return Member(TensorProto.FLOAT, view, Grid(Dense("float32", scale.astype(np.float32).view(np.uint32)), Symbols(levels(view.shape, seed))))


def models(case: Case) -> tuple[ModelProto, ModelProto]:
    """(fp32, compressed)."""
    states = ("h", "c")[: GATES[case.op] - 2]
    payloads = {name: np.frombuffer(writer.write(member(GATES[case.op] * case.hidden, case.hidden, seed)), np.uint8) for seed, name in enumerate("wr")}
    tensors = {name: evaluate.member_array(reader.read(payload).members[0]) for name, payload in payloads.items()}
    attributes = {"hidden_size": case.hidden} | ({"linear_before_reset": 1} if case.op == "GRU" else {})
    outputs = ["y", "last", "cell"][: GATES[case.op] - 1]
    made = []
    for prefix, domain, constants in (("", "", tensors), ("Compressed", "onnx_compress", payloads)):
        node = helper.make_node(f"{prefix}{case.op}", ["x", "w", "r", "", "", *states], outputs, "layer", domain=domain, **attributes)
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in ("x", *states)]
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph([node], "graph", inputs, values, [numpy_helper.from_array(array, name) for name, array in constants.items()])
        made.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("onnx_compress", 1)], ir_version=8))
    return made[0], made[1]


def layer_rows(threads: int) -> Iterator[dict[str, object]]:
    """A row for each layer."""
    rng = np.random.default_rng(1)
    for case in CASES:
        sessions = [opened(model, threads, {}) for model in models(case)]
        shapes = {"x": (case.steps, case.batch, case.hidden), "h": (1, case.batch, case.hidden), "c": (1, case.batch, case.hidden)}
        feeds = {one.name: rng.standard_normal(shapes[one.name]).astype(np.float32) for one in sessions[0].get_inputs()}
        yield measured(case.name, sessions, feeds, threads)


def measured(name: str, sessions: Sequence[onnxruntime.InferenceSession], feeds: Mapping[str, NDArray[np.generic]], threads: int) -> dict[str, object]:
    """One row."""
    seconds = alternate(*(lambda session=session: session.run(None, dict(feeds)) for session in sessions))
    return {"case": name, "threads": threads, **quartiles(seconds), "onnxruntime": onnxruntime.__version__, "processor": processor()}


def main(arguments: Sequence[str] | None = None) -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    rows = []
    for one in layer_rows(given.threads):
        rows.append(one)
        print(line({key: value for key, value in one.items() if key not in {"onnxruntime", "processor"}}), flush=True)
    if given.out:
        write_rows(given.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
