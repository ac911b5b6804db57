"""Kills, full disks and mutations: nothing lost, nothing wrong. `python -m benchmarks.lossless.hostile MODEL.onnx [KILLS] [MUTATIONS]`; tests run a few of each.

Each round runs the command line in a process of its own. What must hold: the input is untouched, a final name holds a whole file or none, and the next run works.
"""

from __future__ import annotations

import hashlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnx_compress.optimizer.errors import CompressError
from onnx_compress.optimizer.restore import restore

SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
PROGRAM = (sys.executable, "-c", "from onnx_compress.optimizer.cli import run; run()")


def sha(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kills(model: Path, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Runs until `count` were killed at random moments, compressing and restoring in turn; gives how many had finished before, and were killed. Raises AssertionError."""
    rng, wanted = random.Random(seed), sha(model)  # noqa: S311  (moments, no secrets)
    source, good = folder / "in.onnx", folder / "good.onnx"
    shutil.copy(model, source)
    since = time.monotonic()
    subprocess.run([*PROGRAM, str(source), str(good), "--lossless", "-q"], check=True)
    longest, whole = 1.2 * (time.monotonic() - since), sha(good)
    found = {"finished": 0, "killed": 0}
    while found["killed"] < count:
        target = folder / "target.onnx"
        restoring = sum(found.values()) % 2 == 1
        arguments = ["restore", str(good), str(target), "-q"] if restoring else [str(source), str(target), "--lossless", "-q"]
        with subprocess.Popen([*PROGRAM, *arguments], stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(longest * rng.random())
            except subprocess.TimeoutExpired:
                process.send_signal(rng.choice(SIGNALS))
            process.wait()
        found["finished" if process.returncode == 0 else "killed"] += 1
        assert sha(source) == wanted, "the input was changed"
        assert sha(good) == whole, "the compressed file was changed"
        if target.exists():
            assert sha(target) == (wanted if restoring else whole), "a half-written file has the final name"
            target.unlink()
    subprocess.run([*PROGRAM, "restore", str(good), str(folder / "last.onnx"), "-q"], check=True)
    assert sha(folder / "last.onnx") == wanted
    return found


def full_disk(model: Path, folder: Path, parts: int = 10) -> int:
    """Files may grow to each `parts`-th of the output only; gives how many runs were refused. Raises AssertionError."""
    source, good = folder / "in.onnx", folder / "good.onnx"
    shutil.copy(model, source)
    subprocess.run([*PROGRAM, str(source), str(good), "--lossless", "-q"], check=True)
    refused = 0
    for part in range(1, parts):
        for arguments, size in ((["restore", str(good)], source.stat().st_size), ([str(source)], good.stat().st_size)):
            target, limit = folder / "target.onnx", size * part // parts
            more = [] if arguments[0] == "restore" else ["--lossless"]
            done = subprocess.run(
                [*PROGRAM, *arguments, str(target), *more, "-q"], check=False, stderr=subprocess.PIPE, text=True,
                preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            )  # fmt: skip
            assert done.returncode == 1, f"{done.returncode}: {done.stderr}"
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert not target.exists(), "a half-written file has the final name"
            refused += 1
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left, f"left behind: {left}"
    assert sha(source) == sha(model)
    return refused


def mutations(model: Path, folder: Path, count: int, seed: int = 0) -> dict[str, int]:
    """Mutates the compressed file `count` times: each is refused or gives the original. Raises AssertionError."""
    rng = random.Random(seed)  # noqa: S311  (places, no secrets)
    good, bad, again = folder / "good.onnx", folder / "bad.onnx", folder / "again.onnx"
    if not good.exists():
        subprocess.run([*PROGRAM, str(model), str(good), "--lossless", "-q"], check=True)
    data, wanted, found = good.read_bytes(), sha(model), {"refused": 0, "the original": 0}
    for number in range(count):
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        if number % 20 == 0:
            del changed[rng.randrange(len(changed)) :]
        if number % 20 == 1:
            at = rng.randrange(len(changed))
            del changed[at : at + rng.randint(1, 9)]
        bad.write_bytes(changed)
        try:
            restore(bad, again)
        except CompressError:
            found["refused"] += 1
            assert not again.exists()
        else:
            found["the original"] += 1
            assert sha(again) == wanted, f"mutation {number} decoded to something else"
            again.unlink()
    return found


def main() -> None:
    """All three on one model; the counts go into hostile.csv."""
    model, many = Path(sys.argv[1]), [int(argument) for argument in sys.argv[2:]] or [200, 10_000]
    rows = ["model,what,outcome,count"]
    for name, run in {"kills": lambda folder: kills(model, folder, many[0]), "full disk": lambda folder: {"refused": full_disk(model, folder)},
                      "mutations": lambda folder: mutations(model, folder, many[-1])}.items():  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            found = run(Path(folder))
        print(name, found, flush=True)
        rows += [f"{model.stem},{name},{outcome},{count}" for outcome, count in found.items()]
        Path(__file__).with_name("hostile.csv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
