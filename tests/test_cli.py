"""The command line: what is typed, what is printed, and the exit codes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from onnx_compress.optimizer.cli import main
from onnx_compress.optimizer.errors import CompressError, TargetError, UsageError, VerificationError
from onnx_compress.optimizer.report import Request
from onnx_compress.runtime.errors import CorruptionError

from tests.cli_spy import Spy, environment, put_module


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


def test_a_largest_divergence_is_goal_enough(spy: Spy) -> None:
    assert main(["in.onnx", "out.onnx", "--max-divergence", "0.01"]) == 0
    assert spy.request == Request(max_divergence=0.01)


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


@pytest.mark.parametrize("name", ["compress", "curve", "inspect", "restore", "verify"])
def test_the_package_offers_each_function_of_its_list(name: str) -> None:
    package, module = importlib.import_module("onnx_compress.optimizer"), importlib.import_module(f"onnx_compress.optimizer.{name}")
    assert getattr(package, name) is getattr(module, name)
    assert name in package.__all__


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
