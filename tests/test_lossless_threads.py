"""Tensors coded side by side: in order, within a bound of memory, and without waiting for the own pool."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from threading import Event, Lock, Timer

import numpy as np
import pytest
from onnx import numpy_helper
from onnx_compress.optimizer import lossless_tensors
from onnx_compress.optimizer.lossless_tensors import Coder
from onnx_compress.optimizer.lossless_threads import LARGE_BYTES, Threads, helped, in_order

from tests.lossless_models import constant_model, returns, weight


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_order(threads: int) -> None:
    with Threads(threads) as pool:
        found = list(in_order(lambda item: pool.submit(int.__neg__, item), range(50), lambda item: LARGE_BYTES if item % 7 == 3 else 1))
    assert found == [(item, -item) for item in range(50)]


def test_one_large_item_and_small_ones_of_its_size_are_begun_at_most() -> None:
    begun: list[int] = []
    sizes = [LARGE_BYTES, *[LARGE_BYTES // 4] * 6, LARGE_BYTES, 1]
    with Threads(1) as pool:

        def begin(item: int) -> Future[int]:
            begun.append(item)
            return pool.submit(int, item)

        results = in_order(begin, range(len(sizes)), sizes.__getitem__)
        next(results)
        assert begun == [0, 1, 2, 3, 4]
        assert len(list(results)) == len(sizes) - 1
    assert begun == list(range(len(sizes)))


def test_an_error_drops_what_was_not_begun() -> None:
    done: list[int] = []
    free = Event()
    with pytest.raises(KeyboardInterrupt), Threads(1) as pool:
        pool.submit(free.wait, 10)
        pool.submit(done.append, 1)
        Timer(0.2, free.set).start()
        raise KeyboardInterrupt
    assert not done


@pytest.mark.parametrize("threads", [1, 3])
def test_a_thread_of_the_pool_can_map_with_it(threads: int) -> None:
    lock, done = Lock(), []

    def note(item: int) -> int:
        with lock:
            done.append(item)
        return item * item

    with Threads(threads) as pool:
        found = [pool.submit(lambda: list(helped(pool)(note, range(20)))) for _ in range(threads)]
        assert [one.result(10) for one in found] == [[item * item for item in range(20)]] * threads
    assert sorted(done) == sorted([*range(20)] * threads)


def test_a_large_weight_is_begun_before_small_ones_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread plans it, the others have the small ones."""
    done: list[str] = []
    monkeypatch.setattr(lossless_tensors, "LARGE_BYTES", 1 << 16)
    for name in ("_look", "_make"):
        work = getattr(Coder, name)
        monkeypatch.setattr(Coder, name, lambda coder, item, name=name, work=work: done.append(f"{name} {item.tensor.size}") or work(coder, item))
    model = constant_model((64,), np.arange(64, dtype=np.float32).tobytes(), 1)
    model.graph.initializer.append(numpy_helper.from_array(weight(shape=(200, 100)), "large"))
    returns(tmp_path, model.SerializeToString(), threads=1)
    assert done == ["_make 20000", "_look 64"]
