"""Writes the vectors, once: `python -m tests.vectors.write`. A vector that exists stays as it is.

The values come from FORMAT.md alone (`tests/stranger.py`), not through the reader.
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
from onnx_compress.passes import writer

from tests import stranger
from tests.assembled import ASSEMBLED
from tests.forms import codebook, grid, plain_view
from tests.payloads import PLANES, POOLS, WRITTEN
from tests.vectors import FOLDER, MANIFEST

CHOSEN = {
    "grid_1x1x1": "grid 1x1x1",
    "grid_ragged": "grid 2x65x9",
    "grid_panels": "grid 1x256x4",
    "grid_batches": "grid 3x300x2",
    "grid_blocks_column": "block scales with a column scale",
    "grid_one_scale_column": "one scale and a column scale",
    "grid_rank0": "rank 0",
    "grid_rank8": "rank 8",
    "grid_transposed": "transposed",
    "grid_wide_levels": "spread 3000",
    "grid_escapes": "outliers escape",
    "grid_float16": "float16",
    "grid_bfloat16": "bfloat16",
    "grid_log8_high": "log8 extremes",
    "grid_log8_low": "log8 least",
    "grid_constant": "all -1",
    "codebook_300": "codebook of 300",
    "codebook_row_scale": "codebook bfloat16, row scale",
    "sparse_float32": "sparse values float32",
    "sparse_transposed": "transposed convolution",
    "sparse_bfloat16": "sparse bfloat16",
    "classes_columns": "column classes",
    "trellis_ragged": "trellis 2x65x9",
    "trellis_batches": "trellis 3x300x2",
    "trellis_one_row": "trellis 1x1x300",
    "trellis_column": "trellis, column scale",
    "trellis_float16": "trellis float16",
    "trellis_bfloat16": "trellis bfloat16",
    "trellis_raw": "trellis of spread 20",
    "trellis_wide_levels": "trellis of spread 3000",
    "trellis_escapes": "trellis of outliers",
    "trellis_classes": "trellis, row and column classes",
    "trellis_transposed": "trellis, transposed",
    "mapped_one": "mapped 1x9",
    "mapped_3": "mapped 3x4",
    "mapped_256": "mapped 256x3",
    "mapped_row_scale": "mapped, row scale",
    "mapped_float16": "mapped float16, row scale",
    "mapped_bfloat16": "mapped bfloat16, transposed",
    "integers_uint8": "integers of dtype 2",
    "integers_int16": "integers of dtype 5",
    "integers_int4": "integers of dtype 22",
}
TOO_LARGE = ("planes of four panels",)
BY_HAND = {
    "hand_classes": "row and column classes",
    "hand_width2": "width 2",
    "hand_width3_raw": "width 3",
    "hand_width4_raw": "width 4",
    "hand_raw8": "eight raw bits",
    "hand_trellis_classes": "trellis with classes",
    "hand_trellis_width3_raw": "trellis, width 3, raw bits",
    "hand_trellis_width4_raw": "trellis, width 4, few rows",
    "hand_pool_trellis": "trellis pool of 9, five lanes",
    "hand_pool_lanes5": "pool of 9, five lanes",
}


def payloads() -> dict[str, bytes]:
    """The bytes of every vector by name."""
    found = {name: writer.write(WRITTEN[source]()) for name, source in CHOSEN.items()}
    found |= {name: ASSEMBLED[source]().bytes() for name, source in BY_HAND.items()}
    found |= {name.replace(", ", "_").replace(" ", "_"): make() for name, make in PLANES.items() if name not in TOO_LARGE}
    found["grid_gathered"] = writer.write(grid(plain_view(1, 300, 8)), gathered=True)
    found["pool_forms"] = writer.write_pool(POOLS["of all forms"]())
    found["pool_rows"] = writer.write_pool(POOLS["of rows that differ"]())
    found["pool_trellis"] = writer.write_pool(POOLS["of trellises among others"]())
    found["pool_mapped"] = writer.write_pool(POOLS["of mapped"]())
    found["pool_dtypes"] = writer.write_pool(POOLS["of float16 and bfloat16"]())
    found["pool_codebooks"] = writer.write_pool([codebook(plain_view(1, 5, 6), count, row_scale=count > 2) for count in (1, 2, 17)])
    return found


def main() -> None:
    """Adds the vectors that are missing."""
    known = json.loads(MANIFEST.read_text()) if MANIFEST.exists() else {}
    for name, data in payloads().items():
        if name in known or (FOLDER / f"{name}.bin").exists():
            sys.stderr.write(f"{name} exists and stays as it is\n")
            continue
        members = []
        for number, (dtype, array) in enumerate(stranger.decode_with_dtypes(data)):
            file = FOLDER / f"{name}.{number}.npy"
            np.save(file, array)
            members.append(
                {"dtype": dtype, "dims": list(array.shape), "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            )
        (FOLDER / f"{name}.bin").write_bytes(data)
        known[name] = {"draft": data[2], "sha256": hashlib.sha256(data).hexdigest(), "members": members}
    MANIFEST.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
