"""The same input gives the same bytes: whatever the threads, the process, and the seed of Python's hashes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx_compress.optimizer import Request, compress

from models.network import Network, tensor
from models.structures import STRUCTURES
from tests.measuring import finished
from tests.outcomes import calibration

ROOT = Path(__file__).parents[1]
NAMES = ("tied_transformer", "depthwise_batchnorm", "if_branches", "bfloat16_cast", "int4_blocks")
RATIOS = {"int4_blocks": 1.2}
CODE = """
import hashlib, json, sys
from pathlib import Path
from onnx_compress.optimizer import Request, compress
folder, names, threads = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
for name, ratio in names.items():
    compress(folder / f"{name}.onnx", folder / "out.onnx", Request(target_ratio=ratio, threads=threads, force=True))
    print(name, hashlib.sha256((folder / "out.onnx").read_bytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models."""
    place = tmp_path_factory.mktemp("models")
    for name in NAMES:
        onnx.save(STRUCTURES[name](0), place / f"{name}.onnx")
    return place


def digest(source: Path, target: Path, threads: int, **wishes: object) -> str:
    """SHA-256 over the files that a compression writes."""
    compress(source, target, Request(target_ratio=RATIOS.get(source.stem, 5), threads=threads, force=True, **wishes))  # type: ignore[arg-type]
    files = sorted(target.parent.glob(f"{target.name}*"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_one_and_two_threads_write_the_same_bytes(folder: Path, tmp_path: Path, name: str) -> None:
    assert len({digest(folder / f"{name}.onnx", tmp_path / "out.onnx", threads) for threads in (1, 2, 2)}) == 1


def test_calibrated_and_external_files_are_the_same_too(folder: Path, tmp_path: Path) -> None:
    batches = calibration(tmp_path, STRUCTURES["tied_transformer"](0))
    source = folder / "tied_transformer.onnx"
    found = {digest(source, tmp_path / "out.onnx", threads, calibration=batches, external_data=True) for threads in (1, 2)}
    assert len(found) == 1


def test_feedback_and_trellis_are_the_same_on_any_number_of_threads(tmp_path: Path) -> None:
    """Sums of BLAS, matrices kept by several threads, and the search: none may depend on what runs beside it."""
    source, model = tmp_path / "wide.onnx", wide()
    onnx.save(model, source)
    batches = calibration(tmp_path, model, 6)
    report = compress(source, tmp_path / "out.onnx", Request(target_ratio=8, threads=2, calibration=batches))
    assert any("trellis" in weight.form for weight in report.weights), [weight.form for weight in report.weights]
    assert len({digest(source, tmp_path / "out.onnx", threads, calibration=batches) for threads in (1, 2, 2)}) == 1


def wide() -> onnx.ModelProto:
    """Layers of which some fill the pool and some do not, behind inputs that are correlated."""
    net, hidden = Network(0), "x"
    for number, (inputs, outputs) in enumerate(((24, 200), (200, 200), (200, 130), (130, 96))):
        hidden = net.add("Relu", [net.add("Gemm", [hidden, net.weight(f"w{number}", (inputs, outputs)), net.bias(f"b{number}", outputs)])])
    return finished(net, hidden, [tensor("x", ["batch", 24])], 2)


def test_other_processes_with_other_hashes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    names = {name: RATIOS.get(name, 5) for name in NAMES}
    words = [sys.executable, "-c", CODE, str(folder), json.dumps(names)]
    outputs = []
    for hashes, threads in (("1", "1"), ("2", "2")):
        environment = {"PYTHONPATH": ".typing", "PYTHONHASHSEED": hashes}
        ran = subprocess.run([*words, threads], check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
        outputs.append(dict(line.split() for line in ran.stdout.splitlines()))
    assert outputs[0] == outputs[1]
    assert outputs[0] == {name: digest(folder / f"{name}.onnx", tmp_path / "out.onnx", 2) for name in NAMES}


def test_another_seed_is_another_result(folder: Path, tmp_path: Path) -> None:
    """Synthetic inputs come from the seed, so sensitivities and sizes differ."""
    source = folder / "tied_transformer.onnx"
    assert digest(source, tmp_path / "a.onnx", 2, seed=0) != digest(source, tmp_path / "b.onnx", 2, seed=1)


def test_the_name_of_the_output_is_not_in_the_file(folder: Path, tmp_path: Path) -> None:
    source = folder / "bfloat16_cast.onnx"
    assert digest(source, tmp_path / "a.onnx", 2) == digest(source, tmp_path / "another_name.onnx", 2)
