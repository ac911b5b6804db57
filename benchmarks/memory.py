"""Memory of a process of its own (USS) with minilm, fp32 and 10x, inline and external: `python benchmarks/memory.py [--fresh] [--out FILE.csv]`.

USS = Private_Clean + Private_Dirty of /proc/self/smaps_rollup, after the session is created and has run three times on 128 tokens (used_memory.py). Each
model has processes of its own; what a session of an empty model takes is subtracted. Activations are part of the figure.
Pages of the runtime's own code count as private or shared by what other processes map just then, some 5 MB; the anonymous part does not depend on that.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from compressed import CACHE, MODELS, RATIO, compressed, processor, row, total_bytes
from numpy.typing import NDArray
from onnx import TensorProto, helper

MODEL, LENGTH, PROCESSES = "minilm_l6_v2", 128, 5
ALLOWED_ABOVE_FILE_MB = 16


def measured(path: Path) -> NDArray[np.float64]:
    """[processes, 2]: USS and its anonymous part in MB, as processes of their own report them for a model."""
    command = [sys.executable, str(Path(__file__).with_name("used_memory.py")), str(path), str(LENGTH)]
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


def external() -> Path:
    """The fp32 model with its weights in a file beside it."""
    folder = CACHE / "fp32"
    folder.mkdir(parents=True, exist_ok=True)
    path, data = folder / f"{MODEL}.onnx", folder / f"{MODEL}.onnx.data"
    data.unlink(missing_ok=True)
    onnx.save(onnx.load(MODELS / f"{MODEL}.onnx"), path, save_as_external_data=True, location=data.name, size_threshold=1024)
    return path


def main() -> int:
    """All four, printed and written; 1 where the compressed model takes more than its file and 16 MB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="compress again")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("memory.csv"))
    arguments = parser.parse_args()
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    base = measured(empty())
    files = {
        ("fp32", "inline"): MODELS / f"{MODEL}.onnx",
        ("fp32", "external"): external(),
        ("10x", "inline"): compressed(MODEL, fresh=arguments.fresh),
        ("10x", "external"): compressed(MODEL, options=("--external-data",), fresh=arguments.fresh),
    }
    rows = [compared(*key, path, base) for key, path in files.items()]
    for each in rows:
        print(row(each), flush=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return int(any(each["bar_mb"] and float(each["largest_mb"]) > float(each["bar_mb"]) for each in rows))


def compared(weights: str, stored: str, path: Path, base: NDArray[np.float64]) -> dict[str, str]:
    """One row: what a model takes above the empty one, in MB; `largest` is the worst case, its highest figure above the lowest of the empty model."""
    file, used = total_bytes(path) / 1e6, measured(path)
    above = np.median(used, axis=0) - np.median(base, axis=0)
    return {
        "model": MODEL,
        "weights": weights,
        "stored": stored,
        "file_mb": f"{file:.1f}",
        "uss_mb": f"{above[0]:.1f}",
        "anonymous_mb": f"{above[1]:.1f}",
        "largest_mb": f"{used[:, 0].max() - base[:, 0].min():.1f}",
        "bar_mb": f"{file + ALLOWED_ABOVE_FILE_MB:.1f}" if weights == f"{RATIO}x" else "",
        "empty_mb": f"{np.median(base[:, 0]):.1f}",
        "onnxruntime": onnxruntime.__version__,
        "processor": processor(),
    }


if __name__ == "__main__":
    sys.exit(main())
