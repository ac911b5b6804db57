"""Work spread over threads: in order, large items alone, few ahead, and no waiting where it is interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from onnx_compress.optimizer.parallel import LARGE_VALUES, ahead, spread


class Interrupted(BaseException):
    """What Ctrl-C is."""


def test_work_is_spread_in_order_with_large_items_alone() -> None:
    running, most = [0], [0]

    def work(item: int) -> int:
        running[0] += 1
        most[0] = max(most[0], running[0]) if item > LARGE_VALUES else most[0]
        time.sleep(0.01)
        running[0] -= 1
        return -item

    items = [3, LARGE_VALUES + 1, 5, LARGE_VALUES + 2, 7]
    assert spread(work, items, lambda item: item, 4) == [-item for item in items]
    assert most == [1]


@pytest.mark.parametrize("run", [lambda work, items: spread(work, items, lambda _: 1, 2), lambda work, items: list(ahead(work, items, 2))], ids=["spread", "ahead"])
def test_an_interruption_does_not_wait_for_what_has_not_begun(run: Callable[..., object]) -> None:
    begun: list[int] = []
    released = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            raise Interrupted
        released.wait(20)
        return item

    since = time.monotonic()
    with pytest.raises(Interrupted):
        run(work, range(50))
    assert time.monotonic() - since < 10
    released.set()
    assert len(begun) <= 4


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_few_are_made_ahead(threads: int) -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.002 * (item % 3))
        return -item

    for number, result in enumerate(ahead(work, range(20), threads)):
        assert result == -number
        assert len(begun) <= number + 1 + threads * (threads > 1)
    assert sorted(begun) == list(range(20))


def test_what_fails_ahead_is_raised_in_its_turn() -> None:
    results = ahead(lambda item: 1 // (3 - item), range(9), 2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
