"""Calibration data: arrays keyed by input name in .npz files, checked against the model's inputs and cut into small batches.

One file with samples along axis 0, several files, or a folder of files (one batch each, lengths may differ from file to file).
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .errors import UsageError

Feed = dict[str, NDArray[np.generic]]
"""One batch: arrays by input name."""

BATCH = 8
BATCH_VALUES = 1 << 19
"""Samples and input values in a batch at most: the activations of one batch are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A graph input: its name, numpy dtype and sizes (a number, a symbol, or None for anything); `dims` is None for any rank."""

    name: str
    dtype: np.dtype[np.generic]
    dims: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        sizes = "any shape" if self.dims is None else "[" + ", ".join(str(size or "?") for size in self.dims) + "]"
        return f"{self.dtype} {sizes}"


def wanted(inputs: Sequence[ir.Value]) -> tuple[Wanted, ...]:
    """What the model takes. Raises UsageError for inputs that are no tensors of numbers."""
    found = []
    for value in inputs:
        if not isinstance(value.type, ir.TensorType) or value.dtype in (None, ir.DataType.STRING, ir.DataType.UNDEFINED):
            raise UsageError(f"input {value.name} of the model is no tensor of numbers: such models cannot be run for measuring")
        dims = None if value.shape is None else tuple(_size(d) for d in value.shape)
        found.append(Wanted(str(value.name), np.dtype(value.dtype.numpy()), dims))
    return tuple(found)


def _size(dim: int | ir.SymbolicDim) -> int | str | None:
    """A size, the symbol of one, or None where it is open: some exporters write -1 for that."""
    size = dim if isinstance(dim, int) else dim.value
    return None if isinstance(size, int) and size < 0 else size


def load_calibration(paths: Sequence[str | Path], inputs: Sequence[ir.Value]) -> tuple[Feed, ...]:
    """All batches, in the order of the files. Raises UsageError with a sentence that names file, array, what is expected and what is there."""
    inputs_wanted = wanted(inputs)
    feeds: list[Feed] = []
    for file in _files(paths):
        arrays = _read(file)
        _check_names(file, arrays, inputs_wanted)
        fitted = {one.name: _fitted(f"{file}: {one.name}", arrays[one.name], one) for one in inputs_wanted}
        feeds += split(file, fitted, {one.name: one for one in inputs_wanted})
    return tuple(feeds)


def samples(feeds: Sequence[Feed]) -> int:
    """Samples in all feeds: the largest first dimension of each."""
    return sum(max((array.shape[0] for array in feed.values() if array.ndim), default=1) for feed in feeds)


def masked(feed: Mapping[str, NDArray[np.generic]]) -> NDArray[np.bool_] | None:
    """Which positions count: the input called *mask* that is made of zeros and ones, [N, T]; None where all count."""
    for name, array in sorted(feed.items()):
        mask = (
            array.reshape(array.shape[0], array.shape[-1]) if array.ndim >= 2 and array.size == array.shape[0] * array.shape[-1] else array
        )
        if "mask" in name.lower() and mask.ndim and np.isin(mask, (0, 1)).all() and not mask.all() and mask.any():
            return np.asarray(mask, dtype=np.bool_)
    return None


def split(file: Path | str, arrays: Mapping[str, NDArray[np.generic]], inputs: Mapping[str, Wanted]) -> list[Feed]:
    """The samples of one file in batches that the model takes; arrays without samples go into every batch."""
    sampled = _sampled(file, arrays, inputs)
    if not sampled:
        return [dict(arrays)]
    count = next(iter(sampled.values()))
    step = min([BATCH, *(max(1, BATCH_VALUES * count // max(arrays[name].size, 1)) for name in sampled)])
    fixed = {size for name in sampled if isinstance(size := _first(inputs[name]), int)}
    if fixed:
        step = fixed.pop()
        if fixed or count % step:
            raise UsageError(f"{file} has {count} samples, but the model takes them {step} at a time: give a multiple of {step}")
    starts = range(0, count, step)
    return [_trimmed({n: a[at : at + step] if n in sampled else a for n, a in arrays.items()}, sampled, inputs) for at in starts]


def _files(paths: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"the calibration data {path} does not exist: check the name and the folder")
        found = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"the folder {path} has no .npz files: put the calibration batches there, saved with numpy.savez")
        files += found
    return files


def _read(file: Path) -> dict[str, NDArray[np.generic]]:
    """All arrays of an .npz file; nothing in it is ever executed."""
    try:
        with file.open("rb") as stream:  # numpy leaves a broken file open
            archive = np.load(stream, allow_pickle=False)
            found = {name: _entry(file, archive, name) for name in archive.files} if isinstance(archive, np.lib.npyio.NpzFile) else None
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror or error}): check its permissions") from None
    except (ValueError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, AttributeError, TypeError, zlib.error, KeyError):
        raise UsageError(f"{file} is no whole .npz file: write it with numpy.savez, one array for each input of the model") from None
    if found is None:
        raise UsageError(f"{file} is a single array: save it by the name of its input, numpy.savez({str(file)!r}, INPUT=array)")
    return found


def _entry(file: Path, archive: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.generic]:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise UsageError(
                f"{file}: {name} holds pickled objects, which are never loaded: save it as an array of numbers, of one shape"
            ) from None
        raise


def _check_names(file: Path, arrays: Mapping[str, object], inputs: Sequence[Wanted]) -> None:
    listed = ", ".join(f"{one.name} ({one})" for one in inputs) or "none"
    known = {one.name for one in inputs}
    for name in arrays:
        if name not in known:
            raise UsageError(f"{file}: {name} is no input of the model: its inputs are {listed}; name the arrays so")
    for one in inputs:
        if one.name not in arrays:
            there = ", ".join(arrays) or "nothing"
            raise UsageError(f"{file} has no array {one.name} ({one}), only {there}: add it; the model's inputs are {listed}")


def _fitted(what: str, array: NDArray[np.generic], one: Wanted) -> NDArray[np.generic]:
    """The array in the input's dtype, once rank, sizes, dtype and values have been found right."""
    found = f"{what} is {array.dtype} {list(array.shape)}, the model takes {one}"
    if one.dims is not None and array.ndim != len(one.dims):
        raise UsageError(f"{found}: give it {len(one.dims)} axes" + (", the samples along the first" if one.dims else ", a single number"))
    for axis, size in enumerate(one.dims or ()):
        if isinstance(size, int) and (array.shape[axis] != size if axis else size and array.shape[0] % size):
            hint = "give the samples that size" if axis else f"give a multiple of {size} samples"
            raise UsageError(f"{found}, axis {axis} does not fit: {hint}")
    if array.ndim and array.shape[0] == 0:
        raise UsageError(f"{found}: it has no samples; give at least one")
    converted = _converted(array, one.dtype)
    if converted is None:
        raise UsageError(f"{found}: save it as {one.dtype}, with values as the model gets them after preprocessing")
    if _is_float(converted.dtype) and not np.isfinite(converted).all():
        sample = int(np.argwhere(~np.isfinite(np.atleast_1d(converted)))[0, 0])
        raise UsageError(
            f"{what} holds NaN or infinite values, or numbers too large for {one.dtype}, first in sample {sample}: leave such samples out"
        )
    return converted


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _converted(array: NDArray[np.generic], dtype: np.dtype[np.generic]) -> NDArray[np.generic] | None:
    """Floats to floats, integers to integers that hold the very same numbers; None for anything else."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        if _is_float(array.dtype) and _is_float(dtype):
            return array.astype(dtype)
        if array.dtype.kind in "iub" and dtype.kind in "iub":
            converted = array.astype(dtype)
            return converted if np.array_equal(converted, array) else None
    return None


def _sampled(file: Path | str, arrays: Mapping[str, NDArray[np.generic]], inputs: Mapping[str, Wanted]) -> dict[str, int]:
    """Samples by name, of the arrays that have a sample axis; all the same number.

    An axis 0 that the model leaves open is the sample axis, and so is one that holds several of the model's fixed batches. An array with the very
    shape that the model fixes (a state, a scale), or a length of another symbol than the first input's, is the same for every sample.
    """
    counts: dict[str, int] = {}
    symbol: int | str | None = None
    for name, array in arrays.items():
        first = _first(inputs[name])
        if not array.ndim or (isinstance(first, int) and array.shape[0] == first):
            continue
        other = isinstance(first, str) and isinstance(symbol, str) and first != symbol
        if other and array.shape[0] != next(iter(counts.values())):
            continue
        symbol = symbol if symbol is not None else first
        counts[name] = array.shape[0]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(f"{file}: the numbers of samples differ ({listed}): give every input the same number along axis 0")
    whole = next(iter(counts.values()), 0)
    fixed = {
        name: whole
        for name, array in arrays.items()
        if name not in counts and array.ndim and array.shape[0] == _first(inputs[name]) == whole
    }
    return counts | (fixed if whole > 1 else {})


def _trimmed(feed: Feed, sampled: Mapping[str, int], inputs: Mapping[str, Wanted]) -> Feed:
    """Without the last positions, where a mask says that no sample of the batch has any: they cost time and count nowhere."""
    mask = masked(feed)
    if mask is None or mask.ndim != 2:
        return feed
    padded, used = mask.shape[1], int(np.flatnonzero(mask.any(axis=0))[-1]) + 1
    along = {name for name, array in feed.items() if name in sampled and array.shape[1:] == (padded,)}
    open_ended = all(not isinstance((inputs[name].dims or (0, 0))[1], int) for name in along)
    if not open_ended or any(
        padded in array.shape[1:] or array.shape[:1] == (padded,) for name, array in feed.items() if name not in along
    ):
        return feed
    return {name: array[:, :used] if name in along else array for name, array in feed.items()}


def _first(one: Wanted) -> int | str | None:
    """The size or symbol of axis 0."""
    return one.dims[0] if one.dims else None
