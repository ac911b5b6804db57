"""Decoder and operators under sanitizers: `python -m tests.sanitized [FOLDER]` (default: .cache/sanitize).

Address and undefined behaviour: the fuzzing harnesses on every frozen vector and thousands of mutated payloads, and the tests of the operators
inside a real onnxruntime. Threads: a program of our own in which eight threads share each operator (the wheel of onnxruntime is not
instrumented). A report of a sanitizer ends the process that made it, and this one with exit code 1.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from onnx_compress.runtime import library

from tests import instruction_sets
from tests.mutation import SMALL, mutants

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "libonnx_compress.so"
MUTANTS = 1000
OPERATOR_TESTS = ("tests/test_operators.py", "tests/test_neighbours.py", "tests/test_direct.py", "tests/test_activations.py", "tests/test_lookups.py", "tests/test_late_payloads.py", "tests/test_residency.py", "tests/test_recurrent.py")


def main(folder: Path) -> int:
    """Exit code: 0 where no sanitizer complained."""
    memory, threads = folder / "memory", folder / "threads"
    build(memory, "-DONNX_COMPRESS_SANITIZE=address,undefined")
    build(threads, "-DONNX_COMPRESS_SANITIZE=thread")
    corpus, vectors = written(folder / "corpus", payloads()), written(folder / "vectors", [*frozen(), *(make() for make in SMALL.values())])
    runs = [[memory / f"fuzz_{name}", corpus] for name in harnesses()] + [[threads / "threads", vectors]]
    for command in runs:
        if code := subprocess.run(list(map(str, command)), check=False).returncode:
            return code
    return operators(memory)


def harnesses() -> list[str]:
    """The fuzzing harnesses that this machine can run."""
    return ["header", "operators", *(f"decode_{name}" for name in instruction_sets.here())]


def build(folder: Path, *options: str) -> None:
    """Configures and builds; says nothing unless it fails."""
    commands = [
        [tool("cmake"), "-S", str(ROOT / "runtime/cpp"), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *options],
        [tool("cmake"), "--build", str(folder), "--parallel"],
    ]
    for command in commands:
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"{made.stdout}{made.stderr}")


def tool(name: str) -> str:
    """A program of this environment, else of the system."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or name


def written(path: Path, all_payloads: Iterable[bytes]) -> Path:
    """A file of payloads as the programs read them."""
    path.write_bytes(b"".join(struct.pack("<I", len(data)) + data for data in all_payloads))
    return path


def frozen() -> list[bytes]:
    """All frozen vectors."""
    return [path.read_bytes() for path in sorted((ROOT / "tests/vectors").glob("*.bin"))]


def payloads() -> Iterator[bytes]:
    """All frozen vectors, and mutants of small payloads of every form, as they are and with their checksums made right."""
    yield from frozen()
    for name in SMALL:
        yield SMALL[name]()
        for repair in (False, True):
            yield from mutants(name, MUTANTS, repair)


def operators(folder: Path) -> int:
    """Runs the tests of the operators with the sanitized library; the sanitizer's runtime has to be in the process first."""
    # The C++ runtime as well: the sanitizer looks for its __cxa_throw when the process starts.
    runtimes = [found for name in ("libasan.so", "libstdc++.so.6") if (found := runtime(name))]
    if len(runtimes) < 2:
        print("SKIPPED: operators under the sanitizers (this compiler keeps no libasan.so to load into Python)")
        return 0
    for old in folder.glob("report*"):
        old.unlink()
    # Python leaks on purpose, and onnxruntime was built without the sanitizers. pytest would swallow a report on stderr.
    options = f"detect_leaks=0:detect_odr_violation=0:log_path={folder / 'report'}"
    environment = {**os.environ, "LD_PRELOAD": ":".join(runtimes), "ASAN_OPTIONS": options, "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder / 'report'}"}
    command = [sys.executable, "-m", "tests.sanitized", "--operators", str(folder / LIBRARY)]
    code = subprocess.run(command, check=False, env=environment, cwd=ROOT).returncode
    for report in sorted(folder.glob("report*")):
        print(report.read_text())
    return code


def runtime(name: str) -> str | None:
    """The file that the compiler links for a library of its own; None where it keeps none."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++"))), None)
    if compiler is None:
        return None
    found = subprocess.run([compiler, f"-print-file-name={name}"], check=False, capture_output=True, text=True).stdout.strip()
    return found if Path(found).is_absolute() and Path(found).exists() else None


def run_operators(path: str) -> int:
    """pytest in this process, the library at `path` in place of the usual one."""
    library._HERE, library._NAME = Path(path).parent, Path(path).name  # where library_path() looks first
    if Path(library.library_path()).resolve() != Path(path).resolve():
        sys.exit(f"{path} is not the library that would be tested, but {library.library_path()}")
    return int(pytest.main(["-q", "-p", "no:cacheprovider", "-x", *OPERATOR_TESTS]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--operators"]:
        sys.exit(run_operators(sys.argv[2]))
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache/sanitize"))
