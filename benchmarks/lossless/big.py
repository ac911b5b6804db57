"""Large models of plausible weights, and what they cost: `python -m benchmarks.lossless.big FOLDER bf16|fp32 GIGABYTES [THREADS]`.

Writes FOLDER/big.onnx (an embedding, then layers of two matrices, external data in one file), then compresses, restores and runs it, each in a process of its
own whose peak memory is taken. Prints one line a step, and adds it to big.csv. The tests run the same with a few hundred megabytes of small weights.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

DTYPES = {"bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16), "fp32": (TensorProto.FLOAT, np.float32)}
PEAK = """
import sys, threading, time

def mb(key):
    return int(next(one for one in open('/proc/self/status') if one.startswith(key)).split()[1]) // 1024

own = [0]

def watch():
    while True:
        own[0] = max(own[0], mb('RssAnon'))
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
{}
print(mb('VmHWM'), own[0], file=sys.stderr)
"""
"""The kernel's mark of this very program (getrusage counts the process that it was forked from, too), and the most memory of its own that was seen: without
what is mapped of files, which the kernel takes back when others need it."""

COMPRESS = "from onnx_compress.optimizer.lossless import compress_lossless as c; from onnx_compress.optimizer.report import Request as R; from pathlib import Path as P; r = c(P('{0}'), P('{1}'), R(lossless=True, force=True, threads={2})); print(round(r.bytes_after / r.bytes_before, 4), r.seconds)"
RESTORE = "from onnx_compress.optimizer.lossless_restore import restore_lossless as c; from pathlib import Path as P; c(P('{0}'), P('{1}'), True, False, {2})"
RUN = "import numpy as n; from onnx_compress.runtime import session; s = session('{0}'); print(s.run(['h1'], {{'ids': n.arange(4)[None]}})[0].shape)"


@dataclass(frozen=True, slots=True)
class Case:
    """A model of about `gigabytes`: a table of `words` rows, at most a quarter of it, and layers of two matrices [width, hidden]."""

    kind: str
    gigabytes: float
    width: int = 2048
    hidden: int = 5632
    words: int = 32000


def write(folder: Path, case: Case) -> Path:
    """The model. Weights are normal with a spread of their own for each output, as trained ones are."""
    dtype, numpy_type = DTYPES[case.kind]
    rng, path = np.random.default_rng(0), folder / "big.onnx"
    words = min(case.words, int(case.gigabytes * 1e9 / 4 / case.width / np.dtype(numpy_type).itemsize))
    tensors, nodes, offset = [], [], 0

    def add(name: str, shape: tuple[int, int], file: object) -> None:
        nonlocal offset
        tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
        spread = np.exp(rng.normal(-4, 0.3, shape[1])).astype(np.float32)
        written = 0
        for first in range(0, shape[0], 512):
            part = rng.standard_normal((min(512, shape[0] - first), shape[1]), np.float32) * spread
            written += file.write(part.astype(numpy_type).tobytes())  # type: ignore[attr-defined]
        for key, value in {"location": "big.bin", "offset": str(offset), "length": str(written)}.items():
            tensor.external_data.add(key=key, value=value)
        offset += written
        tensors.append(tensor)

    with (folder / "big.bin").open("wb") as file:
        add("table", (words, case.width), file)
        nodes += [helper.make_node("Gather", ["table", "ids"], ["e0"]), helper.make_node("Cast", ["e0"], ["h0"], to=TensorProto.FLOAT)]
        layer = 0
        while offset < case.gigabytes * 1e9:
            add(f"up{layer}", (case.width, case.hidden), file)
            add(f"down{layer}", (case.hidden, case.width), file)
            for one in ("up", "down"):
                nodes.append(helper.make_node("Cast", [f"{one}{layer}"], [f"{one}{layer}f"], to=TensorProto.FLOAT))
            nodes += [helper.make_node("MatMul", [f"h{layer}", f"up{layer}f"], [f"u{layer}"]), helper.make_node("Relu", [f"u{layer}"], [f"r{layer}"])]
            nodes.append(helper.make_node("MatMul", [f"r{layer}", f"down{layer}f"], [f"h{layer + 1}"]))
            layer += 1
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n", case.width]) for name in ("h1", f"h{layer}")[: 1 + (layer > 1)]]
    graph = helper.make_graph(nodes, "big", [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "n"])], outputs, tensors)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


def sha(path: Path) -> str:
    """The sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Step:
    """What a step took, and what it printed."""

    name: str
    seconds: float
    peak_mb: int
    own_mb: int
    text: str


def step(name: str, code: str) -> Step:
    """Runs `code` in a process of its own."""
    since = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PEAK.format(code)], check=True, capture_output=True, text=True)
    seconds, (peak, own) = time.monotonic() - since, map(int, done.stderr.splitlines()[-1].split())
    print(f"{name}: {seconds:.1f} s, peak {peak} MB, of its own {own} MB {done.stdout.strip()}", flush=True)
    return Step(name, seconds, peak, own, done.stdout.strip())


def measure(folder: Path, case: Case, threads: int = 0) -> tuple[Step, Step, Step]:
    """Compressing, restoring, and running a layer; raises AssertionError where what comes back is not what was given."""
    source, target, back = write(folder, case), folder / "out.onnx", folder / "back"
    back.mkdir()
    bytes_before = sum((folder / name).stat().st_size for name in ("big.onnx", "big.bin"))
    print(f"{case.kind}: {bytes_before:,} bytes", flush=True)
    compressed = step("compress", COMPRESS.format(source, target, threads))
    restored = step("restore", RESTORE.format(target, back / "again.onnx", threads))
    ran = step("load and run the first layer", RUN.format(target))
    assert sha(back / "again.onnx") == sha(source)
    assert sha(back / "big.bin") == sha(folder / "big.bin")
    return compressed, restored, ran


def main() -> None:
    """One model; its steps go to the end of big.csv."""
    folder, kind, gigabytes, threads = Path(sys.argv[1]), sys.argv[2], sys.argv[3], (sys.argv[4:] or ["0"])[0]
    steps = measure(folder, Case(kind, float(gigabytes)), int(threads))
    out = Path(__file__).with_name("big.csv")
    rows = [] if out.exists() else ["kind,gigabytes,threads,step,seconds,peak_mb,own_mb,share"]
    share = steps[0].text.split()[0]
    rows += [f"{kind},{gigabytes},{threads},{one.name},{one.seconds:.1f},{one.peak_mb},{one.own_mb},{share}" for one in steps]
    with out.open("a") as file:
        file.write("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
