"""Memory of processes of their own, fp32 and compressed, inline and external, fused and folded: `python benchmarks/runtime/memory.py [--fresh] [--out FILE.csv]`.

A process creates a session, runs it twenty times and tells its memory (used_memory.py): USS = Private_Clean + Private_Dirty of /proc/self/smaps_rollup, the
anonymous part of it, what is mapped from files (page cache, shared between processes), and the peak. What a session of an empty model takes is subtracted.
Activations are part of the figures. Pages of the runtime's own code count as private or shared by what other processes map just then, some 5 MB; the
anonymous part does not depend on that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compressed import CACHE, MODELS, compressed, total_bytes
from rows import line, processor, write_rows

PROCESSES = 5
ALLOWED_ABOVE_FILE_MB = 12


@dataclass(frozen=True, slots=True)
class Case:
    """A model, how its weights are kept, and the file; `bar` says whether the allowance holds for it."""

    model: str
    weights: str
    path: Path
    length: int
    bar: bool = False


def cases(fresh: bool) -> list[Case]:
    """All of them; files are made where they are missing."""
    minilm, mobilenet = "minilm_l6_v2", "mobilenet_v1_075"
    made = [
        Case(minilm, "fp32 inline", MODELS / f"{minilm}.onnx", 128),
        Case(minilm, "fp32 external", external(minilm), 128),
        *(Case(minilm, f"10x {kept}", compressed(minilm, 10, (f"--{kept}-data",), fresh), 128, True) for kept in ("inline", "external")),
        Case(mobilenet, "fp32 inline", MODELS / f"{mobilenet}.onnx", 1),
    ]
    preferred = [(prefer, compressed(mobilenet, 8, ("--inline-data", "--prefer", prefer), fresh)) for prefer in ("memory", "speed")]
    return made + [Case(mobilenet, f"8x inline, {prefer}", path, 1) for prefer, path in preferred]


def measured(path: Path, length: int) -> NDArray[np.float64]:
    """[processes, 4]: what processes of their own report for a model, in MB."""
    command = [sys.executable, str(Path(__file__).with_name("used_memory.py")), str(path), str(length)]
    said = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(PROCESSES)]
    return np.asarray(said, np.float64) / 1e6


def empty() -> Path:
    """A model that adds nothing: its input is its output."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", value[:1], value[1:])
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / "empty.onnx"
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def external(model: str) -> Path:
    """The fp32 model with its weights in a file beside it."""
    folder = CACHE / "fp32"
    folder.mkdir(parents=True, exist_ok=True)
    path, data = folder / f"{model}.onnx", folder / f"{model}.onnx.data"
    data.unlink(missing_ok=True)
    onnx.save(onnx.load(MODELS / f"{model}.onnx"), path, save_as_external_data=True, location=data.name, size_threshold=1024)
    return path


def main() -> int:
    """All cases, printed and written; 1 where a compressed minilm takes more than its file and 12 MB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="compress again")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("memory.csv"))
    arguments = parser.parse_args()
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    base = measured(empty(), 1)
    rows = []
    for case in cases(arguments.fresh):
        rows.append(compared(case, base))
        print(line(rows[-1]), flush=True)
    write_rows(arguments.out, rows)
    return int(any(each["bar_mb"] and float(each["largest_mb"]) > float(each["bar_mb"]) for each in rows))


def compared(case: Case, base: NDArray[np.float64]) -> dict[str, str]:
    """One row: what a model takes above the empty one, in MB; `largest` is the worst case, its highest USS above the lowest of the empty model."""
    file, used = total_bytes(case.path) / 1e6, measured(case.path, case.length)
    above = np.median(used, axis=0) - np.median(base, axis=0)
    return {
        "model": case.model,
        "weights": case.weights,
        "file_mb": f"{file:.1f}",
        **{f"{name}_mb": f"{number:.1f}" for name, number in zip(("uss", "anonymous", "mapped", "peak"), above, strict=True)},
        "largest_mb": f"{used[:, 0].max() - base[:, 0].min():.1f}",
        "bar_mb": f"{file + ALLOWED_ABOVE_FILE_MB:.1f}" if case.bar else "",
        "empty_mb": f"{np.median(base[:, 0]):.1f}",
        "onnxruntime": onnxruntime.__version__,
        "processor": processor(),
    }


if __name__ == "__main__":
    sys.exit(main())
