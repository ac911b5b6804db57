"""The comparison with peers (benchmarks/rate): its curves, its coders, and the graph that all weight-only peers share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.rate import coders, report, rows
from benchmarks.rate.cases import CASES
from benchmarks.rate.curve import Reached, envelope, geometric_mean, reached
from benchmarks.rate.slim import Slim
from models.transformers import argmax_classifier

ROW = rows.Row("model", "method", "a", 100, 4.0, "top1", 0.9, "kl", 0.001, 1.5, "a processor, with a comma")
CURVE = [ROW, replace(ROW, setting="b", ratio=7.0, divergence=0.2), replace(ROW, setting="c", ratio=16.0, divergence=0.1)]


def test_rows_come_back_from_their_file_and_the_last_one_of_a_key_counts(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    assert rows.read(path) == {}
    for row in (ROW, replace(ROW, setting="b"), replace(ROW, ratio=5.0)):
        rows.append(path, row)
    assert rows.read(path) == {ROW.key: replace(ROW, ratio=5.0), ("model", "method", "b"): replace(ROW, setting="b")}


def test_a_file_that_another_one_beats_is_on_no_envelope() -> None:
    assert [row.setting for row in envelope(CURVE)] == ["a", "c"]
    assert [row.setting for row in envelope([*CURVE, replace(ROW, ratio=30.0, divergence=float("nan"))])] == ["a", "c"]


def test_a_ratio_between_two_files_is_linear_in_both_logarithms() -> None:
    found = reached(CURVE, 0.01)
    assert found is not None
    assert np.isclose(found.ratio, 8)
    assert not found.at_most


def test_a_divergence_off_the_curve_gives_a_bound_below_and_the_last_file_above() -> None:
    assert reached(CURVE, 0.0001) == Reached(4.0, at_most=True)
    assert reached(CURVE, 3.0) == Reached(16.0)
    assert reached([], 3.0) is None
    assert np.isclose(geometric_mean([2, 8]), 4)


def test_the_tables_compare_at_the_divergence_of_our_file_at_the_bar() -> None:
    case = CASES[0]
    bar = replace(ROW, model=case.model, method=report.OURS, setting=f"{case.bar:g}x", ratio=case.bar, divergence=0.01)
    peers = [replace(row, model=case.model, method="NNCodec") for row in CURVE]
    text = report.tables(report.by_curve([bar, *peers]))
    assert f"| {case.model} | {case.bar:.2f} | 8.00 |" in text
    assert f"{case.bar / 8:.2f}x |" in text
    assert "not measured yet" in report.tables(report.by_curve(peers))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_simple_coders_count_no_less_than_the_entropy_and_decode_to_few_values(bits: int) -> None:
    array = np.random.default_rng(0).laplace(0, 0.1, (64, 200)).astype(np.float32)
    for code, values in ((coders.rounded, 2**bits - 1), (coders.clustered, 2**bits)):
        coded = code({"w": array}, bits)
        decoded = coded.weights["w"]
        symbols = decoded if code is coders.clustered else decoded / np.where(decoded.any(1), np.abs(decoded).max(1), 1)[:, None]
        counts = np.unique(np.round(symbols, 5), return_counts=True)[1]
        assert len(counts) <= values
        assert coded.bytes >= 0.999 * coders._entropy_bits(counts) / 8
        assert coded.bytes <= array.size * bits / 8 + 3 * max(values, len(array))


def test_huffman_codes_of_powers_of_two_are_as_long_as_the_entropy() -> None:
    assert coders._huffman_bits(np.array([8, 4, 2, 1, 1, 0])) == 8 + 8 + 6 + 4 + 4
    assert coders._huffman_bits(np.array([0, 5])) == 5


def test_the_slimmed_graph_of_the_peers_runs_with_any_weights_and_counts_all_else(tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(argmax_classifier(1), source)
    slim = Slim(source)
    slim.write(slim.weights, target)
    sizes = sum(array.nbytes for array in slim.weights.values())
    assert target.stat().st_size == slim.graph_bytes + sizes
    feed = {"input_ids": np.arange(12).reshape(2, 6), "attention_mask": np.ones((2, 6), np.int64)}
    before, after = (onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0] for path in (source, target))
    assert np.allclose(before, after, atol=0.01)
    slim.write({name: np.zeros_like(array) for name, array in slim.weights.items()}, target)
    assert target.stat().st_size == slim.graph_bytes + sizes
