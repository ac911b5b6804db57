"""The only place that prints: results to stdout, errors, warnings and progress to stderr."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import typer

from .report import Progress, silent
from .summary import Row

LABEL_WIDTH = 12
PATIENCE_SECONDS = 2.0
"""A phase that is over sooner shows no progress."""
REDRAW_SECONDS = 0.2
BAR = 24


@dataclass(slots=True)
class Console:
    """How much is said, and in which form."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False

    def settle(self, quiet: bool, verbose: bool, as_json: bool = False) -> None:
        """Takes over what the command line asks for."""
        self.quiet, self.verbose, self.as_json = quiet, verbose, as_json
        if verbose:
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
            logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # its passes tell every node they remove

    def rows(self, rows: Sequence[Row]) -> None:
        """Labelled rows, unless quiet or JSON was asked for."""
        if self.quiet or self.as_json:
            return
        for label, text in rows:
            typer.echo(typer.style(f"{label:<{LABEL_WIDTH}}", bold=True) + f" {text}")

    def lines(self, lines: Sequence[str]) -> None:
        """Plain lines, unless quiet or JSON was asked for; the first is the head of a table."""
        if self.quiet or self.as_json:
            return
        for position, line in enumerate(lines):
            typer.echo(typer.style(line, bold=True) if position == 0 else line)
        typer.echo()

    def json(self, text: str) -> None:
        """The JSON document, where it was asked for."""
        if self.as_json:
            typer.echo(text)

    def answer(self, text: str) -> None:
        """What was asked for, whatever the options say."""
        typer.echo(text)

    def warn(self, sentences: Sequence[str]) -> None:
        """The last lines; to stderr, so that neither a pipe nor -q hides them."""
        sys.stdout.flush()
        for sentence in sentences:
            typer.echo(typer.style("warning:", fg="yellow", bold=True) + f" {sentence}", err=True)

    def error(self, sentence: str) -> None:
        """One sentence about what went wrong."""
        typer.echo(typer.style("onnx-compress:", fg="red", bold=True) + f" {sentence}", err=True)

    def unexpected(self, error: BaseException) -> None:
        """An error that nobody foresaw: one sentence, and the traceback for whoever asks for it."""
        if self.verbose:
            typer.echo("".join(traceback.format_exception(error)), err=True)
        text = " ".join(str(error).split())[:300]
        hint = "" if self.verbose else "; run with -v for the traceback"
        self.error(f"unexpected {type(error).__name__}{': ' + text if text else ''}{hint}, and please report it")

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A Progress that draws on a terminal, and is silent elsewhere."""
        if self.quiet or not sys.stderr.isatty():
            yield silent
            return
        with ProgressLine() as line:
            yield line


class ProgressLine:
    """One line on the terminal: phase, bar, fraction, time left. It appears when a phase takes more than two seconds.

    A thread redraws it, so that a phase that reports nothing for a while still shows its seconds.
    """

    def __init__(self) -> None:
        self._phase, self._fraction, self._start, self._drawn = "", 0.0, time.monotonic(), False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __call__(self, phase: str, fraction: float) -> None:
        if phase != self._phase:
            self._start = time.monotonic()
        self._phase, self._fraction = phase, min(max(fraction, 0.0), 1.0)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._write("")

    def _run(self) -> None:
        while not self._over.wait(REDRAW_SECONDS):
            seconds = time.monotonic() - self._start
            visible = bool(self._phase) and seconds > PATIENCE_SECONDS
            text = progress_text(self._phase, self._fraction, seconds) if visible else ""
            self._write(text[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        if text or self._drawn:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
        self._drawn = bool(text)


def progress_text(phase: str, fraction: float, seconds: float) -> str:
    """`probing  [######------]  50 %, about 12 s left`; without a fraction, the seconds so far."""
    if fraction <= 0:
        return f"{phase}  {_duration(seconds)}"
    done = round(fraction * BAR)
    left = seconds / fraction * (1 - fraction)
    return f"{phase}  [{'#' * done}{'-' * (BAR - done)}] {fraction:4.0%}, about {_duration(left)} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
