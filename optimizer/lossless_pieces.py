"""The pieces of an original file, made and stored by several threads and given in order (for `lossless_restore`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import FormatError
from .lossless_decode import PART_BYTES, Parts, data_of, decoded, tensor_bytes
from .lossless_source import READ_BYTES, Source
from .recipe import COPY_DATA, LITERAL, PART, PLAIN, TENSOR, Original, Recipe, Segment

AHEAD_BYTES = 64 << 20
"""Pieces that wait to be taken, beside the one that is next."""

SMALL_BYTES = 1 << 14
"""A smaller piece is made faster than it is given to another thread."""

KEPT_BUNDLES = 8
"""Payloads of several small weights that are kept decoded, until others are needed."""

Bytes = bytes | memoryview
Sink = Callable[[int, Bytes], object]
"""Stores bytes at a place of the file; several threads call it."""

Made = Iterable[tuple[int, Callable[[], Bytes]]]
"""(bytes, what makes them)."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes at `at` of an original file, and what makes them."""

    at: int
    size: int
    make: Callable[[], Bytes]

    def stored(self, sink: Sink) -> Bytes:
        """The bytes, made and given to `sink`. Raises FormatError where there are more or fewer."""
        made = self.make()
        if len(made) != self.size:
            raise FormatError(f"a piece has {len(made)} bytes, its place {self.size}")
        sink(self.at, made)
        return made


class _Ahead:
    """Pieces that several threads make and store, in order; the one that waits for the next makes what none has begun."""

    def __init__(self, pieces: Iterator[Piece], threads: int, sink: Sink) -> None:
        self._pieces, self._sink, self._pool = pieces, sink, ThreadPoolExecutor(threads - 1)
        self._begun, self._waiting, self._following = deque[tuple[Piece, Future[Bytes]]](), 0, next(pieces, None)

    def __iter__(self) -> Generator[Bytes, None, None]:
        try:
            self._begin()
            while self._begun:
                while not self._begun[0][1].done() and self._help():
                    pass
                piece, future = self._begun.popleft()
                made = future.result()
                self._waiting -= piece.size
                self._begin()
                yield made
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """As many as may wait."""
        while (piece := self._following) and (not self._begun or self._waiting + piece.size <= AHEAD_BYTES):
            self._begun.append((piece, self._pool.submit(piece.stored, self._sink) if piece.size >= SMALL_BYTES else self._done(piece)))
            self._waiting, self._following = self._waiting + piece.size, next(self._pieces, None)

    def _help(self) -> bool:
        """Makes the first piece that nobody has begun; false where there is none."""
        at = next((at for at, (_, future) in enumerate(self._begun) if future.cancel()), None)
        if at is not None:
            self._begun[at] = self._begun[at][0], self._done(self._begun[at][0])
        return at is not None

    def _done(self, piece: Piece) -> Future[Bytes]:
        future = Future[Bytes]()
        future.set_result(piece.stored(self._sink))
        return future


def in_order(pieces: Iterator[Piece], threads: int, sink: Sink) -> Generator[Bytes, None, None]:
    """The bytes of all pieces, stored in `sink` already; `threads` threads make them, the caller's among them."""
    return (piece.stored(sink) for piece in pieces) if threads == 1 else _Ahead(pieces, threads, sink).__iter__()


def pieces_of(held: Source, recipe: Recipe, file: Original) -> Iterator[Piece]:
    """The pieces of an original file, in order. Raises FormatError, CompressError, IndexError."""
    if (size := sum(segment.size for segment in file.segments)) != file.size:
        raise FormatError(f"its record says how to make {size:,} bytes of {file.size:,}")
    whole = lru_cache(KEPT_BUNDLES)(lambda number: decoded(held, recipe.payloads[number])[1])
    at = 0
    for segment in file.segments:
        for size, make in _made(held, recipe, segment, whole):
            yield Piece(at, size, make)
            at += size


def _made(held: Source, recipe: Recipe, segment: Segment, whole: Callable[[int], NDArray[np.uint8]]) -> Made:
    if segment.kind == LITERAL:
        return [(segment.size, lambda: recipe.literals[segment.at : segment.at + segment.size])]
    if segment.kind != TENSOR:
        return _copies(held, segment)
    if segment.manner == PART:
        return [(segment.size, partial(_part, whole, segment))]
    place = recipe.payloads[segment.at]
    parts = Parts.of(held, place, segment.size) if segment.manner == PLAIN and segment.size >= 2 * PART_BYTES else None
    return parts or [(segment.size, partial(tensor_bytes, held, place, segment))]


def _copies(held: Source, segment: Segment) -> Made:
    file, end = data_of(held, segment.kind == COPY_DATA), segment.at + segment.size
    for at in range(segment.at, end, READ_BYTES):
        size = min(READ_BYTES, end - at)
        yield size, partial(_copied, held, file, at, size)


def _copied(held: Source, file: str, at: int, size: int) -> Bytes:
    return held.read(file, at, size).data


def _part(whole: Callable[[int], NDArray[np.uint8]], segment: Segment) -> Bytes:
    """A tensor's bytes, of a payload that several share."""
    found = whole(segment.at)
    if not 0 <= segment.start <= len(found) - segment.size:
        raise FormatError(f"a tensor of {segment.size} bytes at {segment.start} of a payload of {len(found)}")
    return found[segment.start : segment.start + segment.size].data
