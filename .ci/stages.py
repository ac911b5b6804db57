"""What `make test` runs once .venv is ready: every stage by name, with its time; a failure stops no other stage.

usage: .venv/bin/python .ci/stages.py [STAGE ...]          (default: all)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
OLD_RUNTIMES = ("1.22.1", "1.20.1")
OLD_PYTHONS = ((3, 11), (3, 12), (3, 13))
"""Pythons for which those runtimes have wheels."""
WORDS_THAT_SHOW = ("SKIPPED", "passed", "decoded", "agree", "runs in")


class Failure(Exception):  # noqa: N818  (what happened, not what went wrong)
    """A command of a stage ended with another code than 0; its text is the command's output."""


def run(*command: str | Path, shown: bool = False) -> None:
    """Runs a command in the checkout. Its output is shown as it comes, or kept: then lines worth seeing are shown, and all of it where it fails."""
    sink = None if shown else subprocess.PIPE
    made = subprocess.run(list(map(str, command)), cwd=ROOT, check=False, text=True, stdout=sink, stderr=None if shown else subprocess.STDOUT)
    if made.returncode:
        raise Failure(made.stdout or "")
    for line in (made.stdout or "").splitlines():
        if any(word in line for word in WORDS_THAT_SHOW):
            print(f"   {line}")


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).with_name(name))


def lint() -> None:
    """Every rule of ruff that pyproject.toml does not waive."""
    run(tool("ruff"), "check", "--quiet", ".")


def types() -> None:
    """mypy --strict on the package."""
    run(tool("mypy"), "-p", "onnx_compress")


def layout() -> None:
    """clang-format on the C++."""
    run(tool("clang-format"), "--dry-run", "-Werror", *sorted(path for path in (ROOT / "runtime/cpp").iterdir() if path.suffix in {".h", ".cc"}))


def sanitizers() -> None:
    """Decoders and operators under the address, undefined-behaviour and thread sanitizers."""
    run(sys.executable, "-m", "tests.sanitized")


def fuzzing() -> None:
    """A minute of libFuzzer over the header, each decoder and the operators."""
    run(sys.executable, "-m", "tests.fuzzing")


def emulated() -> None:
    """Every frozen vector on an emulated ARM processor."""
    run(sys.executable, "-m", "tests.emulated")


def tests() -> None:
    """pytest."""
    run(sys.executable, "-m", "pytest", "-q", "--durations=5", shown=True)


def runtimes() -> None:
    """Compressed models in the newest onnxruntime and in older ones, each in an environment of its own."""
    cases = CACHE / "cases"
    run(sys.executable, "-m", "tests.runtimes.prepare", cases)
    run(sys.executable, "tests/runtimes/run.py", cases)
    python = python_for_old_runtimes()
    for version in OLD_RUNTIMES:
        if python is None:
            print(f"   SKIPPED: onnxruntime {version}: it has wheels for Python 3.11 to 3.13 only, and none of them is here")
        else:
            run(environment(version, python), "tests/runtimes/run.py", cases)


def python_for_old_runtimes() -> str | None:
    """A Python that the old runtimes have wheels for: this one, else one of the system."""
    if sys.version_info[:2] in OLD_PYTHONS:
        return sys.executable
    names = (f"python{major}.{minor}" for major, minor in OLD_PYTHONS)
    return next((name for name in names if shutil.which(name) and subprocess.run([name, "-c", ""], check=False, capture_output=True).returncode == 0), None)


def environment(version: str, python: str) -> Path:
    """The Python of an environment with this onnxruntime and its dependencies, made once."""
    folder = CACHE / "runtimes" / version
    ready, inside = folder / "ready", folder / "bin" / "python"
    if not ready.exists():
        run(python, "-m", "venv", "--clear", folder)
        run(inside, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-q", f"onnxruntime=={version}")
        ready.touch()
    return inside


STAGES: Mapping[str, Callable[[], None]] = {
    "lint": lint,
    "types": types,
    "layout": layout,
    "sanitizers": sanitizers,
    "fuzzing": fuzzing,
    "emulated": emulated,
    "tests": tests,
    "runtimes": runtimes,
}


def main(names: list[str]) -> int:
    """Runs the stages; 1 where any failed."""
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        print(f"no stage {unknown[0]!r}: choose from {', '.join(STAGES)}", file=sys.stderr)
        return 2
    results = {name: timed(name) for name in names or STAGES}
    failed = [name for name, passed in results.items() if not passed]
    print(f"\n{'FAILED: ' + ', '.join(failed) if failed else 'All stages passed.'}")
    return int(bool(failed))


def timed(name: str) -> bool:
    """Runs one stage and says how it went."""
    print(f"-- {name}: {STAGES[name].__doc__}", flush=True)
    begun = time.monotonic()
    try:
        STAGES[name]()
    except Failure as failure:
        print(failure)
        print(f"   FAILED after {time.monotonic() - begun:.0f} s", flush=True)
        return False
    print(f"   {time.monotonic() - begun:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    # Everything in .venv/bin is found first, by tests that call programs by name too.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sys.exit(main(sys.argv[1:]))
