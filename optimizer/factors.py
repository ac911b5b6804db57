"""Keeps the factors of second moments until their weights are coded: in memory while they are few, else on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from ..passes.feedback import Factor

HELD_BYTES = 128 << 20
"""Factors kept in memory; the others are files in the scratch folder, read when they are needed."""


class Factors:
    """`Factors(scratch)`: by the weights' names. The scratch folder is made when it is first needed, and belongs to the caller."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._bytes = scratch, 0
        self._held: dict[str, Factor] = {}
        self._files: dict[str, Path] = {}
        self._lock = threading.Lock()

    def hold(self, name: str, factor: Factor) -> Callable[[], Factor]:
        """Keeps a factor; gives what fetches it."""
        size = factor.gains.nbytes + factor.variances.nbytes
        with self._lock:
            if self._bytes + size <= HELD_BYTES:
                self._held[name] = factor
                self._bytes += size
                return partial(self.get, name)
            self._scratch.mkdir(parents=True, exist_ok=True)
            path = self._files[name] = self._scratch / f"{len(self._files)}.npz"
        np.savez(path, gains=factor.gains, variances=factor.variances)
        return partial(self.get, name)

    def __contains__(self, name: str) -> bool:
        return name in self._held or name in self._files

    def get(self, name: str) -> Factor:
        """The factor of a weight. Raises KeyError."""
        if name in self._held:
            return self._held[name]
        with np.load(self._files[name]) as archive:
            return Factor(archive["gains"], archive["variances"])
