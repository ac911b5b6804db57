"""Decodes payloads with the operator library in a process of its own, so that a crash is seen: `python -m tests.isolation requests answers`.

A request file is a pickle of [(payload, member, dims, dtype)]; the answers are a pickle of [(error number or 0, values or None)].
"""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx_compress.runtime import library
from onnx_compress.runtime.errors import FormatError

Request = tuple[bytes, int, tuple[int, ...], str]
Answer = tuple[int, NDArray | None]
ARGUMENT = 5
LIMIT_BYTES = 4 << 30


def ask(requests: list[Request], folder: Path, seconds: float) -> list[Answer]:
    """Answers of another process. Raises CalledProcessError where it dies, TimeoutExpired where it hangs."""
    (folder / "requests").write_bytes(pickle.dumps(requests))
    command = [sys.executable, "-m", "tests.isolation", str(folder / "requests"), str(folder / "answers")]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    subprocess.run(command, check=True, timeout=seconds, env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    answers: list[Answer] = pickle.loads((folder / "answers").read_bytes())  # noqa: S301  (our own file)
    return answers


def answer(request: Request) -> Answer:
    """What the library says to one request."""
    payload, member, dims, dtype = request
    out = np.zeros(dims, dtype)
    try:
        return 0, library.decode(payload, out, member)
    except FormatError as error:
        return error.number, None
    except ValueError:
        return ARGUMENT, None


def main(source: str, target: str) -> None:
    """Reads requests, writes answers; memory is limited, so that a huge allocation fails."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    requests: list[Request] = pickle.loads(Path(source).read_bytes())  # noqa: S301  (our own file)
    Path(target).write_bytes(pickle.dumps([answer(request) for request in requests]))


if __name__ == "__main__":
    main(*sys.argv[1:])
