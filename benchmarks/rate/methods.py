"""Every method with its settings, from fine to coarse. A setting makes a file from a model, and says how many bytes count and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from . import ours, toolkits
from .cases import Case
from .coders import Coded, Weights, clustered, rounded
from .nnc import standard
from .slim import Slim

RATIOS = (4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0)
PARAMETERS = range(-44, -14, 2)
"""Of NNCodec; its default is -32."""

BITS = (8, 7, 6, 5, 4, 3)
CODEBOOK_BITS = (8, 7, 6, 5, 4, 3, 2)
BLOCKS = (32, 128)


@dataclass(eq=False)
class Bench:
    """One model on the bench: what the methods share, made when it is first asked for. `python` runs NNCodec; None leaves it out."""

    case: Case
    models: Path
    folder: Path
    python: Path | None = None

    @property
    def source(self) -> Path:
        """The uncompressed model."""
        return self.models / f"{self.case.model}.onnx"

    @cached_property
    def slim(self) -> Slim:
        """The slimmed graph and its weights."""
        return Slim(self.source)

    @cached_property
    def calibration(self) -> Path:
        """The calibration file."""
        return ours.calibration(self.models, self.case, self.folder)


@dataclass(frozen=True, slots=True)
class Made:
    """A file's bytes, as counted, and the seconds that it took to make."""

    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of a method's curve; `make` writes the file to judge."""

    name: str
    make: Callable[[Bench, Path], Made]


def settings(method: str, ratios: Iterable[float]) -> Iterable[Setting]:
    """The points of a method, each with more loss than the one before. `ratios` are for ours."""
    if method in ours.MODES:
        return [Setting(f"{ratio:g}x", partial(_ours, ours.MODES[method], ratio)) for ratio in sorted(ratios)]
    return PEERS[method]


def _ours(mode: ours.Mode, ratio: float, bench: Bench, target: Path) -> Made:
    calibration = bench.calibration if mode.calibrated else None
    return _file(lambda: ours.compress(mode, bench.source, target, ratio, calibration), target)


def _coded(code: Callable[[Weights], Coded], bench: Bench, target: Path) -> Made:
    coded = code(bench.slim.weights)
    bench.slim.write(coded.weights, target)
    return Made(round(coded.bytes) + bench.slim.graph_bytes, coded.seconds)


def _nncodec(qp: int, opt_qp: bool, bench: Bench, target: Path) -> Made:
    if bench.python is None:
        raise toolkits.NothingToDoError("no environment with NNCodec: give --nncodec")
    return _coded(partial(standard, qp=qp, opt_qp=opt_qp, python=bench.python), bench, target)


def _blocks(block: int, embeddings: bool, bench: Bench, target: Path) -> Made:
    return _file(lambda: toolkits.blocks(bench.source, target, block, embeddings), target)


def _dynamic(per_channel: bool, bench: Bench, target: Path) -> Made:
    return _file(lambda: toolkits.dynamic(bench.source, target, per_channel), target)


def _file(write: Callable[[], None], target: Path) -> Made:
    begun = time.monotonic()
    write()
    return Made(target.stat().st_size, time.monotonic() - begun)


PEERS: dict[str, list[Setting]] = {
    "NNCodec": [Setting(f"qp {qp}", partial(_nncodec, qp, False)) for qp in PARAMETERS],
    "NNCodec opt_qp": [Setting(f"qp {qp}", partial(_nncodec, qp, True)) for qp in PARAMETERS],
    "Deep Compression, not retrained": [
        Setting(f"{bits} bit", partial(_coded, partial(clustered, bits=bits))) for bits in CODEBOOK_BITS
    ],
    "round to nearest + ideal entropy": [Setting(f"int{bits}", partial(_coded, partial(rounded, bits=bits))) for bits in BITS],
    "MatMulNBits": [
        Setting(f"block {block}{' + Gather' * gather}", partial(_blocks, block, gather)) for gather in (False, True) for block in BLOCKS
    ],
    "quantize_dynamic": [Setting(("per tensor", "per channel")[channel], partial(_dynamic, channel)) for channel in (True, False)],
}
"""NNCodec, Deep Compression and round-to-nearest are counted with our slimmed graph around their weights; the others as the files that they write."""

METHODS = (*ours.MODES, *PEERS)
