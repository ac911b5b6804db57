"""What the command line prints: the summary, the table, JSON, the curve, and progress."""

from __future__ import annotations

import io
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from onnx_compress.optimizer.cli import main
from onnx_compress.optimizer.console import Console, ProgressLine, progress_text
from onnx_compress.optimizer.report import Curve, CurvePoint, from_json
from onnx_compress.optimizer.summary import human, summary

from tests.cli_spy import Spy, put_module, report


def test_the_summary_says_everything_that_is_promised(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10"]) == 0
    printed = capsys.readouterr()
    for words in (
        "90,316,207 -> 9,001,234 bytes",
        "10.03 times smaller",
        "0.0021 of 1 - cosine similarity, measured on 512 calibration samples (0.002 predicted)",
        "2 weights: 1 as Grid, 1 as Codebook",
        "3 weights, 4.35 KB",
        "2  fewer than 64 values (250 bytes)",
        "12 nodes were folded",
        'from onnx_compress.runtime import session; session("out.onnx")',
        "onnx-compress library",
    ):
        assert words in printed.out
    assert "bias1" not in printed.out
    assert len(printed.out.splitlines()) <= 14
    assert printed.err == ""


def test_a_file_that_did_not_become_smaller_says_so() -> None:
    grown = replace(report(Path("in.onnx"), Path("out.onnx")), bytes_before=4416, bytes_after=4564, ratio=4416 / 4564)
    assert dict(summary(grown, names=False, dry_run=False))["size"] == "4.42 KB -> 4.56 KB, not smaller: nothing gained, keep the original   (4,416 -> 4,564 bytes)"


@pytest.mark.parametrize("option", ["-v", "--table"])
def test_names_of_weights_left_alone_are_shown_on_request(spy: Spy, capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", option]) == 0
    assert "bias1, 100 bytes" in capsys.readouterr().out


def test_the_table_has_a_line_for_each_weight(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", "--table"]) == 0
    head, first = capsys.readouterr().out.splitlines()[:2]
    names = "weight shape dtype operator placed form before after bits/weight zeros predicted measured us fused / folded"
    assert head.split() == names.split()
    assert first.split() == ["layer1.weight", "256x64x3x3", "float32", "Conv", "fused", "Grid(256", "scales)", "589,824", "58,000", "3.15", "42.0%", "0.0011", "0.0023", "0", "/", "0"]


@pytest.mark.parametrize("option", ["--json", "-q", "-v"])
def test_a_warning_is_the_last_line_whatever_the_options(spy: Spy, capfd: pytest.CaptureFixture[str], option: str) -> None:
    spy.warnings = ("the outputs differ much: give calibration data",)
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", option]) == 0
    assert capfd.readouterr().err.splitlines()[-1] == "warning: the outputs differ much: give calibration data"


def test_json_is_all_that_json_prints(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", "--json", "--table", "-v"]) == 0
    assert from_json(capsys.readouterr().out) == report(Path("in.onnx"), Path("out.onnx"))


def test_quiet_prints_nothing(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", "-q", "--table"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_dry_run_needs_no_output_and_says_the_final_size(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in.onnx", "--target-ratio", "10", "--dry-run"]) == 0
    assert "nothing was written; in.compressed.onnx would have 9,001,234 bytes" in capsys.readouterr().out


CURVE = Curve(
    source="in.onnx",
    bytes_before=1_000_000,
    inputs="512 calibration samples",
    divergence_kind="classes",
    points=(
        CurvePoint(2.0, 495_000, 2.0202, 1e-5, 1.2e-5, {"grid": 3}),
        CurvePoint(10.0, 99_900, 10.01, 0.02, 0.03, {"trellis": 5, "grid": 2, "codebook": 1, "distinct values": 1}),
    ),
    out_of_reach=(16.0, 20.0),
    seconds={},
)


def test_the_curve_is_a_table_to_choose_from(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    put_module(monkeypatch, "curve", curve=lambda source, request, progress: replace(CURVE, source=str(source)))
    assert main(["in.onnx", "--dry-run", "--curve"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ratio", "bytes", "predicted", "measured", "weights", "by", "form"]
    assert lines[2].split(maxsplit=4) == ["10.01", "99,900", "0.02", "0.03", "5 trellis, 2 grid, 1 codebook, 1 others"]
    assert any(line.split() == ["not", "reached", "16,", "20"] for line in lines)
    assert main(["in.onnx", "--dry-run", "--curve", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"][0]["measured"] == 1.2e-5


def test_sizes_for_people_have_three_digits() -> None:
    assert [human(size) for size in (0, 999, 1000, 1634, 999_499, 999_700, 90_316_207, 3 * 10**9)] == [
        "0 bytes",
        "999 bytes",
        "1 KB",
        "1.63 KB",
        "999 KB",
        "1 MB",
        "90.3 MB",
        "3 GB",
    ]


def test_progress_names_the_phase_the_fraction_and_the_time_left() -> None:
    assert progress_text("probing", 0.25, 10) == "probing  [######------------------]  25%, about 30 s left"
    assert progress_text("planning", 0.0, 7.4) == "planning  7 s"
    assert progress_text("planning", 0.5, 600) == "planning  [############------------]  50%, about 10 min left"


def test_progress_is_drawn_on_a_terminal_for_slow_phases_only_and_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr("onnx_compress.optimizer.console.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("onnx_compress.optimizer.console.REDRAW_SECONDS", 0.05)
    with Console().progress() as progress:
        assert isinstance(progress, ProgressLine)
        progress("quick", 0.5)
        time.sleep(0.1)
        progress("slow", 0.5)
        time.sleep(0.6)
    assert "quick" not in terminal.getvalue()
    assert "slow  [" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_there_is_no_progress_where_nobody_looks(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress() as progress:
        assert not isinstance(progress, ProgressLine)
