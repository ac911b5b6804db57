"""Files whose bytes go to the disk while more of them are made."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Self

Bytes = bytes | memoryview

STORED_BYTES, MOST_PIECES = 1 << 20, 512
"""What is gathered before it is written. Systems take 1,024 pieces at once."""

MOST_STORING = 8
"""Writes that may wait."""

FLUSHED_BYTES = 8 << 20
"""What is worth a flush of its own."""


class Flushed:
    """A new file that several threads write into: `with Flushed(path) as file: file.store(at, data)`. A thread of its own waits for the disk.

    Raises OSError, when the block ends at the latest.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._waiting = path, Lock(), 0
        self._flushes = deque[Future[None]]()

    def __enter__(self) -> Self:
        self._file = self._path.open("w+b", buffering=0)
        self._disk = ThreadPoolExecutor(1)
        return self

    def store(self, at: int, *pieces: Bytes) -> None:
        """Writes all pieces, one behind the other, from byte `at` on."""
        written = os.pwritev(self._file.fileno(), pieces, at)
        if written < (size := sum(map(len, pieces))):  # the disk is about to be full, or a signal came
            rest = memoryview(b"".join(pieces))
            while written < size:
                written += os.pwrite(self._file.fileno(), rest[written:], at + written)
        with self._lock:
            self._waiting += written
            if self._waiting >= FLUSHED_BYTES:
                self._begin()

    def load(self, at: int, size: int) -> bytes:
        """At most `size` of the bytes that were stored from byte `at` on."""
        return os.pread(self._file.fileno(), size, at)

    def flush(self) -> None:
        """Begins to flush what was stored, where that is not so little that it may as well wait for the end."""
        with self._lock:
            if self._waiting >= STORED_BYTES:
                self._begin()

    def _begin(self) -> None:
        """One flush may wait for another, which has perhaps begun too early for it."""
        while self._flushes and self._flushes[0].done():
            self._flushes.popleft().result()  # the kernel tells of a failure once
        if len(self._flushes) < 2:
            self._waiting = 0
            self._flushes.append(self._disk.submit(os.fsync, self._file.fileno()))

    def sync(self) -> None:
        """Waits until all is on the disk."""
        os.fsync(self._file.fileno())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._disk.shutdown(wait=True)
        self._file.close()
        for flush in self._flushes if kind is None else ():
            flush.result()


class Stream:
    """Bytes that go into a file one after the other, stored by the threads of `pool`."""

    def __init__(self, file: Flushed, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool, self.at = file, pool, 0
        self._gathered: list[Bytes] = []
        self._gathered_bytes = 0
        self._storing = deque[Future[None]]()

    def write(self, data: Bytes) -> None:
        """More of them, from byte `at` on; `data` must stay as it is until `finish`."""
        self._gathered.append(data)
        self._gathered_bytes, self.at = self._gathered_bytes + len(data), self.at + len(data)
        if self._gathered_bytes >= STORED_BYTES or len(self._gathered) == MOST_PIECES:
            self._store()

    def finish(self) -> None:
        """Waits until all are stored. Raises OSError."""
        self._file.store(self.at - self._gathered_bytes, *self._gathered)  # no thread is as fast as none for what may be little
        self._gathered, self._gathered_bytes = [], 0
        while self._storing:
            self._storing.popleft().result()

    def _store(self) -> None:
        self._storing.append(self._pool.submit(self._file.store, self.at - self._gathered_bytes, *self._gathered))
        self._gathered, self._gathered_bytes = [], 0
        if len(self._storing) > MOST_STORING:
            self._storing.popleft().result()
