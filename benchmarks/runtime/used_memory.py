"""Runs a model twenty times and prints the memory of this process alone: `python benchmarks/runtime/used_memory.py MODEL.onnx LENGTH`.

Imports what a deployed program imports and nothing else: whatever else was loaded leaves freed heap behind, which the session would then use
unseen (importing onnx here hid 12 MB).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import onnxruntime

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from compressed import TOKENS, feed
from onnx_compress.runtime import session

RUNS = 20


def main(path: str, length: int) -> None:
    """Four numbers of bytes: USS (Private_Clean + Private_Dirty), the anonymous part, what is mapped from files (page cache), and the peak of all."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    opened = session(path, options)
    inputs = feed(opened, length, next((count for name, count in TOKENS.items() if name in path), 0))
    for _ in range(RUNS):
        opened.run(None, inputs)
    kilobytes = numbers("/proc/self/smaps_rollup") | numbers("/proc/self/status")
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    print(*(1024 * one for one in (private, kilobytes["Anonymous"], kilobytes["Rss"] - kilobytes["Anonymous"], kilobytes["VmHWM"])))


def numbers(path: str) -> dict[str, int]:
    """Lines of the form `Name:  123 kB`."""
    return {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
