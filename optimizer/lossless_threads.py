"""Tensors coded side by side, with a bound on memory, and given in order (for `lossless_tensors`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ..passes.top_counts import Map

LARGE_BYTES = 32 << 20
"""Tensors from here on are coded one at a time, their chunks side by side, beside smaller ones of as many bytes together."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads(ThreadPoolExecutor):
    """Threads whose block waits for what runs when it ends, by an error too, and drops what has not begun."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def in_order(begin: Callable[[Item], Future[Result]], items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[tuple[Item, Result]]:
    """(item, the result of what it `begin`s), in the order of the items; they are begun ahead, as far as memory allows. `size`: bytes of an item."""
    left, begun = deque(items), deque[tuple[Item, Future[Result]]]()
    large = small = 0
    while left or begun:
        while left and (not large if size(left[0]) >= LARGE_BYTES else not small or small + size(left[0]) <= LARGE_BYTES):
            begun.append((left[0], begin(left[0])))
            large, small = _counted(large, small, size(left.popleft()), 1)
        item, future = begun.popleft()
        yield item, future.result()
        large, small = _counted(large, small, size(item), -1)


def _counted(large: int, small: int, size: int, by: int) -> tuple[int, int]:
    return (large + by, small) if size >= LARGE_BYTES else (large, small + by * size)


def helped(pool: ThreadPoolExecutor) -> Map:
    """`map` for a thread of `pool`: it does, from the last item on, what no other thread has begun, and so never waits for its own pool."""

    def work(do: Callable[[Item], Result], items: Iterable[Item]) -> Sequence[Result]:
        todo = list(items)
        futures = [pool.submit(do, item) for item in todo]
        own = {at: do(todo[at]) for at in reversed(range(len(todo))) if futures[at].cancel()}
        return [own[at] if at in own else future.result() for at, future in enumerate(futures)]

    return work
