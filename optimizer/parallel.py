"""Work spread over threads, with a bound on memory: large items one at a time, small ones side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

LARGE_VALUES = 1 << 22
"""Weights of more values (16 MB in float32) are worked on alone: each needs several times its own memory."""


def spread(work: Callable[[Item], Result], items: Sequence[Item], values: Callable[[Item], int], threads: int) -> list[Result]:
    """The results in the order of the items; `values` says how large an item is."""
    results: dict[int, Result] = {}
    for number, item in enumerate(items):
        if values(item) > LARGE_VALUES:
            results[number] = work(item)
    small = [number for number in range(len(items)) if number not in results]
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        results.update(zip(small, pool.map(lambda number: work(items[number]), small), strict=True))
    return [results[number] for number in range(len(items))]
