"""Ratio against divergence and metric on real models, for onnx-compress and its peers: writes results.csv.

usage, in the checkout: python -m benchmarks.rate [--models FOLDER] [--only REGEX] [--methods REGEX] [--ratios 4,6,8] [--nncodec PYTHON] [--redo]

A row that exists is not measured again, so that a run that was stopped goes on; --redo measures the chosen rows again. A curve ends where a file
is more than 24 times smaller. NNCodec needs an environment of its own (nncodec_worker.py says how), whose Python is --nncodec.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnx_compress.runtime import library_path

from ..rows import processor
from . import rows
from .cases import CASES, HERE, MODELS, Case
from .judge import Judge
from .methods import METHODS, RATIOS, Bench, Setting, settings
from .ours import MODES
from .toolkits import NothingToDoError

LARGEST_RATIO = 24


@dataclass(frozen=True, slots=True)
class Choice:
    """What to measure, and where the rows are."""

    out: Path
    methods: tuple[str, ...]
    ratios: tuple[float, ...] | None
    redo: bool


def main() -> None:
    """Measures all rows that the options select and that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="", help="models whose name this regular expression finds")
    parser.add_argument("--methods", default="", help=f"the same for the methods: {'; '.join(METHODS)}")
    parser.add_argument("--ratios", help=f"for ours; default: {', '.join(f'{ratio:g}' for ratio in RATIOS)}, and that of the model's bar")
    parser.add_argument("--nncodec", type=Path, help="the Python of an environment with NNCodec")
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    parser.add_argument("--redo", action="store_true", help="measure rows again that exist")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # onnxruntime's quantizers and onnx_ir have much to say
    methods = tuple(method for method in METHODS if re.search(arguments.methods, method))
    ratios = tuple(map(float, arguments.ratios.split(","))) if arguments.ratios else None
    choice = Choice(arguments.out, methods, ratios, arguments.redo)
    with tempfile.TemporaryDirectory() as folder:
        for case in (case for case in CASES if re.search(arguments.only, case.model)):
            measure(Bench(case, arguments.models.resolve(), Path(folder), arguments.nncodec), choice)


def measure(bench: Bench, choice: Choice) -> None:
    """All chosen rows of one model."""
    judge: Judge | None = None
    for method in choice.methods:
        for setting in settings(method, choice.ratios or {*RATIOS, bench.case.bar}):
            known = rows.read(choice.out)
            row = None if choice.redo else known.get((bench.case.model, method, setting.name))
            if row is None:
                judge = judge or Judge(bench.case, bench.models)
                row = attempt(bench, judge, method, setting)
                if row is not None:
                    save(choice.out, row, known)
            if row is not None and row.ratio > LARGEST_RATIO:
                break


def save(path: Path, row: rows.Row, known: dict[tuple[str, str, str], rows.Row]) -> None:
    """Adds the row, or puts it in the place of the old one."""
    if row.key in known:
        rows.rewrite(path, (known | {row.key: row}).values())
    else:
        rows.append(path, row)


def attempt(bench: Bench, judge: Judge, method: str, setting: Setting) -> rows.Row | None:
    """Compresses and judges once; None, and the reason printed, where that failed."""
    case: Case = bench.case
    target = bench.folder / "made.onnx"
    try:
        made = setting.make(bench, target)
        verdict = judge.judge(target, library_path() if method in MODES else None)
    except NothingToDoError as reason:
        print(f"{case.model}, {method}, {setting.name}: {reason}", flush=True)
        return None
    except subprocess.CalledProcessError as error:
        print(f"{case.model}, {method}, {setting.name}: exit {error.returncode}: {(error.stderr or '').strip()[-500:]}", flush=True)
        return None
    except Exception as error:
        print(f"{case.model}, {method}, {setting.name}: {type(error).__name__}: {str(error)[:500]}", flush=True)
        return None
    finally:
        target.unlink(missing_ok=True)
    ratio = bench.source.stat().st_size / made.bytes
    row = rows.Row(
        case.model, method, setting.name, made.bytes, round(ratio, 4), verdict.metric, round(verdict.value, 5),
        verdict.divergence_kind, float(f"{verdict.divergence:.6g}"), round(made.seconds, 2), processor(),
    )  # fmt: skip
    print(
        f"{row.model}, {method}, {setting.name}: {ratio:.2f}x, {row.metric} {row.metric_value:.4f}, {row.divergence_kind} {row.divergence:.3g}, {row.seconds:.1f} s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
