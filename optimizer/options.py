"""What a user types: the options with their help, and the parsing of sizes, ratios and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from .errors import UsageError

UNITS = {"": 1, "B": 1, "K": 10**3, "KB": 10**3, "KIB": 2**10, "M": 10**6, "MB": 10**6, "MIB": 2**20, "G": 10**9, "GB": 10**9, "GIB": 2**30}

Source: TypeAlias = Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model; it is never changed.")]
Target: TypeAlias = Annotated[Path, typer.Argument(metavar="DENSE.onnx", help="The plain model to write.")]
TargetUnlessDry: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="OUT.onnx", help="The compressed model to write; not needed with --dry-run.", show_default=False)
]
Compressed: TypeAlias = Annotated[Path, typer.Argument(metavar="COMPRESSED.onnx", help="A compressed model.")]
TargetRatio: TypeAlias = Annotated[
    str | None, typer.Option("--target-ratio", metavar="R", help="How many times smaller the file is to become, such as 10.")
]
TargetSize: TypeAlias = Annotated[
    str | None, typer.Option("--target-size", metavar="SIZE", help="How large it may be instead: 500KB, 1.5MB, 2MiB or plain bytes.")
]
Calibration: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--calibration", metavar="FILE", help="Sample inputs, an .npz keyed by input name, or a folder of them; may be repeated."),
]
Technique: TypeAlias = Annotated[str, typer.Option("--technique", metavar="NAME", help="auto, quantize, codebook, mapped, prune, deep-compression or lowrank.")]
InputShape: TypeAlias = Annotated[
    list[str] | None, typer.Option("--input-shape", metavar="NAME=1,3,224,224", help="The size of an input that the model leaves open; may be repeated.")
]
Include: TypeAlias = Annotated[list[str] | None, typer.Option("--include", metavar="REGEX", help="Compress only weights whose name matches; may be repeated.")]
Exclude: TypeAlias = Annotated[list[str] | None, typer.Option("--exclude", metavar="REGEX", help="Leave weights alone whose name matches; may be repeated.")]
MaxDivergence: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--max-divergence",
        metavar="D",
        help="With a target: fail (exit code 4) where the outputs differ by more than D. Without: write the smallest file that differs by at most D.",
    ),
]
LargestDivergence: TypeAlias = Annotated[
    float | None, typer.Option("--max-divergence", metavar="D", help="Fail (exit code 4) where the outputs differ by more than D.")
]
Effort: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--effort",
        metavar="LEVEL",
        help="fast, balanced or best: more time for a better file of the same size. By itself fast without calibration data, balanced with it.",
        show_default=False,
    ),
]
Prefer: TypeAlias = Annotated[
    str,
    typer.Option(
        "--prefer",
        metavar="WHAT",
        help="memory, speed or balanced: whether small weights that are used often become dense when the session is created, which costs memory.",
    ),
]
ExternalData: TypeAlias = Annotated[
    bool | None, typer.Option("--external-data/--inline-data", help="Weights beside the model or in it; by itself beside it from 64 MB on.")
]
KeepOverridable: TypeAlias = Annotated[
    bool, typer.Option("--keep-overridable", help="Fail, rather than fix weights that are inputs too and that callers may replace.")
]
DropChannels: TypeAlias = Annotated[
    float, typer.Option("--drop-channels", metavar="FRACTION", help="Drop the channels that matter least, such as 0.05 of them; needs --calibration.")
]
Lossless: TypeAlias = Annotated[
    bool, typer.Option("--lossless", help="Change no bit: every weight decodes to what it was, and restore gives the input back byte for byte; needs no target.")
]
LosslessWeights: TypeAlias = Annotated[
    list[str] | None, typer.Option("--lossless-weights", metavar="REGEX", help="With a target: weights whose name matches keep every bit; may be repeated.")
]
RenameData: TypeAlias = Annotated[
    bool, typer.Option("--rename-data", help="Give data files new names where theirs are taken; the .onnx then differs from the original in these names.")
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", metavar="N", help="For whatever is random; the same seed gives the same bytes.")]
Threads: TypeAlias = Annotated[int, typer.Option("-T", "--threads", metavar="N", help="Threads to work with; 0 takes all cores.")]
Force: TypeAlias = Annotated[bool, typer.Option("-f", "--force", help="Replace the output where it exists.")]
Curve: TypeAlias = Annotated[
    bool, typer.Option("--curve", help="With --dry-run: print size and difference for ratios from 2 to 20, to choose from; needs no target.")
]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Write nothing; say how large the file would be.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
Table: TypeAlias = Annotated[bool, typer.Option("--table", help="Print a line for each weight, with its share of the difference measured too, which takes a little longer.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("-q", "--quiet", help="Print warnings and errors only.")]
Verbose: TypeAlias = Annotated[bool, typer.Option("-v", "--verbose", help="Print names, times and tracebacks too.")]
Inputs: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--inputs", metavar="FILE", help="Inputs to compare on, an .npz keyed by input name; may be repeated.")
]


def parse_ratio(text: str | None) -> float | None:
    """A ratio such as 10, 7.5 or 10x. Raises UsageError."""
    if text is None:
        return None
    try:
        return float(text.strip().lower().removesuffix("x"))
    except ValueError:
        raise UsageError(f"target ratio {text!r} is no number: give how many times smaller, such as --target-ratio 10") from None


def parse_size(text: str | None) -> int | None:
    """A size in bytes: 500KB (decimal), 2MiB (binary), plain bytes. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([A-Z]*)", text.strip().upper())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"target size {text!r} is no size: write 500KB, 1.5MB, 2MiB or a number of bytes")
    return math.floor(float(match[1]) * UNITS[match[2]])


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """NAME=1,3,224,224 for each input. Raises UsageError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        if not (name and equals and re.fullmatch(r"\d+(\s*[,x]\s*\d+)*", sizes.strip())):
            raise UsageError(f"input shape {text!r} cannot be read: write --input-shape NAME=1,3,224,224")
        if name in shapes:
            raise UsageError(f"input {name!r} has two --input-shape options: keep one")
        shapes[name] = tuple(int(size) for size in re.split(r"[,x]", sizes))
    return shapes

