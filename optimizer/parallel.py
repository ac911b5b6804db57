"""Work spread over threads, with a bound on memory: large items one at a time, small ones side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGE_VALUES = 1 << 22
"""Weights of more values (16 MB in float32) are worked on alone: each needs several times its own memory."""


def spread(work: Callable[[Item], Result], items: Sequence[Item], values: Callable[[Item], int], threads: int) -> list[Result]:
    """The results in the order of the items; `values` says how large an item is.

    The caller's thread only waits, so that Ctrl-C reaches it at once: then nothing more begins, and what runs is not waited for.
    """
    results: dict[int, Result] = {}
    pool = ThreadPoolExecutor(max(threads, 1))
    try:
        for number, item in enumerate(items):
            if values(item) > LARGE_VALUES:
                results[number] = pool.submit(work, item).result()
        small = {number: pool.submit(work, item) for number, item in enumerate(items) if number not in results}
        results.update((number, future.result()) for number, future in small.items())
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
    return [results[number] for number in range(len(items))]


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """The results in the order of the items; as many as there are threads are made ahead, while the caller uses those before."""
    if threads == 1:
        yield from map(work, items)
        return
    pool, left = ThreadPoolExecutor(threads), iter(items)
    try:
        begun = deque(pool.submit(work, item) for item in islice(left, threads))
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(work, item) for item in islice(left, 1))
            yield result
    except BaseException as error:
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
