"""Restoring with several threads: pieces come in order and once, large tensors in parts, and failures are seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, get_ident

import numpy as np
import pytest
from lossless_models import constant_model, pressed
from onnx import TensorProto
from onnx_compress.optimizer import flush, lossless_decode, restore
from onnx_compress.optimizer.flush import Flushed, Stream
from onnx_compress.optimizer.lossless_pieces import Piece, in_order
from onnx_compress.optimizer.lossless_threads import Threads
from onnx_compress.runtime.errors import FormatError

SIZE = 1 << 15


def _pieces(count: int) -> list[Piece]:
    return [Piece(at * SIZE, SIZE, lambda at=at: bytes([at]) * SIZE) for at in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_come_in_order_and_are_stored_once(threads: int) -> None:
    stored: list[int] = []
    found = list(in_order(iter(_pieces(40)), threads, lambda at, _: stored.append(at)))
    assert [piece[0] for piece in found] == list(range(40))
    assert sorted(stored) == [at * SIZE for at in range(40)]


def test_one_thread_makes_a_piece_only_when_the_one_before_was_taken() -> None:
    made: list[int] = []
    pieces = in_order(iter(_pieces(3)), 1, lambda at, _: made.append(at))
    next(pieces), next(pieces)
    assert made == [0, SIZE]


def test_the_thread_that_waits_makes_what_nobody_has_begun() -> None:
    free, here = Event(), []

    def first() -> bytes:
        free.wait(10)
        return bytes(SIZE)

    def second() -> bytes:
        here.append(get_ident())
        free.set()
        return bytes(SIZE)

    assert len(list(in_order(iter([Piece(0, SIZE, first), Piece(SIZE, SIZE, second)]), 2, lambda *_: None))) == 2
    assert here == [get_ident()]


def test_nothing_is_stored_once_the_pieces_are_closed() -> None:
    stored: list[int] = []

    def slow() -> bytes:
        time.sleep(0.05)
        return bytes(SIZE)

    pieces = in_order(iter(Piece(at * SIZE, SIZE, slow) for at in range(40)), 4, lambda at, _: stored.append(at))
    next(pieces)
    pieces.close()
    before = len(stored)
    time.sleep(0.2)
    assert len(stored) == before < 40


@pytest.mark.parametrize("threads", [1, 2])
def test_a_piece_of_another_size_is_refused(threads: int) -> None:
    with pytest.raises(FormatError, match="its place"):
        list(in_order(iter([*_pieces(3), Piece(0, SIZE + 1, lambda: bytes(SIZE))]), threads, lambda *_: None))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("external", [False, True])
def test_a_tensor_in_parts_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, external: bool) -> None:
    monkeypatch.setattr(lossless_decode, "PART_BYTES", 1 << 16)
    monkeypatch.setattr("onnx_compress.optimizer.lossless_pieces.PART_BYTES", 1 << 16)
    values = (np.random.default_rng(0).normal(size=(6000, 100)) * 2.0 ** np.arange(100)).astype(np.float32)  # its columns differ, so they are classes
    source, target, _ = pressed(tmp_path, constant_model(values.shape, values.tobytes(), TensorProto.FLOAT).SerializeToString(), external_data=external)
    parts: list[tuple[int, int]] = []
    decode = lossless_decode.library.decode
    monkeypatch.setattr(lossless_decode.library, "decode", lambda *given, **named: parts.append(named.get("part", (0, 1))) or decode(*given, **named))
    restore(target, tmp_path / "back.onnx", threads=threads)
    assert (tmp_path / "back.onnx").read_bytes() == source.read_bytes()
    assert max(many for _, many in parts) > 1


def test_a_flushed_file_has_its_bytes_and_a_full_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "FLUSHED_BYTES", 10)
    with Flushed(tmp_path / "file") as file:
        for at in range(90, -1, -10):
            file.store(at, bytes([at]) * 10)
        file.sync()
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([at]) * 10 for at in range(0, 100, 10))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), Flushed(tmp_path / "other") as file:
        monkeypatch.setattr(os, "fsync", full)
        file.store(0, bytes(10))
        monkeypatch.undo()  # the disk has room again: what was lost is seen all the same
        file.sync()


def test_a_stream_writes_pieces_in_order_even_where_the_system_takes_a_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "STORED_BYTES", 100)
    whole = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda file, pieces, at: whole(file, [b"".join(pieces)[:70]], at))
    pieces = [bytes([number]) * (number % 50) for number in range(256)]
    with Threads(3) as pool, Flushed(tmp_path / "file") as file:
        stream = Stream(file, pool)
        for piece in pieces:
            stream.write(piece)
        stream.finish()
        assert stream.at == sum(map(len, pieces))
        assert file.load(0, stream.at) == b"".join(pieces)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_lossless_file_is_restored_without_what_only_lossy_ones_need(tmp_path: Path) -> None:
    source, target, _ = pressed(tmp_path, constant_model((64, 64), np.linspace(0, 1, 4096, dtype=np.float32).tobytes(), TensorProto.FLOAT).SerializeToString())
    words = ["restore", str(target), str(tmp_path / "back.onnx")]
    code = f"import sys; from onnx_compress.optimizer import cli; assert cli.main({words!r}) == 0; sys.exit('onnx_ir' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "back.onnx").read_bytes() == source.read_bytes()
