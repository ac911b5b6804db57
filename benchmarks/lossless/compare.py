"""Ours against ZipNN, and zstd and xz where asked for, without loss: `python -m benchmarks.lossless.compare MODELS PEERS_PYTHON OUT.csv [zipnn]`.

MODELS is a folder of .onnx files, PEERS_PYTHON the Python of an environment that has zipnn and zstandard (none of them is a dependency of ours); with `zipnn`, ZipNN is
the only peer. One thread each, on the same machine, one after the other. Sizes: the whole compressed file of ours; for the peers their tensors and the bytes of the graph around them.
Speeds are of the tensors' bytes by processor time, the best of some runs. `encode`: tensors in memory to payloads in memory, with all that is decided on the way (for ours: which tensors are copies or share a payload, forms, views, tables). `compress`: all that --lossless does
but the check at the end, which hashes, so reading, planning the graph and writing, too; peers have no such figure. `decode`: by the library's own entry.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx_compress.optimizer.exact import stored_bytes
from onnx_compress.optimizer.lossless import compress_lossless
from onnx_compress.optimizer.lossless_restore import read_recipe
from onnx_compress.optimizer.lossless_source import Source
from onnx_compress.optimizer.lossless_tensors import Coder
from onnx_compress.optimizer.lossless_threads import Threads
from onnx_compress.optimizer.protos import read_model
from onnx_compress.optimizer.report import Request
from onnx_compress.runtime import library
from onnx_compress.runtime.header import read_header

from .models import LEAST_VALUES, variants

NAMES = {1: "float32", 10: "float16", 16: "bfloat16"}
COLUMNS = ("model", "kind", "bytes", "tensor_bytes", "tool", "size", "share", "encode_mb_s", "decode_mb_s", "compress_mb_s")
REPEATS = 5


def main() -> None:
    """Writes one row for each file and tool."""
    folder, python, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for source in sorted(folder.glob("*.onnx")):
            for kind, path in variants(source, Path(scratch)).items():
                rows += [{"model": source.stem, "kind": kind} | row for row in _rows(path, Path(scratch), [python, *sys.argv[4:]])]
                print(*(f"{row['tool']} {row['share']:.4f} in {row['encode_mb_s']:.0f} out {row['decode_mb_s']:.0f} all {row['compress_mb_s'] or 0:.0f};" for row in rows if (row["model"], row["kind"]) == (source.stem, kind)), source.stem, kind, flush=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in rows)


def _rows(path: Path, scratch: Path, peers: list[str]) -> Iterator[dict[str, object]]:
    tensors = _tensors(path)
    size, held = path.stat().st_size, sum(raw.nbytes for _, raw in tensors)
    ours = _ours(path, scratch)
    npz = scratch / "tensors.npz"
    np.savez(npz, **{f"{number}:{dtype}": raw for number, (dtype, raw) in enumerate(tensors)})
    done = subprocess.run([peers[0], str(Path(__file__).with_name("peers.py")), str(npz), *peers[1:]], check=True, capture_output=True, text=True)
    found = {tool: one | {"bytes": one["bytes"] + size - held} for tool, one in json.loads(done.stdout.splitlines()[-1]).items()}
    for tool, one in ({"ours": ours} | found).items():
        yield {
            "bytes": size, "tensor_bytes": held, "tool": tool, "size": int(one["bytes"]), "share": one["bytes"] / size,
            "encode_mb_s": held / one["encode"] / 1e6, "decode_mb_s": held / one["decode"] / 1e6,
            "compress_mb_s": held / one["compress"] / 1e6 if "compress" in one else None,
        }  # fmt: skip


def _tensors(path: Path) -> list[tuple[str, np.ndarray]]:
    with Source(path) as held:
        model = read_model(held.data)
        found = [tensor for tensor in model.tensors() if tensor.dtype in NAMES and tensor.size >= LEAST_VALUES and held.span(tensor)]
        return [(NAMES[tensor.dtype], held.read("", tensor.data[0], tensor.data[1] - tensor.data[0])) for tensor in found if tensor.data]


def _ours(path: Path, scratch: Path) -> dict[str, float]:
    target = scratch / "ours.onnx"
    return {"compress": _compress(path, target), "bytes": target.stat().st_size, "encode": _encode(path), "decode": _decode(target)}


def _compress(path: Path, target: Path) -> float:
    """Seconds of the whole call, until the check at the end begins."""
    seconds = []
    for _ in range(REPEATS):
        target.unlink(missing_ok=True)  # else what it replaces is read, too
        begun: dict[str, float] = {}
        since = time.process_time()
        compress_lossless(path, target, Request(threads=1, force=True, external_data=False), lambda phase, _, begun=begun: begun.setdefault(phase, time.process_time()))
        seconds.append(begun["verifying"] - since)
    return min(seconds)


class _InMemory(Source):
    """A source whose tensors are in memory once they were read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._read: dict[tuple[str, int, int], NDArray[np.uint8]] = {}

    def read(self, location: str, start: int, size: int) -> NDArray[np.uint8]:
        place = location, start, size
        if place not in self._read:
            self._read[place] = super().read(*place)
        return self._read[place]


def _encode(path: Path) -> float:
    """Seconds from tensors to payloads, each in one piece, as the peers give theirs."""
    seconds = []
    with _InMemory(path) as held, Threads(1) as pool:
        model = read_model(held.data)
        for _ in range(1 + REPEATS):
            since = time.process_time()
            packed = Coder(held, Request(threads=1), pool, None).pack(model, lambda _: None)
            payloads = [b"".join(pieces) for pieces in packed.pieces.values()]
            seconds.append(time.process_time() - since)
            del packed, payloads
    return min(seconds[1:])


def _decode(target: Path) -> float:
    """Seconds from payloads to tensors."""
    recipe = read_recipe(target)
    with Source(target) as held:
        payloads = [held.read("", place.at, place.size) for place in recipe.payloads]
    members = [read_header(payload).payload.members[0] for payload in payloads]
    outs = [np.empty(stored_bytes(member.dtype, member.view.size), np.uint8) for member in members]
    best = float("inf")
    for _ in range(REPEATS):
        since = time.process_time()
        for payload, out in zip(payloads, outs, strict=True):
            library.decode(payload, out, verify_checksums=False)
        best = min(best, time.process_time() - since)
    return best


if __name__ == "__main__":
    main()
