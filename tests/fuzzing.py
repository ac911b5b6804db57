"""Fuzzing with libFuzzer: `python -m tests.fuzzing [--seconds N] [HARNESS ...]` (default: a minute in all, all harnesses).

Harnesses: header, operators (payloads that arrive at the run), and decode_NAME for each instruction set of this machine, which is compared to
the baseline. Seeds are the frozen vectors and small payloads of every form; what is found is kept in .cache/fuzz. Needs Debian's clang 14,
which is unpacked into .cache; skips, visibly, where it cannot be had. Exit code 1 where a harness found something.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from tests import debian
from tests.mutation import SMALL
from tests.sanitized import ROOT, build, frozen, harnesses

FOLDER = ROOT / ".cache/fuzz"
PACKAGES = ("clang-14", "libclang-rt-14-dev", "libclang-common-14-dev", "libclang-cpp14", "libllvm14")
LONGEST_SEED = 16384
DEFAULT_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, help=f"for each harness (default: {DEFAULT_SECONDS} for all)")
    parser.add_argument("harness", nargs="*")
    asked = parser.parse_args()
    try:
        compiler = clang()
    except debian.Missing as missing:
        print(f"SKIPPED: fuzzing: {missing}")
        return 0
    build(FOLDER / "build", f"-DCMAKE_CXX_COMPILER={compiler}", "-DONNX_COMPRESS_SANITIZE=address,undefined", "-DONNX_COMPRESS_LIBFUZZER=ON")
    seeds = seeded(FOLDER / "seeds")
    names = asked.harness or harnesses()
    seconds = asked.seconds or DEFAULT_SECONDS // len(names)
    failed = [name for name in names if not fuzzed(name, seconds, seeds)]
    return int(bool(failed))


def clang() -> Path:
    """A script that runs clang++ with the libraries beside it. Raises debian.Missing."""
    folder = debian.unpacked("clang", *PACKAGES)
    (libraries,) = {path.parent for path in folder.glob("usr/lib/*/libclang-cpp.so.14")}
    script = folder / "clang++"
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{folder}/usr/lib/llvm-14/bin/clang++" "$@"\n')
    script.chmod(0o755)
    tried = subprocess.run([script, "--version"], check=False, capture_output=True, text=True)
    if tried.returncode:
        raise debian.Missing(f"clang-14 does not run here: {tried.stderr.strip()[:300]}")
    return script


def seeded(folder: Path) -> Path:
    """A folder of good payloads."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate([*frozen(), *(make() for make in SMALL.values())]):
        if len(data) <= LONGEST_SEED:
            (folder / str(number)).write_bytes(data)
    return folder


def fuzzed(name: str, seconds: int, seeds: Path) -> bool:
    """Whether a harness ran for so long and found nothing; says so."""
    corpus, log = FOLDER / f"corpus_{name}", FOLDER / f"{name}.log"
    corpus.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST_SEED}", "-rss_limit_mb=2048", "-timeout=25", f"-artifact_prefix={FOLDER}/{name}-"]
    begun = time.monotonic()
    with log.open("w") as output:
        program = FOLDER / "build" / f"fuzz_{name}"
        made = subprocess.run([program, *limits, corpus, seeds], check=False, stdout=output, stderr=subprocess.STDOUT)
    runs = re.search(r"Done (\d+) runs", log.read_text())
    print(f"fuzz_{name}: {runs[1] if runs else 'no'} runs in {time.monotonic() - begun:.0f} s, {'nothing found' if made.returncode == 0 else f'FOUND something, see {log}'}")
    return made.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
