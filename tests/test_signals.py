"""Signals in the middle of the work: an exit code, one sentence, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli_spy import environment

HEEDS_SIGNALS = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
"""A shell makes what it runs in the background ignore Ctrl-C, nohup makes it ignore the end of the terminal, and both are inherited."""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = tmp_path / "script.py"
    folder = tmp_path / "folder"
    folder.mkdir()
    script.write_text(
        f"import sys, time, types\n{HEEDS_SIGNALS}"
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
        f"import sys\n{HEEDS_SIGNALS}"
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
