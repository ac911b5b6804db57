"""Runs a model three times and prints the memory of this process alone: `python benchmarks/used_memory.py MODEL.onnx LENGTH`.

Imports what a deployed program imports and nothing else: whatever else was loaded leaves freed heap behind, which the session would then use
unseen (importing onnx here hid 12 MB).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnxruntime
from compressed import feed
from onnx_compress.runtime import session

RUNS = 3


def main(path: str, length: int) -> None:
    """Two numbers of bytes: Private_Clean + Private_Dirty (USS), and the anonymous part of it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = session(path, options)
    inputs = feed(opened, length)
    for _ in range(RUNS):
        opened.run(None, inputs)
    text = Path("/proc/self/smaps_rollup").read_text()
    kilobytes = {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    print(1024 * (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]), 1024 * kilobytes["Anonymous"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
