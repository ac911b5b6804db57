"""The command line: what is typed, what is printed, and the exit codes."""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_compress.optimizer.cli import main
from onnx_compress.optimizer.console import Console, ProgressLine, progress_text
from onnx_compress.optimizer.errors import CompressError, TargetError, UsageError, VerificationError
from onnx_compress.optimizer.report import Curve, CurvePoint, Progress, Report, Request, WeightReport, from_json
from onnx_compress.optimizer.summary import human
from onnx_compress.runtime.errors import CorruptionError

CLI = [sys.executable, "-m", "onnx_compress.optimizer.cli"]
WEIGHT = WeightReport("layer1.weight", (256, 64, 3, 3), "float32", "Conv", "Grid(256 scales)", 589_824, 58_000, 3.15, 0.42, 0.0011, 0.0023)


def report(source: Path, target: Path) -> Report:
    return Report(
        source=str(source),
        target=str(target),
        bytes_before=90_316_207,
        bytes_after=9_001_234,
        ratio=10.0338,
        graph_bytes=9_120,
        divergence=0.00213,
        divergence_kind="embedding",
        inputs="512 calibration samples",
        predicted=0.002,
        fused_against_restored=1e-7,
        weights=(WEIGHT, replace(WEIGHT, name="layer2.weight", form="Codebook(16)")),
        left_alone=(("bias1", "fewer than 64 values", 100), ("bias2", "fewer than 64 values", 150), ("ids", "holds integers", 4096)),
        notes=("12 nodes were folded",),
        warnings=(),
        seconds={"probing": 3.2},
    )


@dataclass
class Spy:
    """Stands in for `compress` and keeps what it was called with."""

    source: Path = Path()
    target: Path = Path()
    request: Request | None = None
    error: BaseException | None = None
    warnings: tuple[str, ...] = ()

    def __call__(self, source: Path, target: Path, request: Request, progress: Progress) -> Report:
        self.source, self.target, self.request = source, target, request
        progress("probing", 0.5)
        if self.error:
            raise self.error
        return replace(report(source, target), warnings=self.warnings)


def put_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    """A module of the optimizer that holds `content`."""
    module = ModuleType(f"onnx_compress.optimizer.{name}")
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    put_module(monkeypatch, "compress", compress=spy)
    return spy


def test_the_main_job_needs_no_sub_command(spy: Spy) -> None:
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10"]) == 0
    assert (spy.source, spy.target) == (Path("in.onnx"), Path("out.onnx"))
    assert spy.request == Request(target_ratio=10)


def test_options_may_come_first(spy: Spy) -> None:
    assert main(["--target-ratio", "10", "in.onnx", "-f", "out.onnx"]) == 0
    assert spy.request == Request(target_ratio=10, force=True)


def test_every_option_reaches_the_request(spy: Spy) -> None:
    words = "in.onnx out.onnx --target-size 500KB --calibration a.npz --calibration b --technique codebook --include c1 --include c2 --exclude d"
    words += " --input-shape x=1,3,224,224 --input-shape a=b=7 --max-divergence 0.1 --drop-channels 0.05 --external-data --keep-overridable"
    words += " --seed 3 -T 2 -f --dry-run --effort best --table --prefer speed"
    assert main(words.split()) == 0
    assert spy.request == Request(
        target_bytes=500_000,
        calibration=(Path("a.npz"), Path("b")),
        technique="codebook",
        include=("c1", "c2"),
        exclude=("d",),
        input_shapes={"x": (1, 3, 224, 224), "a=b": (7,)},
        max_divergence=0.1,
        external_data=True,
        keep_overridable=True,
        seed=3,
        threads=2,
        force=True,
        dry_run=True,
        drop_channels=0.05,
        effort="best",
        prefer="speed",
        per_weight=True,
    )


@pytest.mark.parametrize(
    ("text", "size"), [("500KB", 500_000), ("1.5MB", 1_500_000), ("2MiB", 2_097_152), ("12345", 12345), ("64 kib", 65536), ("1g", 10**9), ("7B", 7)]
)
def test_sizes_are_decimal_or_binary_as_written(spy: Spy, text: str, size: int) -> None:
    assert main(["in.onnx", "out.onnx", "--target-size", text]) == 0
    assert spy.request is not None
    assert spy.request.target_bytes == size


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("in.onnx out.onnx", "how small? Give --target-ratio"),
        ("in.onnx out.onnx --target-ratio 10 --target-size 1KB", "either --target-ratio or --target-size"),
        ("in.onnx out.onnx --target-ratio 0.5", "target ratio 0.5 is impossible"),
        ("in.onnx out.onnx --target-ratio 0", "target ratio 0 is impossible"),
        ("in.onnx out.onnx --target-ratio nan", "target ratio nan is impossible"),
        ("in.onnx out.onnx --target-ratio 1e9", "target ratio 1e+09 is impossible"),
        ("in.onnx out.onnx --target-ratio ten", "'ten' is no number"),
        ("in.onnx out.onnx --target-size 5XB", "'5XB' is no size"),
        ("in.onnx out.onnx --target-size -5", "'-5' is no size"),
        ("in.onnx out.onnx --target-size 0", "target size 0 is impossible"),
        ("in.onnx out.onnx --target-ratio 10 --input-shape x", "input shape 'x' cannot be read"),
        ("in.onnx out.onnx --target-ratio 10 --input-shape x=1,a", "input shape 'x=1,a' cannot be read"),
        ("in.onnx out.onnx --target-ratio 10 --input-shape x=1 --input-shape x=2", "input 'x' has two"),
        ("in.onnx out.onnx --target-ratio 10 --effort slow", "effort 'slow' is not known"),
        ("in.onnx --curve", "say --dry-run --curve"),
        ("in.onnx out.onnx --target-ratio 10 --technique best", "technique 'best' is not known"),
        ("in.onnx out.onnx --target-ratio 10 --include [", "'[' is no regular expression"),
        ("in.onnx --target-ratio 10", "the output is missing"),
        ("in.onnx out.onnx more.onnx --target-ratio 10", "unexpected extra argument"),
        ("in.onnx out.onnx --target-ratio", "requires an argument"),
        ("in.onnx out.onnx --target-rate 10", "no such option: --target-rate"),
        ("in.onnx out.onnx --target-ratio 10 --threads many", "'--threads': input should be a valid integer"),
        ("restore only.onnx", "missing argument 'DENSE.onnx'"),
        ("restor a.onnx b.onnx", "did you mean `onnx-compress restore`?"),
        ("Inspect", "did you mean `onnx-compress inspect`?"),
    ],
)
def test_a_slip_is_one_sentence_and_exit_code_2(spy: Spy, capsys: pytest.CaptureFixture[str], words: str, sentence: str) -> None:
    assert main(words.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("onnx-compress: ")
    assert printed.err.count("\n") == 1
    assert sentence in printed.err
    assert spy.request is None


def test_a_file_that_is_called_like_a_slip_is_a_file(spy: Spy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "restor").touch()
    assert main(["restor", "out.onnx", "--target-ratio", "10"]) == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CompressError("it broke"), 1),
        (UsageError("it broke"), 2),
        (TargetError("it broke"), 3),
        (VerificationError("it broke"), 4),
        (CorruptionError("it broke"), 1),
        (OSError(5, "it broke", "disk"), 1),
        (MemoryError("it broke"), 1),
        (KeyboardInterrupt("it broke"), 130),
        (ValueError("it\nbroke"), 1),
    ],
)
def test_every_error_has_its_exit_code_and_one_sentence(spy: Spy, capsys: pytest.CaptureFixture[str], error: BaseException, code: int) -> None:
    spy.error = error
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", "--json"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("onnx-compress: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err


def test_the_traceback_of_an_unexpected_error_is_for_those_who_ask(spy: Spy, capsys: pytest.CaptureFixture[str]) -> None:
    spy.error = TypeError("surprise")
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10"]) == 1
    assert "unexpected TypeError: surprise; run with -v for the traceback" in capsys.readouterr().err
    assert main(["in.onnx", "out.onnx", "--target-ratio", "10", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


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


def test_a_largest_divergence_is_goal_enough(spy: Spy) -> None:
    assert main(["in.onnx", "out.onnx", "--max-divergence", "0.01"]) == 0
    assert spy.request == Request(max_divergence=0.01)


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


def test_the_help_shows_the_main_job_first(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["-h"], ["in.onnx", "--help"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert text.startswith("Usage: onnx-compress IN.onnx OUT.onnx --target-ratio R")
        assert text.index("--target-ratio") < text.index("--calibration") < text.index("restore") < text.index("Exit codes")
    assert main(["restore", "--help"]) == 0
    assert "Usage: onnx-compress restore [OPTIONS] {COMPRESSED.onnx} {DENSE.onnx}" in capsys.readouterr().out


def test_no_word_at_all_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Usage:")


def test_the_version_names_package_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    words = capsys.readouterr().out.split()
    assert words[0] == "onnx-compress"
    assert "draft" in " ".join(words[2:])


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from onnx_compress.optimizer.cli import main; main(['--help']); heavy = {'onnx', 'onnxruntime', 'numba', 'numpy', 'onnx_ir'}"
    code += "; print('loaded:', heavy & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert run.stdout.endswith("loaded: set()\n")
    assert run.stderr == ""


def test_compress_is_a_function_even_when_its_module_was_imported_first(spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    package = importlib.import_module("onnx_compress.optimizer")
    monkeypatch.setattr(package, "compress", sys.modules["onnx_compress.optimizer.compress"])  # what an import of the submodule does
    assert package.compress is spy
    assert package.Request is Request
    with pytest.raises(AttributeError, match="'nonsense'"):
        _ = package.nonsense


@dataclass(frozen=True)
class Restored:
    target: str
    bytes_after: int
    divergence: float


def test_restore_passes_its_words_on_and_prints_its_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Any, ...]] = []

    def restore(*words: Any) -> Restored:
        calls.append(words)
        return Restored("dense.onnx", 1234567, 0.5)

    put_module(monkeypatch, "restore", restore=restore)
    assert main(["restore", "out.onnx", "dense.onnx", "-f"]) == 0
    assert calls == [(Path("out.onnx"), Path("dense.onnx"), True, False, 0)]
    assert "1,234,567" in capsys.readouterr().out


def test_verify_passes_its_words_on_and_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Any, ...]] = []

    def verify(*words: Any) -> Restored:
        calls.append(words)
        return Restored("out.onnx", 1, 0.25)

    put_module(monkeypatch, "verify", verify=verify)
    assert main(["verify", "in.onnx", "out.onnx", "--inputs", "x.npz", "--max-divergence", "0.5", "--json"]) == 0
    assert calls == [(Path("in.onnx"), Path("out.onnx"), (Path("x.npz"),), 0.5)]
    assert json.loads(capsys.readouterr().out)["divergence"] == 0.25


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


HEEDS_SIGINT = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""A shell makes what it runs in the background ignore Ctrl-C, and that is inherited."""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(word for word in sys.path if word)}


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = tmp_path / "script.py"
    folder = tmp_path / "folder"
    folder.mkdir()
    script.write_text(
        f"import sys, time, types\n{HEEDS_SIGINT}"
        "from onnx_compress.optimizer import cli, files\n"
        "def compress(source, target, request, progress):\n"
        "    with files.Workspace(source, target) as work:\n"
        "        work.model.write_text('half')\n"
        "        print('working', flush=True)\n"
        "        time.sleep(30)\n"
        "sys.modules['onnx_compress.optimizer.compress'] = types.SimpleNamespace(compress=compress)\n"
        "sys.exit(cli.main(['in.onnx', sys.argv[1] + '/out.onnx', '--target-ratio', '2']))\n"
    )
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        assert list(folder.iterdir())
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert errors.endswith("nothing was written\n")
    assert errors.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("phase", ["calibrating", "making candidates", "fitting the size"])
def test_ctrl_c_in_the_middle_of_the_work_ends_it_at_once_and_leaves_nothing_behind(tmp_path: Path, phase: str) -> None:
    folder, source, script = tmp_path / "folder", tmp_path / "in.onnx", tmp_path / "script.py"
    folder.mkdir()
    onnx.save(slow_model(), source)
    script.write_text(
        f"import sys\n{HEEDS_SIGINT}"
        "from contextlib import contextmanager\n"
        "from onnx_compress.optimizer import cli\n"
        "@contextmanager\n"
        "def progress(console):\n"
        "    yield lambda phase, fraction: print(phase, flush=True)\n"
        "cli.Console.progress = progress\n"
        "cli.run()\n"
    )
    words = [str(source), str(folder / "out.onnx"), "--target-ratio", "6", "--effort", "balanced", "-T", "2"]
    command = [sys.executable, str(script), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) and line != f"{phase}\n":
            pass
        assert line
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "onnx-compress: interrupted, nothing was written\n"
    assert list(folder.iterdir()) == []
    assert time.monotonic() - begun < PATIENCE_SECONDS


PATIENCE_SECONDS = 10.0
"""A second or two where the machine is not busy with other things."""


def slow_model() -> onnx.ModelProto:
    """Four layers of a million values: candidates of each take several seconds."""
    generator = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(generator.standard_normal((1024, 1024), np.float32), f"w{number}") for number in range(4)]
    nodes = [onnx.helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"x{number + 1}"]) for number in range(4)]
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", 1024]) for name in ("x0", "x4")]
    graph = onnx.helper.make_graph(nodes, "slow", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
