"""Decoding 2.2-bit symbols against zstd: `python benchmarks/runtime/decoding.py [--out FILE.csv]` (needs PyPI's zstandard: the extra `bench`).

Ours is a CompressedMatMul of 4096 x 4096 with one row of x, so decoding to fp32 and multiplying with them; zstd, level 19, gives the same symbols as int8.
Both run in turn; million symbols a second, median, and the median and quartiles of zstd's time over ours, pair by pair.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import zstandard
from layers import matmul, member, models, opened
from pairs import alternate

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from rows import line, processor, write_rows

SIDE = 4096
SETS = ("avx512", "avx2", "sse4", "neon", "baseline")


def main() -> int:
    """Every instruction set that this machine has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    case = matmul(SIDE, SIDE, 1)
    symbols = member(case.op, case.dims, 0).symbols.levels.astype(np.int8)
    packed, unpack = zstandard.ZstdCompressor(19).compress(symbols.tobytes()), zstandard.ZstdDecompressor()
    feeds = {"x": np.ones(case.x, np.float32)}
    rows = []
    for name in SETS:
        try:
            session = opened(models(case)[1], 1, {"onnx_compress.instruction_set": name})
        except Exception as error:
            print(f"SKIPPED {name}: {str(error).splitlines()[0][:100]}")
            continue
        seconds = alternate(lambda: unpack.decompress(packed), lambda session=session: session.run(None, feeds))
        quarters = np.percentile(seconds[:, 0] / seconds[:, 1], (25, 50, 75))
        speeds = symbols.size / np.median(seconds, axis=0) / 1e6
        found = {"set": name, "zstd_Msym_s": f"{speeds[0]:.0f}", "ours_Msym_s": f"{speeds[1]:.0f}"}
        found |= {key: f"{value:.2f}" for key, value in zip(("times_q25", "times_median", "times_q75"), quarters, strict=True)}
        rows.append(found | {"bits": f"{8 * len(packed) / symbols.size:.2f} zstd", "processor": processor()})
        print(line(rows[-1]), flush=True)
    if given.out:
        write_rows(given.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
