"""Writes compressed models with inputs and expected outputs: `python -m tests.runtimes.prepare FOLDER`.

Every structure of models/ that has weights, with fused weights and with folded ones; the expected outputs are those of the restored model, run without our library by the onnxruntime
of this environment. NAME.onnx is the original, NAME.compressed.onnx, NAME.npz holds `in:INPUT` and `out:OUTPUT`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.errors import CompressError, TargetError, UsageError

from models.structures import STRUCTURES, feeds

RATIOS = (3.0, 1.1)
"""The second for models that are quantized already."""
FEWEST = 60
"""Models; fewer mean that compression refuses what it should not."""


def prepare(name: str, prefer: str, folder: Path) -> bool:
    """Whether the structure could be compressed; most of those that cannot have no weights."""
    model, case = STRUCTURES[name](0), f"{name}-{prefer}"
    source, target, plain = folder / f"{case}.onnx", folder / f"{case}.compressed.onnx", folder / f"{case}.restored.onnx"
    onnx.save(model, source)
    if not compressed(source, target, prefer):
        source.unlink()
        return False
    restore(target, plain, force=True)
    inputs = feeds(model, seed=1)
    # Left to itself, onnxruntime multiplies by dequantized weights in 8 bits: 0.5 % of the largest value off.
    session = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"], disabled_optimizers=["QDQSelectorActionTransformer"])
    outputs = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))
    arrays = {f"in:{key}": value for key, value in inputs.items()} | {f"out:{key}": value for key, value in outputs.items()}
    np.savez(folder / f"{case}.npz", allow_pickle=False, **arrays)
    plain.unlink()
    return True


def compressed(source: Path, target: Path, prefer: str) -> bool:
    """Compresses by the first ratio that can be reached."""
    for ratio in RATIOS:
        try:
            compress(source, target, Request(target_ratio=ratio, force=True, prefer=prefer))
        except TargetError:
            continue
        except UsageError:
            return False
        return True
    return False


def main(folder: Path) -> None:
    """All structures; says how many."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    done, failed = 0, 0
    cases = [(name, prefer) for name in STRUCTURES for prefer in ("memory", "speed")]  # fused and folded weights
    for name, prefer in cases:
        try:
            done += prepare(name, prefer, folder)
        except CompressError as error:
            print(f"FAILED: {name}, {prefer}: {error}")
            failed += 1
    print(f"{done} compressed models, {len(cases) - done - failed} have nothing to compress, {failed} failed")
    if failed or done < FEWEST:
        sys.exit(f"expected {FEWEST} models or more, and no failure")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
