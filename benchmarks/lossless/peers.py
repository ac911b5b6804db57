"""Peers on the raw tensors of one file, one thread: `PYTHON peers.py TENSORS.npz`, with zipnn and zstandard in PYTHON's environment. Prints JSON.

Each tensor is compressed by itself, or stored where that is smaller, as a user of ZipNN would do with a file of tensors.
"""

from __future__ import annotations

import json
import lzma
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

Compress = Callable[[bytes], bytes]
REPEATS = 3


def measured(tensors: list[tuple[str, bytes]], codec: Callable[[str], tuple[Compress, Compress]], repeats: int) -> dict[str, float]:
    """Bytes, and seconds for coding and decoding all tensors (the best of some runs)."""
    total, encode, decode = 0, float("inf"), float("inf")
    for _ in range(repeats):
        packed = []
        coded = restored = 0.0
        for dtype, raw in tensors:
            compress, decompress = codec(dtype)
            copy = bytearray(raw)  # ZipNN works in place
            since = time.process_time()
            out = bytes(compress(copy))
            coded += time.process_time() - since
            since = time.process_time()
            back = decompress(out)
            restored += time.process_time() - since
            assert bytes(back) == raw
            packed.append(min(len(out), len(raw)))
        total, encode, decode = sum(packed), min(encode, coded), min(decode, restored)
    return {"bytes": total, "encode": encode, "decode": decode}


def zipnn_codec(dtype: str) -> tuple[Compress, Compress]:
    """ZipNN as its documentation uses it."""
    import zipnn

    made = zipnn.ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
    return made.compress, made.decompress


def zstd_codec(_: str) -> tuple[Compress, Compress]:
    """zstd -19."""
    import zstandard

    return zstandard.ZstdCompressor(19).compress, zstandard.ZstdDecompressor().decompress


def xz_codec(_: str) -> tuple[Compress, Compress]:
    """xz -6."""
    return (lambda raw: lzma.compress(raw, preset=6)), lzma.decompress


def main() -> None:
    """All peers on the tensors of an .npz whose keys begin with the dtype."""
    warnings.simplefilter("ignore")
    with np.load(sys.argv[1]) as held:
        tensors = [(key.split(":")[1], held[key].tobytes()) for key in held.files]
    fast = sys.argv[2:] == ["zipnn"]
    found = {"zipnn": measured(tensors, zipnn_codec, REPEATS)}
    if not fast:
        found |= {"zstd": measured(tensors, zstd_codec, 1), "xz": measured(tensors, xz_codec, 1)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
