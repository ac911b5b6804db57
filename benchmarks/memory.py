"""Memory of a process of its own (USS) with minilm, fp32 and 10x, inline and external: `python benchmarks/memory.py [--fresh] [--out FILE.csv]`.

USS = Private_Clean + Private_Dirty of /proc/self/smaps_rollup, after the session is created and has run three times on 128 tokens. Each model has a
process of its own; what a session of an empty model takes is subtracted.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from compressed import CACHE, MODELS, compressed, feed, processor, row, total_bytes
from onnx import TensorProto, helper
from onnx_compress.runtime import session

MODEL, LENGTH, RUNS = "minilm_l6_v2", 128, 3
ALLOWED_ABOVE_FILE = 16_000_000


def used_bytes() -> int:
    """Memory that belongs to this process alone."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(number) for number in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+)", text, re.MULTILINE))


def child(path: Path) -> int:
    """Creates a session, runs it three times and prints what this process uses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = session(path, options)
    inputs = feed(opened, LENGTH)
    for _ in range(RUNS):
        opened.run(None, inputs)
    print(used_bytes())
    return 0


def measured(path: Path) -> int:
    """What a process of its own reports for a model."""
    made = subprocess.run([sys.executable, __file__, "--child", str(path)], check=True, capture_output=True, text=True)
    return int(made.stdout)


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
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments.child)
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    base = int(np.median([measured(empty()) for _ in range(3)]))
    files = {
        ("fp32", "inline"): MODELS / f"{MODEL}.onnx",
        ("fp32", "external"): external(),
        ("10x", "inline"): compressed(MODEL, fresh=arguments.fresh),
        ("10x", "external"): compressed(MODEL, external=True, fresh=arguments.fresh),
    }
    rows = []
    for (weights, where), path in files.items():
        size, used = total_bytes(path), measured(path) - base
        rows.append(
            {
                "model": MODEL, "weights": weights, "stored": where, "file_mb": f"{size / 1e6:.1f}", "uss_above_empty_mb": f"{used / 1e6:.1f}",
                "bar_mb": f"{(size + ALLOWED_ABOVE_FILE) / 1e6:.1f}" if weights == "10x" else "", "empty_mb": f"{base / 1e6:.1f}",
                "onnxruntime": onnxruntime.__version__, "processor": processor(),
            }
        )  # fmt: skip
        print(row(rows[-1]), flush=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return int(any(one["bar_mb"] and float(one["uss_above_empty_mb"]) > float(one["bar_mb"]) for one in rows))


if __name__ == "__main__":
    sys.exit(main())
