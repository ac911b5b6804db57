"""Low rank: the best factors, when they pay, and the graph that they make; and reasons wherever they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.report import Report
from onnx_compress.passes.feedback import Factor, factorize
from onnx_compress.passes.lowrank import LARGEST, Factors, LowRank, worthwhile
from onnx_compress.passes.technique import Context, Refusal
from onnx_compress.runtime import session

from models.network import Network, tensor
from tests.outcomes import WINDOW, plain_session, run

RANK = 6
Floats = NDArray[np.float32]


def planted(rows: int, k: int, noise: float = 1e-3, seed: int = 0) -> Floats:
    """A matrix of rank RANK with values of about 1 / sqrt(k), and noise of `noise` times that."""
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(rows, RANK)) @ rng.normal(size=(RANK, k)) / np.sqrt(RANK)
    return ((low + noise * rng.normal(size=(rows, k))) / np.sqrt(k)).astype(np.float32)


def moments(k: int, seed: int = 1) -> Floats:
    """E[x x^T] of correlated inputs."""
    mixed = np.random.default_rng(seed).normal(size=(k, k // 4))
    return (mixed @ mixed.T / k + 0.05 * np.eye(k)).astype(np.float32)


def context(matrix: Floats) -> Context:
    found = factorize(matrix[None])
    assert isinstance(found, Factor)
    return Context(square=np.diag(matrix)[None, None].copy(), factor=lambda: found)


def loss(weight: Floats, found: Factors, matrix: Floats) -> float:
    difference = (weight - found.left @ found.right).astype(np.float64)
    return float(np.einsum("nk,kl,nl->", difference, matrix, difference))


def accepted(found: Factors | Refusal) -> Factors:
    assert not isinstance(found, Refusal), found
    return found


@pytest.mark.parametrize(("rows", "k"), [(40, 90), (90, 40), (64, 64)])
def test_factors_lose_what_the_theorem_says(rows: int, k: int) -> None:
    weight, matrix = np.random.default_rng(0).normal(size=(rows, k)).astype(np.float32), moments(k)
    values = np.linalg.eigvalsh(matrix.astype(np.float64))
    root = np.linalg.cholesky(matrix.astype(np.float64) + 1e-4 * np.diag(np.diag(matrix)))
    assert values[0] > 0
    singular = np.linalg.svd(weight @ root, compute_uv=False)
    for rank in (1, 5, 30, 40):
        found = accepted(LowRank(rank).apply(weight[None], context(matrix)))
        assert (found.left.shape, found.right.shape) == ((rows, rank), (rank, k))
        assert loss(weight, found, matrix) == pytest.approx((singular[rank:] ** 2).sum(), rel=2e-3, abs=1e-3)


def test_what_lies_between_factors_is_white() -> None:
    matrix = moments(60)
    found = accepted(LowRank(8).apply(planted(50, 60, 0.3)[None], context(matrix)))
    assert np.allclose(found.right @ matrix @ found.right.T, np.eye(8), atol=0.01)


def test_rows_that_matter_are_kept_better() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 60)).astype(np.float32)
    rows = np.where(np.arange(40) < 4, 9.0, 0.1).astype(np.float32)
    plain, aware = (accepted(LowRank(8).apply(weight[None], one)) for one in (Context(), Context(rows=rows)))
    errors = [float(((weight - one.left @ one.right)[:4] ** 2).sum()) for one in (plain, aware)]
    assert errors[1] < 0.2 * errors[0]


def test_planted_factors_are_found() -> None:
    found = worthwhile(planted(256, 300)[None], context(moments(300)), 3.0)
    assert found == LowRank(RANK)
    assert worthwhile(planted(256, 300)[None], Context(), 3.0) == LowRank(RANK)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.random.default_rng(0).normal(size=(1, 200, 200)), "times what a grid loses"),
        (np.zeros((1, 100, 100)), "zero"),
        (np.full((1, 100, 100), np.inf), "too large"),
        (np.ones((3, 80, 80)), "a stack of 3"),
        (np.ones((1, 1, 500)), "no factors"),
        (np.ones((1, 2, LARGEST + 1)), str(LARGEST)),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_other_matrices_are_refused_with_the_reason(weight: NDArray[np.float64], reason: str) -> None:
    found = worthwhile(weight.astype(np.float32), Context(), 3.0)
    assert isinstance(found, Refusal)
    assert reason in found.reason


@pytest.mark.parametrize("rank", [0, 41])
def test_an_impossible_rank_is_refused(rank: int) -> None:
    assert isinstance(LowRank(rank).apply(planted(40, 50)[None], Context()), Refusal)


def gemm(net: Network, x: str, weight: Floats) -> str:
    return net.add("Gemm", [x, net.constant("planted", weight), net.bias("c", weight.shape[0])], {"transB": 1, "alpha": 0.5})


def matmul(net: Network, x: str, weight: Floats) -> str:
    return net.add("MatMul", [x, net.constant("planted", weight.T)])


def biased(net: Network, x: str, weight: Floats) -> str:
    return net.add("Add", [matmul(net, x, weight), net.bias("c", weight.shape[0])])


def conv(net: Network, x: str, weight: Floats) -> str:
    wide = net.add("Reshape", [x, net.constant("wide", np.array([-1, weight.shape[1], 1, 1]))])
    product = net.add("Conv", [wide, net.constant("planted", weight[..., None, None]), net.bias("c", weight.shape[0])], {"pads": [1, 0, 1, 1]})
    return net.add("Flatten", [net.add("GlobalAveragePool", [product])])


LAYERS = {"Gemm": gemm, "MatMul": matmul, "MatMul and Add": biased, "Conv": conv}
WIDTH = 192


def model(layer: str, noise: float = 1e-3) -> onnx.ModelProto:
    """An ordinary layer, then one of low rank, then another ordinary one."""
    net = Network(0)
    hidden = net.add("Relu", [net.add("MatMul", ["x", net.weight("first", (64, WIDTH))])])
    wide = net.add("Relu", [LAYERS[layer](net, hidden, planted(WIDTH, WIDTH, noise))])
    net.named(net.add("MatMul", [wide, net.weight("last", (WIDTH, 48))]), "y")
    return net.model("case", [tensor("x", ("batch", 64))], [tensor("y", ("batch", 48))])


def feed(count: int, seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {"x": (rng.normal(size=(count, 16)) @ rng.normal(size=(16, 64)) / 4 + 0.2 * rng.normal(size=(count, 64))).astype(np.float32)}


def outcome(folder: Path, source: onnx.ModelProto, technique: str, calibrated: bool = True, ratio: float = 8, exclude: tuple[str, ...] = ()) -> Report:
    onnx.save(source, folder / "in.onnx")
    np.savez(folder / "data.npz", **feed(256))
    data = (folder / "data.npz",) if calibrated else ()
    request = Request(target_ratio=ratio, technique=technique, calibration=data, exclude=exclude, force=True, threads=2)
    return compress(folder / "in.onnx", folder / f"{technique}.onnx", request)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_planted_layer_becomes_two_that_run_and_are_restored(tmp_path: Path, layer: str) -> None:
    report = outcome(tmp_path, model(layer), "lowrank")
    assert {weight.name for weight in report.weights} == {"first", "planted.right", "planted.left", "last"}
    assert any("planted is stored as two factors" in note for note in report.notes)
    restore(tmp_path / "lowrank.onnx", tmp_path / "dense.onnx")
    onnx.checker.check_model(str(tmp_path / "lowrank.onnx"), full_check=True)
    x = feed(5, 1)
    (before,), (ours,), (dense,) = (
        run(one, x) for one in (plain_session(tmp_path / "in.onnx"), session(tmp_path / "lowrank.onnx"), plain_session(tmp_path / "dense.onnx"))
    )
    assert np.abs(ours - dense).max() <= 1e-4 * np.abs(before).max()
    assert ((ours - before) ** 2).sum() < 0.05 * (before**2).sum()


@pytest.mark.parametrize("calibrated", [False, True])
def test_factors_beat_every_grid_on_a_planted_layer(tmp_path: Path, calibrated: bool) -> None:
    grid, factors = (outcome(tmp_path, model("Gemm"), technique, calibrated) for technique in ("auto", "lowrank"))
    assert factors.bytes_after <= grid.bytes_after * WINDOW
    assert factors.divergence < 0.7 * grid.divergence


def test_ordinary_layers_stay_whole_and_the_report_says_why(tmp_path: Path) -> None:
    report = outcome(tmp_path, model("Gemm", noise=3.0), "lowrank")
    assert {weight.name for weight in report.weights} == {"first", "planted", "last"}
    notes = [note for note in report.notes if "stays whole" in note]
    assert len(notes) == 3
    assert any("planted" in note and "times what a grid loses" in note for note in notes)


def test_a_weight_that_the_user_leaves_out_stays_whole(tmp_path: Path) -> None:
    report = outcome(tmp_path, model("Gemm"), "lowrank", ratio=3, exclude=("first",))
    assert {weight.name for weight in report.weights} == {"planted.right", "planted.left", "last"}


def test_embeddings_shared_weights_and_filters_are_refused_with_the_reason(tmp_path: Path) -> None:
    net, low = Network(0), planted(128, 128)
    table = net.constant("table", low)
    looked = net.add("Gather", [table, "ids"])
    shared = net.constant("shared", planted(128, 128, seed=2))
    twice = net.add("MatMul", [net.add("Relu", [net.add("MatMul", [looked, shared])]), shared])
    image = net.add("Reshape", [twice, net.constant("shape", np.array([-1, 128, 1, 1]))])
    filtered = net.add("Conv", [image, net.constant("filter", planted(64, 128 * 9).reshape(64, 128, 3, 3))], {"pads": [1, 1, 1, 1]})
    net.named(net.add("Flatten", [filtered]), "y")
    source = net.model("case", [tensor("ids", ("batch",), onnx.TensorProto.INT64)], [tensor("y", ("batch", 64))])
    onnx.save(source, tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", tmp_path / "out.onnx", Request(target_ratio=6, technique="lowrank", threads=2))
    reasons = {note.partition(" ")[0]: note for note in report.notes if "stays whole" in note}
    assert "looked up" in reasons["table"]
    assert "several layers" in reasons["shared"]
    assert "1 x 1" in reasons["filter"]
