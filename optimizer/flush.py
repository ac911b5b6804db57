"""Files whose bytes go to the disk while more of them are made."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

FLUSHED_BYTES = 8 << 20
"""What is worth a flush of its own."""


class Flushed:
    """A new file that several threads write into: `with Flushed(path) as file: file.store(at, data)`; then all of it is on the disk.

    A thread of its own waits for the disk. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock, self._waiting = path, Lock(), 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Self:
        self._file = self._path.open("wb", buffering=0)
        self._disk = ThreadPoolExecutor(1)
        return self

    def store(self, at: int, data: bytes | memoryview) -> None:
        """Writes `data` from byte `at` on."""
        view, written = memoryview(data), 0
        while written < len(view):
            written += os.pwrite(self._file.fileno(), view[written:], at + written)
        with self._lock:
            self._waiting += written
            if self._waiting >= FLUSHED_BYTES and (self._flush is None or self._flush.done()):
                self._begin()

    def _begin(self) -> None:
        if self._flush:
            self._flush.result()  # the kernel tells of a failure once
        self._waiting, self._flush = 0, self._disk.submit(os.fsync, self._file.fileno())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._disk.shutdown(wait=True)
        with self._file:
            if kind is None:
                if self._flush:
                    self._flush.result()
                os.fsync(self._file.fileno())
