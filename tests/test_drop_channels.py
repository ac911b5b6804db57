"""Dropping channels: those that others can stand for go first, what reads them is fitted anew, and the rest of the pipeline never notices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnx_compress.optimizer import Request, compress, restore
from onnx_compress.optimizer.covariances import Covariance, measure_halves
from onnx_compress.optimizer.drop_channels import Drop, drop_channels
from onnx_compress.optimizer.elimination import Elimination, refit, weights_of
from onnx_compress.optimizer.errors import UsageError
from onnx_compress.optimizer.verify import verify
from onnx_compress.passes.channels import Chain, find_chains
from onnx_compress.passes.fold_shapes import InferShapes
from onnx_compress.passes.simplify import simplify

from models.structures import STRUCTURES, feeds
from tests.slimming import Array, floats, loaded_copy, model_of, normal, run, stored

BATCHES = 24


def data(model: onnx.ModelProto, count: int = BATCHES, batch: int = 4) -> list[dict[str, Array]]:
    return [feeds(model, seed, batch) for seed in range(count)]


def dropped(model: onnx.ModelProto, drop: Drop, batches: int = BATCHES, batch: int = 4) -> tuple[onnx.ModelProto, str]:
    """A simplified copy without some channels, checked, and the note."""
    loaded = loaded_copy(model)
    simplify(loaded)
    inputs = data(model, batches, batch)
    (note,) = drop_channels(loaded, inputs, drop)
    proto = ir.to_proto(loaded)
    onnx.checker.check_model(proto, full_check=True)
    return proto, note


def error(model: onnx.ModelProto, changed: onnx.ModelProto) -> float:
    """Relative squared error on inputs that were not seen."""
    feed = feeds(model, 99)
    (before, *_), (after, *_) = run(model, feed), run(changed, feed)
    return float(np.square(before - after).sum() / np.square(before).sum())


def twins(*dims: int, axis: int = 0, seed: int = 0) -> NDArray[np.float32]:
    """Each row is there twice."""
    return np.repeat(normal(*dims, seed=seed), 2, axis=axis)


def chains_of(model: onnx.ModelProto) -> tuple[ir.Model, tuple[Chain, ...]]:
    loaded = loaded_copy(model)
    InferShapes()(loaded)
    return loaded, find_chains(loaded).chains


def convolutions(last: Sequence[onnx.NodeProto], **constants: Array) -> onnx.ModelProto:
    """Conv to 8 times two equal channels, Relu, `last` from m to y."""
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["h"], ["m"]), *last]
    return model_of(nodes, [floats("batch", 4, 9, 9)], ["y"], {"w": twins(8, 4, 3, 3), "b": twins(8, seed=1), **constants})


TWINS = {
    "pointwise": convolutions([helper.make_node("Conv", ["m", "v"], ["y"])], v=normal(5, 16, 1, 1)),
    "padded": convolutions([helper.make_node("Conv", ["m", "v", "c"], ["y"], pads=[1, 0, 1, 1], strides=[2, 1])], v=normal(5, 16, 3, 3), c=normal(5)),
    "dilated": convolutions([helper.make_node("Conv", ["m", "v"], ["y"], dilations=[2, 1], pads=[2, 0, 1, 1])], v=normal(5, 16, 3, 2)),
    "transposed": convolutions([helper.make_node("ConvTranspose", ["m", "v"], ["y"], strides=[2, 2])], v=normal(16, 5, 3, 3)),
    "depthwise": convolutions(
        [
            helper.make_node("Conv", ["m", "u", "d"], ["k"], pads=[1, 1, 1, 1], group=16),
            helper.make_node("Clip", ["k"], ["q"]),
            helper.make_node("Conv", ["q", "v"], ["y"]),
        ],
        u=twins(8, 1, 3, 3, seed=5),
        d=twins(8, seed=6),
        v=normal(5, 16, 1, 1),
    ),
    "residual": convolutions(
        [
            helper.make_node("Conv", ["m", "u"], ["k"], pads=[1, 1, 1, 1]),
            helper.make_node("Add", ["m", "k"], ["s"]),
            helper.make_node("Conv", ["s", "v"], ["y"]),
        ],
        u=twins(8, 16, 3, 3, seed=5),
        v=normal(5, 16, 3, 3),
    ),
    "flattened": convolutions(
        [helper.make_node("MaxPool", ["m"], ["p"], kernel_shape=[3, 3], strides=[3, 3]), helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("Gemm", ["f", "v"], ["y"])],
        v=normal(144, 5),
    ),
    "matrices": model_of(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["m"]), helper.make_node("MatMul", ["m", "v"], ["y"])],
        [floats("batch", 7, 12)],
        ["y"],
        {"w": twins(12, 8, axis=1), "v": normal(16, 5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_of_two_equal_channels_one_goes_and_the_other_stands_for_both(name: str) -> None:
    model = TWINS[name]
    changed, note = dropped(model, Drop(0.5), batch=96)
    assert note.startswith("8 of 16 channels were dropped")
    assert stored(changed)["w"].size == stored(model)["w"].size / 2
    assert error(model, changed) < 2e-3


def test_a_fraction_of_all_channels_goes_in_steps_and_at_most_half_of_a_chain() -> None:
    model = TWINS["padded"]
    for fraction, count in ((0.1, 0), (0.25, 4), (0.45, 4), (0.5, 8), (0.9, 8)):
        for is_random in (False, True):
            changed, note = dropped(model, Drop(fraction, random=is_random), batches=4)
            assert f"{count} of 16 channels were dropped" in note
            assert stored(changed)["v"].shape == (5, 16 - count, 3, 3)


def test_the_note_says_which_weights_lost_how_many_channels() -> None:
    _, note = dropped(TWINS["matrices"], Drop(0.2), batches=4)
    assert note == "3 of 16 channels were dropped (204 bytes of 2 weights): 3 from w"


def test_the_least_sensitive_channels_cost_less_than_random_ones() -> None:
    model = STRUCTURES["depthwise_batchnorm"](1)
    least = error(model, dropped(model, Drop(0.2))[0])
    assert all(least < error(model, dropped(model, Drop(0.2, seed=seed, random=True))[0]) for seed in range(5))


@pytest.mark.parametrize("name", ["conv_1d", "conv_3d", "conv_transpose", "depthwise_batchnorm", "gemm_variants", "tied_transformer", "float16_activations", "bfloat16_cast"])
def test_structures_still_run_without_a_tenth_of_their_channels(name: str) -> None:
    model = STRUCTURES[name](1)
    changed, _ = dropped(model, Drop(0.1), batches=6)
    for before, after in zip(run(model, feeds(model, 2)), run(changed, feeds(model, 2)), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
        assert np.isfinite(after.astype(np.float32)).all()


def test_a_model_without_chains_is_left_alone() -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], [floats("batch", 4, 9, 9)], ["y"], {"w": normal(8, 4, 3, 3)})
    changed, note = dropped(model, Drop(0.5))
    assert note.startswith("no channels were dropped")
    assert np.array_equal(stored(changed)["w"], stored(model)["w"])


# --- the algebra


def correlated(chain: Chain) -> list[Covariance]:
    """Any covariance of the right size."""
    found = []
    for reader in chain.readers:
        size = weights_of(reader)[0].size
        mixing = normal(size, size).astype(np.float64)
        found.append(Covariance(normal(size, seed=3).astype(np.float64), mixing @ mixing.T / size))
    return found


@pytest.mark.parametrize("name", ["padded", "transposed", "flattened", "matrices", "residual"])
def test_costs_of_elimination_add_up_to_the_error_of_a_least_squares_fit(name: str) -> None:
    _, (chain, *_) = chains_of(TWINS[name])
    covariances = correlated(chain)
    elimination = Elimination(chain, covariances, [1.0] * len(covariances))
    costs = [elimination.take()[1] for _ in range(6)]
    fitted = [refit(reader, one, elimination.kept) for reader, one in zip(chain.readers, covariances, strict=True)]
    assert elimination.kept.sum() == chain.channels - 6
    assert sum(costs) == pytest.approx(sum(one.error for one in fitted), rel=0.05)
    assert not any(one.columns[:, ~elimination.kept].any() for one in fitted)


def test_covariances_are_those_of_what_the_filters_meet() -> None:
    """Against im2col by an identity filter, all positions being drawn."""
    model = TWINS["padded"]
    loaded, (chain,) = chains_of(model)
    inputs = data(model, 2)
    (half,) = measure_halves(loaded, chain.readers, inputs)
    found = Covariance.of(half, 0.25, is_centred=True)
    identity = np.eye(16 * 9, dtype=np.float32).reshape(144, 16, 3, 3)
    unfolding = onnx.ModelProto()
    unfolding.CopyFrom(model)
    del unfolding.graph.initializer[:]
    constants = stored(model) | {"v": identity, "c": np.zeros(144, np.float32)}
    unfolding.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    del unfolding.graph.output[0].type.tensor_type.shape.dim[:]
    vectors = np.concatenate([np.moveaxis(run(unfolding, feed)[0], 1, -1).reshape(-1, 144) for feed in inputs]).astype(np.float64)
    expected = np.cov(vectors.T, bias=True) * 0.75
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.square - np.diag(np.diag(found.square)), expected - np.diag(np.diag(expected)), atol=1e-4 * expected.max())


# --- the whole pipeline


def calibrated(folder: Path, model: onnx.ModelProto) -> tuple[Path, Path]:
    """The model and its calibration data as files."""
    onnx.save(model, folder / "in.onnx")
    inputs = data(model)
    np.savez(folder / "data.npz", **{name: np.concatenate([feed[name] for feed in inputs]) for name in inputs[0]})  # type: ignore[arg-type]
    return folder / "in.onnx", folder / "data.npz"


def test_a_model_without_some_channels_is_compressed_verified_and_restored(tmp_path: Path) -> None:
    model = STRUCTURES["depthwise_batchnorm"](1)
    source, inputs = calibrated(tmp_path, model)
    report = compress(source, tmp_path / "out.onnx", Request(target_ratio=6, calibration=(inputs,), drop_channels=0.1))
    assert report.ratio >= 6
    assert any("channels were dropped" in note for note in report.notes)
    verify(source, tmp_path / "out.onnx", (inputs,))
    restore(tmp_path / "out.onnx", tmp_path / "plain.onnx")
    plain = onnx.load(tmp_path / "plain.onnx")
    onnx.checker.check_model(plain, full_check=True)
    assert run(plain, feeds(model, 3))[0].shape == (4, 10)


def test_the_same_request_gives_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    source, inputs = calibrated(tmp_path, TWINS["padded"])
    contents = []
    for threads in (1, 2):
        target = tmp_path / str(threads) / "out.onnx"
        target.parent.mkdir()
        compress(source, target, Request(target_ratio=1.5, calibration=(inputs,), drop_channels=0.3, threads=threads))
        contents.append(target.read_bytes())
    assert contents[0] == contents[1]


def test_excluded_weights_lose_no_channels(tmp_path: Path) -> None:
    model = TWINS["padded"]
    source, inputs = calibrated(tmp_path, model)
    compress(source, tmp_path / "out.onnx", Request(target_ratio=1.2, calibration=(inputs,), drop_channels=0.5, exclude=("^v$",)))
    restore(tmp_path / "out.onnx", tmp_path / "plain.onnx")
    plain = stored(onnx.load(tmp_path / "plain.onnx"))
    assert any(np.array_equal(array, stored(model)["v"]) for array in plain.values())


def test_a_fraction_out_of_range_or_without_data_is_refused() -> None:
    for fraction in (-0.1, 0.95, float("nan")):
        with pytest.raises(UsageError, match=r"from 0 to 0\.9"):
            Request(target_ratio=4, calibration=(Path("x.npz"),), drop_channels=fraction)
    with pytest.raises(UsageError, match="--calibration"):
        Request(target_ratio=4, drop_channels=0.1)
