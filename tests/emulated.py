"""Every frozen vector on an emulated ARM processor: `python -m tests.emulated [PYTHON]`, a Python that has ziglang (default: this one).

Cross-builds the decoder with ziglang, as a static program, and runs it under Debian's qemu-user, which is unpacked into .cache, with the kernels for
NEON and with the plain ones. The tensors must be those that were published, to the bit. Skips, visibly, where either is missing; ziglang is `pip install ziglang`, 411 MB. Speed under
emulation says nothing.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from tests import debian, vectors

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".cache/emulated"
TARGET = "aarch64-linux-musl"
OTHER_PROGRAMS = ("fuzz_", "threads", "fake_runtime", "operator_cases")
SETS = {"neon": ("-DONNX_COMPRESS_NEON",), "baseline": ()}
"""Instruction sets, and what their kernels are compiled with."""


def main(python: str) -> int:
    """Exit code: 0 where all tensors are equal, or where a tool is missing."""
    if subprocess.run([python, "-c", "import ziglang"], check=False, capture_output=True).returncode:
        print("SKIPPED: vectors on an emulated ARM processor: no ziglang here (pip install ziglang)")
        return 0
    try:
        emulator = debian.unpacked("qemu", "qemu-user-static") / "usr/bin/qemu-aarch64-static"
    except debian.Missing as missing:
        print(f"SKIPPED: vectors on an emulated ARM processor: {missing}")
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    program = built(python)
    requests, expected = [], []
    for name in vectors.names():
        payload = vectors.payload(name)
        for member, values in enumerate(vectors.values(name)):
            requests.append(struct.pack("<4I", len(payload), member, values.nbytes, 0) + payload)
            expected.append(values.tobytes())
    (FOLDER / "requests").write_bytes(b"".join(requests))
    return max(agrees(emulator, program, name, b"".join(expected)) for name in SETS)


def agrees(emulator: Path, program: Path, name: str, expected: bytes) -> int:
    """Exit code: 0 where the kernels of this set give the expected tensors."""
    made = subprocess.run([emulator, program, FOLDER / "requests", FOLDER / "tensors", name], check=False)
    equal = made.returncode == 0 and (FOLDER / "tensors").read_bytes() == expected
    print(f"tensors on an emulated {TARGET}, {name}: {'agree' if equal else 'DIFFER'}")
    return int(not equal)


def built(python: str) -> Path:
    """The static program."""
    compiler = [python, "-m", "ziglang", "c++", "-target", TARGET, "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
    sources = [path for path in (ROOT / "runtime/cpp").glob("*.cc") if not path.name.startswith(OTHER_PROGRAMS)]
    objects = []
    for name, flags in SETS.items():
        for source in sources:
            if source.name.startswith("kernel_"):
                objects.append(FOLDER / f"{source.stem}_{name}.o")
                subprocess.run([*compiler, *flags, f"-DONNX_COMPRESS_ISA={name}", "-c", source, "-o", objects[-1]], check=True)
    others = [path for path in sources if not path.name.startswith("kernel_")]
    flags = ["-static", "-DONNX_COMPRESS_ARM", '-DONNX_COMPRESS_VERSION="0"']
    subprocess.run([*compiler, *flags, "-o", FOLDER / "decode_all", *others, *objects], check=True)
    return FOLDER / "decode_all"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else sys.executable))
