"""Restores a compressed model: a plain one, or the very original. What a lossy file needs takes longer to load than most lossless ones to restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .lossless_restore import LosslessRestored, is_lossless, restore_lossless

if TYPE_CHECKING:
    from .expand import RestoreReport


def restore(source: str | Path, target: str | Path, force: bool = False, rename_data: bool = False, threads: int = 0) -> RestoreReport | LosslessRestored:
    """Writes the plain model; of a lossless file the very original, with its data files. Raises UsageError, CompressError."""
    source, target = Path(source), Path(target)
    if is_lossless(source):
        return restore_lossless(source, target, force, rename_data, threads)
    from .expand import restore_lossy

    return restore_lossy(source, target, force)
