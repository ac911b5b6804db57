"""Latency of compressed models against fp32 onnxruntime: `python benchmarks/runtime/models.py [NAME ...] [--threads N] [--set ISA] [--residency R] [--prefer P] [--peers] [--out FILE.csv]`.

All sessions are in one process and run in turn, so that all meet the same machine; ratios are taken round by round, median and quartiles. With --peers also
what a user would pick instead, quantize_dynamic (8 bits) and MatMulNBits (4 and 8 bits), where they find operators that they know.

Rows of other settings stay in FILE.csv: models.csv is made by no options, --threads 2, --prefer memory, `minilm --set avx2`, `mobilenet resnet20 kws --prefer speed`;
models_dense.csv by `minilm mobilenet resnet20 --residency dense`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from layers import opened
from pairs import alternate, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compressed import CACHE, MODELS, TOKENS, compressed, feed
from rate.toolkits import NothingToDoError, blocks, dynamic
from rows import processor, run_cases

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

KEYS = ("model", "ratio", "length", "threads", "set", "residency", "prefer")
"""What tells rows apart."""


def peers(name: str) -> dict[str, Path]:
    """The files of onnxruntime's own quantizers, made once."""
    folder = CACHE / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    source, made = MODELS / f"{name}.onnx", {}
    for peer in ("int8", "nbits4", "nbits8"):
        target = folder / f"{name}.{peer}.onnx"
        try:
            if not target.exists():
                dynamic(source, target, per_channel=False) if peer == "int8" else blocks(source, target, 32, False, int(peer[-1]))
        except NothingToDoError:
            continue
        made[peer] = target
    return made


def measure(case: tuple[str, int, int], given: argparse.Namespace) -> dict[str, object]:
    """One row."""
    name, ratio, length = case
    options = ("--inline-data",) if given.prefer is None else ("--inline-data", "--prefer", given.prefer)
    entries = {"instruction_set": given.set, "residency": given.residency}
    plain = opened(MODELS / f"{name}.onnx", given.threads, {})
    ours = opened(compressed(name, ratio, options), given.threads, {f"onnx_compress.{key}": value for key, value in entries.items() if value})
    others = {peer: opened(path, given.threads, {}) for peer, path in peers(name).items()} if given.peers else {}
    feeds = feed(plain, length, TOKENS.get(name, 0))
    seconds = alternate(*(lambda session=session: session.run(None, feeds) for session in (plain, ours, *others.values())))
    said = {"set": given.set or "fastest", "residency": given.residency or "tile", "prefer": given.prefer or "balanced"}
    found = {"model": name, "ratio": ratio, "length": length, "threads": given.threads, **said, **quartiles(seconds)}
    for peer in ("int8", "nbits4", "nbits8"):
        at = list(others).index(peer) + 2 if peer in others else None
        found[peer] = "" if at is None else f"{np.median(seconds[:, at] / seconds[:, 0]):.2f}"
    return found | {"onnxruntime": onnxruntime.__version__, "processor": processor()}


def main() -> int:
    """All cases, printed and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", help="avx512, avx2, sse4 or baseline")
    parser.add_argument("--residency", help="tile or dense")
    parser.add_argument("--prefer", help="memory, balanced or speed")
    parser.add_argument("--peers", action="store_true", help="measure onnxruntime's quantizers too")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if not MODELS.exists():
        print(f"SKIPPED: {MODELS} is absent")
        return 0
    logging.disable(logging.WARNING)  # the quantizers say a line for each node
    run_cases(given, ((case[0], lambda case=case: measure(case, given)) for case in CASES), KEYS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
