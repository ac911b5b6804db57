"""Freed arrays leave the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

BEHIND = """
import numpy as np
from onnx_compress.runtime.heap import map_large
WISH
np.ones(1 << 20)  # 8 MB: glibc makes its heap the place of such arrays once one was freed
arrays = [np.ones(1 << 20) for _ in range(16)]
del arrays[:-1]
print(int(open("/proc/self/statm").read().split()[1]) * PAGE >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have ways of their own")
def test_large_arrays_go_back_to_the_system_once_they_are_freed() -> None:
    kept, mapped = (resident(wish) for wish in ("", "map_large()"))
    assert kept - mapped > 100


def resident(wish: str) -> int:
    """MB that a process has after 15 of 16 arrays of 8 MB were freed."""
    script = BEHIND.replace("WISH", wish).replace("PAGE", str(os.sysconf("SC_PAGE_SIZE")))
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout)
