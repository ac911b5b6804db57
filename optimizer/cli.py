"""The command line: `onnx-compress in.onnx out.onnx --target-ratio 10`, and restore, verify, inspect, library.

Exit codes: 0 done, 1 failure, 2 usage, 3 target not reached, 4 verification failed, 130 Ctrl-C, 143 SIGTERM.
Modules that load onnx, numba or onnxruntime are imported inside the commands, so that --help is immediate. A command has as
many parameters as it has options: typer builds the command line from them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from . import options, summary
from .console import Console
from .errors import CompressError, UsageError
from .group import MainJobFirst
from .report import Report, Request, to_json
from .version import package_version

PROGRAM = "onnx-compress"
INTERRUPTED = (130, 143)
"""Exit codes after Ctrl-C and SIGTERM: all temporary files are gone by then."""

app = typer.Typer(
    cls=MainJobFirst,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception: whoever holds temporary files removes them."""


@app.callback()
def options_of_all(context: typer.Context, version: Annotated[bool, typer.Option("--version")] = False) -> None:
    """Makes an ONNX model many times smaller. It still runs in onnxruntime, its weights staying compressed in memory."""
    if version:
        from ..runtime.reader import DRAFT, FORMAT_VERSION

        context.obj.answer(f"{PROGRAM} {package_version()}, payload format {FORMAT_VERSION} (draft {DRAFT}, unstable)")


@app.command("compress", hidden=True)
def compress_command(
    context: typer.Context,
    source: options.Source,
    target: options.TargetUnlessDry = None,
    target_ratio: options.TargetRatio = None,
    target_size: options.TargetSize = None,
    calibration: options.Calibration = None,
    technique: options.Technique = "auto",
    input_shape: options.InputShape = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    max_divergence: options.MaxDivergence = None,
    effort: options.Effort = None,
    prefer: options.Prefer = "balanced",
    drop_channels: options.DropChannels = 0.0,
    lossless: options.Lossless = False,
    lossless_weights: options.LosslessWeights = None,
    external_data: options.ExternalData = None,
    keep_overridable: options.KeepOverridable = False,
    seed: options.Seed = 0,
    threads: options.Threads = 0,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    curve: options.Curve = False,
    as_json: options.AsJson = False,
    table: options.Table = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Writes a compressed model."""
    console: Console = context.obj
    console.settle(quiet, verbose, as_json)
    request = Request(
        target_ratio=options.parse_ratio(target_ratio), target_bytes=options.parse_size(target_size), max_divergence=max_divergence,
        calibration=tuple(calibration or ()), input_shapes=options.parse_shapes(input_shape or ()), seed=seed,
        technique=technique, effort=effort, prefer=prefer, drop_channels=drop_channels, lossless=lossless,
        include=tuple(include or ()), exclude=tuple(exclude or ()), lossless_weights=tuple(lossless_weights or ()),
        external_data=external_data, keep_overridable=keep_overridable, force=force,
        threads=threads, dry_run=dry_run, per_weight=table,
    )
    if not lossless:
        from ..runtime.heap import map_large

        map_large()
    _show_curve(console, source, request) if curve else _print(console, _compress(console, source, target, request), request)


def _show_curve(console: Console, source: Path, request: Request) -> None:
    if not request.dry_run:
        raise UsageError("--curve only shows what there is to choose from and writes nothing: say --dry-run --curve")
    from .curve import curve

    with console.progress() as progress:
        found = curve(source, request, progress)
    console.json(to_json(found))
    console.lines(summary.curve_table(found))
    console.rows(summary.curve_rows(found))


def _compress(console: Console, source: Path, target: Path | None, request: Request) -> Report:
    if request.dry_run and target is None:
        target = source.with_name(f"{source.stem}.compressed.onnx")
    if target is None:
        raise UsageError(f"the output is missing: write {PROGRAM} {source} OUT.onnx, or --dry-run to learn the size only")
    request.check_goal()
    from . import compress

    with console.progress() as progress:
        return compress(source, target, request, progress)


def _print(console: Console, report: Report, request: Request) -> None:
    console.json(to_json(report))
    if request.per_weight:
        console.lines(summary.weight_table(report))
    console.rows(summary.summary(report, console.verbose or request.per_weight, request.dry_run))
    if console.verbose:
        console.rows(summary.details(report))
    console.warn(report.warnings)


@app.command("restore")
def restore_command(
    context: typer.Context,
    source: options.Compressed,
    target: options.Target,
    force: options.Force = False,
    rename_data: options.RenameData = False,
    threads: options.Threads = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Writes the plain ONNX model of a compressed one."""
    console: Console = context.obj
    console.settle(quiet, verbose, as_json)
    from .restore import restore

    report = restore(source, target, force, rename_data, threads)
    console.json(to_json(report))
    console.rows(summary.plain_rows(report))


@app.command("verify")
def verify_command(
    context: typer.Context,
    original: options.Source,
    compressed: options.Compressed,
    inputs: options.Inputs = None,
    max_divergence: options.LargestDivergence = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Runs a model and its compressed form and compares their outputs."""
    console: Console = context.obj
    console.settle(quiet, verbose, as_json)
    from .verify import verify

    report = verify(original, compressed, tuple(inputs or ()), max_divergence)
    console.json(to_json(report))
    console.rows(summary.plain_rows(report))


@app.command("inspect")
def inspect_command(
    context: typer.Context,
    file: options.Compressed,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """Shows what a compressed file holds, and checks its checksums."""
    console: Console = context.obj
    console.settle(False, verbose, as_json)
    from .inspect import inspect

    inspection = inspect(file)
    console.json(to_json(inspection))
    console.lines(summary.inspection_table(inspection))
    console.rows([*summary.inspection_rows(inspection), *summary.how_to_run(str(file))])


@app.command("library")
def library_command(context: typer.Context) -> None:
    """Prints the path of the operator library, for C++, C# and Java."""
    from ..runtime import library_path

    context.obj.answer(str(library_path()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit code; no exception leaves it."""
    console = Console(verbose=_asks_for_details(sys.argv[1:] if arguments is None else arguments))
    try:
        with _signals_as_exceptions():
            code = typer.main.get_command(app).main(arguments, PROGRAM, standalone_mode=False, obj=console)
        if code == 130:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt  # noqa: TRY301  (one place answers both)
        return int(code or 0)
    except KeyboardInterrupt:
        console.error("interrupted, nothing was written")
        return 130
    except Terminated:
        console.error("terminated, nothing was written")
        return 143
    except typer.TyperException as error:
        console.error(usage_sentence(error.format_message()))
        return error.exit_code
    except Exception as error:  # the last resort: a sentence, never a traceback
        return _failure(console, error)


def _failure(console: Console, error: Exception) -> int:
    """Prints the sentence of an error and gives its exit code."""
    from ..runtime.errors import FormatError

    if isinstance(error, CompressError):
        console.error(str(error))
        return error.exit_code
    if isinstance(error, FormatError):
        console.error(f"the compressed weights cannot be read: {error}")
    elif isinstance(error, MemoryError):
        console.error("there is not enough memory: close other programs, use fewer --threads or fewer calibration samples")
    elif isinstance(error, OSError) and error.strerror:
        console.error(f"{error.filename or 'a file'} cannot be read or written ({error.strerror}): check its permissions and the disk")
    else:
        console.unexpected(error)
    return 1


def _asks_for_details(arguments: Sequence[str]) -> bool:
    """Whether -v is among the arguments, for errors that come before they are parsed."""
    return any(word in ("-v", "--verbose") for word in arguments)


def usage_sentence(message: str) -> str:
    """typer's message in the form of our own: no capital, no full stop, and where to look."""
    text = ": ".join(part[:1].lower() + part[1:] for part in " ".join(message.split()).rstrip(".").split(": "))
    return f"{text} (see {PROGRAM} --help)"


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP exceptions, so that they leave nothing behind either; what nohup ignores stays ignored."""
    caught = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        caught = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def run() -> None:
    """The program: as `main`, but does not wait for threads that still work on what was interrupted."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code in INTERRUPTED:
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
