"""The original files of a lossless compression, open: bytes are read where they are, in blocks (for `lossless`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import numba
import numpy as np
from numpy.typing import NDArray

from ..passes.exact_forms import as_float
from . import exact
from .errors import CompressError
from .protos import Model, Tensor
from .wire import mapped

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
READ_BYTES = 8 << 20
COMPARED_BYTES = 1 << 16
"""What is read and compared at a time: it stays in the second cache, and memory for it need not come from the system anew."""


class Source:
    """The original files, open: `with Source(path) as held`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self.data = opened.enter_context(mapped(self.path))
            self._opened, self._numbers, self._opening = opened.pop_all(), dict[str, int](), Lock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.__exit__(kind, error, trace)

    def _number(self, location: str) -> int:
        """The descriptor of the model, or of a data file; opened once."""
        with self._opening:
            if location not in self._numbers:
                try:
                    self._numbers[location] = os.open(self.path.parent / (location or self.path.name), os.O_RDONLY)
                except OSError:
                    raise CompressError(
                        f"the data file {self.path.parent / location} of {self.path} is missing or cannot be read: put it where the model refers to, under that name"
                    ) from None
                self._opened.callback(os.close, self._numbers[location])
            return self._numbers[location]

    def size(self, location: str = "") -> int:
        """Bytes of the model, or of a data file."""
        return os.fstat(self._number(location)).st_size

    def read(self, location: str, start: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the model, or of a data file. Raises CompressError, before anything is allocated, where it has no such bytes."""
        self.check(location, start, size)
        out = np.empty(size, np.uint8)
        self.fill(location, start, out)
        return out

    def fill(self, location: str, start: int, out: NDArray[np.uint8]) -> None:
        """The same into memory that is there. Raises CompressError."""
        view, at = out.data, 0
        while at < len(view):
            got = os.preadv(self._number(location), [view[at:]], start + at)
            if got == 0:
                self.check(location, start, len(view))  # it has become shorter since
            at += got

    def check(self, location: str, start: int, size: int) -> None:
        """Raises CompressError where a file has no such bytes."""
        if start < 0 or size < 0 or start + size > self.size(location):
            file = self.path.parent / location if location else self.path
            raise CompressError(f"{file} has {self.size(location):,} bytes, and {size:,} at {start:,} are asked for: it is damaged, or only a part of a file; copy or export it again")

    def blocks(self, location: str, start: int, end: int) -> Iterator[memoryview]:
        """The same in blocks."""
        for at in range(start, end, READ_BYTES):
            yield self.read(location, at, min(READ_BYTES, end - at)).data

    def holds(self, location: str, start: int, data: bytes | memoryview) -> bool:
        """Whether the bytes of the model, or of a data file, from `start` on are these. Raises CompressError where it cannot be read."""
        wanted, number = np.frombuffer(data, np.uint8), self._number(location)
        block = np.empty(min(COMPARED_BYTES, len(wanted)), np.uint8)
        at = 0
        while at < len(wanted):
            got = os.preadv(number, [block[: len(wanted) - at].data], start + at)
            if not got or not _same(block[:got], wanted[at : at + got]):
                return False
            at += got
        return True

    def span(self, tensor: Tensor) -> tuple[str, int, int] | None:
        """Where a tensor's values are: (file, start, end)."""
        if tensor.data is not None:
            return "", *tensor.data
        if tensor.external is None:
            return None
        location, start, length = tensor.external
        length = exact.stored_bytes(tensor.dtype, tensor.size) if length < 0 and exact.is_known(tensor.dtype) else length
        return location, start, start + max(length, 0)

    def spans(self, model: Model) -> list[tuple[str, int, int]]:
        """Where the data files hold values of a model's tensors, sorted, each place once."""
        return sorted({span for tensor in model.tensors() if tensor.external is not None and (span := self.span(tensor)) is not None and span[2] > span[1]})

    def stored_bytes(self, tensor: Tensor) -> int:
        """Bytes of a tensor's values."""
        span = self.span(tensor)
        return 0 if span is None else span[2] - span[1]


@numba.njit(cache=True, nogil=True)
def _same(one: NDArray, other: NDArray) -> bool:
    """Whether bytes [n] are those of another [n]."""
    differences = np.uint8(0)
    for at in range(len(one)):
        differences = np.uint8(differences | np.uint8(one[at] ^ other[at]))
    return bool(differences == 0)


def widened(raw: NDArray[np.uint8], dtype: int) -> NDArray[np.uint8]:
    """The bytes of 16-bit floats as float32."""
    return as_float(raw.view("<u2"), dtype).view(np.uint8)


def gaps(held: Source, model: Model) -> list[tuple[str, int, int]]:
    """The stretches of the data files that no tensor refers to, as (file, start, end). Raises CompressError where tensors overlap."""
    found = []
    for location, spans in groupby(held.spans(model), itemgetter(0)):
        at = 0
        for _, start, end in spans:
            if start < at:
                raise CompressError(f"tensors overlap in the data file {location} at byte {start}: save the model again with onnx.save")
            if start > at:
                found.append((location, at, start))
            at = end
        if at < held.size(location):
            found.append((location, at, held.size(location)))
    return found
