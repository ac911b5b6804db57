"""The shape of the command line: the main job needs no sub-command word, and the help shows it first."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from .errors import UsageError

if TYPE_CHECKING:
    Formatter = Any  # typer's own class, which it does not export

MAIN_JOB = "compress"
HELP_WORDS = ("--help", "-h")
EXAMPLES = (
    ("onnx-compress in.onnx out.onnx --target-ratio 10", "ten times smaller, no data needed"),
    ("onnx-compress in.onnx out.onnx --target-ratio 10 --calibration data.npz", "the same, more faithful"),
    ("onnx-compress in.onnx out.onnx --target-size 500KB", "a size instead of a ratio"),
    ("onnx-compress in.onnx --dry-run --curve", "what there is to choose from: sizes and differences"),
    ("onnx-compress in.onnx out.onnx --max-divergence 0.01", "the smallest file that differs by at most 0.01"),
)
EXIT_CODES = "0 done, 1 failure, 2 usage, 3 target not reached, 4 verification failed"


class MainJobFirst(TyperGroup):
    """A group of commands that takes `onnx-compress in.onnx out.onnx ...` as its hidden command `compress`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer does not export its own Context
        """Puts `compress` in front where the first word is no command. Raises UsageError for what looks like a slip."""
        if not args:
            typer.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, self._with_command(list(args)))

    def _with_command(self, args: list[str]) -> list[str]:
        if args[0] in self.commands and args[0] != MAIN_JOB:
            return args
        for word in (*HELP_WORDS, "--version"):
            if word in args:
                return [word]
        if args[0] == MAIN_JOB:
            return args
        self._suggest(args[0])
        return [MAIN_JOB, *args]

    def _suggest(self, word: str) -> None:
        """Stops at `restor`: no file, and close to a command."""
        visible = [name for name, command in self.commands.items() if not command.hidden]
        close = get_close_matches(word.lower(), visible, n=1, cutoff=0.7)
        if close and not word.startswith("-") and not Path(word).exists():
            raise UsageError(f"{word!r} is neither a file nor a command: did you mean `onnx-compress {close[0]}`?")

    def format_help(self, ctx: typer.Context, formatter: Formatter) -> None:  # type: ignore[override]
        """The main job with its options, then the other commands."""
        formatter.write_usage("onnx-compress", "IN.onnx OUT.onnx --target-ratio R [OPTIONS]")
        formatter.write_paragraph()
        formatter.write_text(self.help or "")
        with formatter.section("Examples"):
            for command, comment in EXAMPLES:
                formatter.write_text(command)
                formatter.write_text(f"    {comment}")
        self.commands[MAIN_JOB].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_text(EXIT_CODES)
        formatter.write_paragraph()
