"""The instruction sets that the operator library has kernels for, and those of this machine."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from onnx_compress.runtime import library

NAMES = ("avx512", "avx2", "sse4", "neon", "baseline")
"""The fastest first; every machine has the last."""


@cache
def here() -> list[str]:
    """Those that this machine can run, as the library says in the message that refuses another."""
    with pytest.raises(ValueError, match="this machine has") as caught:
        library.decode(b"", np.empty(1, np.uint8), instruction_set="?")
    return str(caught.value).split("this machine has, ")[1].split(", ")


def skip_without(name: str) -> None:
    """Skips the test, visibly, where the library is not built or this machine lacks the set."""
    try:
        library.library_path()
    except FileNotFoundError as error:
        pytest.skip(f"the operator library is not built: {error}")
    if name not in here():
        pytest.skip(f"this machine has no {name}")
