"""Latency of compressed models against fp32 onnxruntime: `python benchmarks/runtime/models.py [NAME ...] [--threads N] [--set ISA] [--residency R] [--prefer P] [--out FILE.csv]`.

Both sessions are in one process and run in turn, so that both meet the same machine; the ratio is taken pair by pair, median and quartiles.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnxruntime
from pairs import alternate, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compressed import MODELS, TOKENS, compressed, feed, processor, row
from onnx_compress.runtime import library_path
from rows import write_rows

CASES = (
    ("minilm_l6_v2", 10, 16),
    ("minilm_l6_v2", 10, 64),
    ("minilm_l6_v2", 10, 128),
    ("mobilenet_v1_075", 8, 1),
    ("cifar10_resnet20_jpegft", 8, 1),
    ("nanodet_m", 8, 1),
    ("ultraface_rfb320", 8, 1),
    ("mlperf_kws_dscnn", 8, 1),
    ("charrnn_shakespeare", 8, 1),
    ("charrnn_shakespeare", 8, 100),
)
"""Model, ratio, length of sequences."""


def opened(path: Path, threads: int, entries: dict[str, str]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    options.register_custom_ops_library(library_path())
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(case: tuple[str, int, int], given: argparse.Namespace) -> dict[str, object]:
    """One row."""
    name, ratio, length = case
    options = ("--inline-data",) if given.prefer is None else ("--inline-data", "--prefer", given.prefer)
    entries = {"instruction_set": given.set, "residency": given.residency}
    plain = opened(MODELS / f"{name}.onnx", given.threads, {})
    ours = opened(compressed(name, ratio, options), given.threads, {f"onnx_compress.{key}": value for key, value in entries.items() if value})
    feeds = feed(plain, length, TOKENS.get(name, 0))
    seconds = alternate(*(lambda session=session: session.run(None, feeds) for session in (plain, ours)))
    said = {"set": given.set or "fastest", "residency": given.residency or "tile", "prefer": given.prefer or "balanced"}
    return {"model": name, "ratio": ratio, "length": length, "threads": given.threads, **said, **quartiles(seconds), "onnxruntime": onnxruntime.__version__, "processor": processor()}


def main() -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", help="avx512, avx2, sse4 or baseline")
    parser.add_argument("--residency", help="tile or dense")
    parser.add_argument("--prefer", help="memory, balanced or speed")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    rows = []
    for case in CASES:
        if not given.names or any(name in case[0] for name in given.names):
            rows.append(measure(case, given))
            print(row({key: value for key, value in rows[-1].items() if key not in {"onnxruntime", "processor"}}), flush=True)
    if given.out:
        write_rows(given.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
