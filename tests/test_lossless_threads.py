"""Tensors coded side by side: in order, within a bound of memory, and without waiting for the own pool."""

from __future__ import annotations

from threading import Event, Lock, Timer

import pytest
from onnx_compress.optimizer.lossless_threads import LARGE_BYTES, Threads, helped, in_order


@pytest.mark.parametrize("threads", [1, 4])
def test_results_come_in_order(threads: int) -> None:
    with Threads(threads) as pool:
        found = list(in_order(pool, lambda item: -item, range(50), lambda item: LARGE_BYTES if item % 7 == 3 else 1))
    assert found == [(item, -item) for item in range(50)]


def test_one_large_item_and_small_ones_of_its_size_are_begun_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    sizes = [LARGE_BYTES, *[LARGE_BYTES // 4] * 6, LARGE_BYTES, 1]
    with Threads(1) as pool:
        submit = pool.submit
        monkeypatch.setattr(pool, "submit", lambda work, item: begun.append(item) or submit(work, item))
        results = in_order(pool, lambda item: item, range(len(sizes)), sizes.__getitem__)
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
