"""Inputs made up by rule for a model that comes without data; the model has run on the first batch of them.

Sizes that the model leaves open, unless --input-shape gives them:
* axis 0, axis 1 of states [layers, batch, size], and any axis called `batch`: 8 samples, fewer where a sample is large; 32 samples in all, fewer for very large ones;
* an axis called `past..`: 0; channels of an image: 3; height and width: 224; all others (sequences): 32.
Where onnxruntime refuses those, the next of `TRIALS` are tried.

Values, by a generator of the given seed:
* floats of [N, C, H, W] or [N, H, W, C] with at most 4 channels: noise whose amplitude falls as 1/frequency, as in photographs, or (one in two, where no side is
  shorter than 16) discs that cover each other, which have edges too; the channels alike, each image with a brightness and a contrast of its own. Values are as after the usual standardisation (mean 0, standard deviation near 1,
  within -2.5 .. 2.5); where the first operator itself divides by 100 or more, or takes away 50 or more, they lie in 0..255, as they do in uint8;
* other floats: standard normal; a float or integer called *mask*: ones, a boolean one: true;
* token ids: uniform below the rows of the table that they look up, traced through Cast, Unsqueeze, Add and the like;
* token types and segments: 0; positions: 0, 1, 2, ..; lengths: the length; sampling rates: 16000; other integers: 0 or 1; booleans: false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .calibrate import BATCH, BATCH_VALUES, Feed, Wanted, wanted
from .errors import CompressError, UsageError
from .lookups import table_rows, takes_bytes
from .rig import Rig, RunError, shapes

SAMPLES = 32
ALL_VALUES = 1 << 23
"""Samples and input values in all batches, at most."""

LARGEST = 2.5

DISCS, LEAST_SIDE = 400, 16
"""Discs in an image; what has a shorter side (spectrograms) has none."""

SPREAD_OF_BYTES = 50.0

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of sizes for what the model leaves open; `careful` makes all free integers 0."""

    batch: int = BATCH
    length: int = 32
    image: int = 224
    careful: bool = False


TRIALS = (
    Trial(),
    Trial(batch=1),
    Trial(length=128, image=256),
    Trial(batch=1, length=1, image=32),
    Trial(batch=1, length=16000, image=320),
    Trial(length=512, image=384),
    Trial(batch=1, length=64, image=640),
    Trial(batch=1, length=8, image=416),
    Trial(batch=1, image=512, careful=True),
)


def synthesize(model: ir.Model, seed: int, input_shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[Feed, ...]:
    """Batches that the model runs on.

    Raises UsageError for shapes that do not fit, CompressError where onnxruntime does not load the model or runs on none of the trials.
    """
    maker = Maker(wanted(model.graph.inputs), table_rows(model), takes_bytes(model), seed)
    given = {name: tuple(shape) for name, shape in (input_shapes or {}).items()}
    check_shapes(maker.inputs, given)
    rig = Rig(model)
    tried: dict[tuple[object, ...], str] = {}
    for trial in TRIALS:
        sizes = maker.sizes(trial, given)
        key = (*sizes.values(), trial.careful)
        if key in tried:
            continue
        feed = maker.feed(sizes, trial, 0)
        try:
            rig.run(feed, rig.outputs)
        except RunError as error:
            tried[key] = f"{shapes(feed)}: {error.said}"
            continue
        return (feed, *(maker.feed(sizes, trial, number) for number in range(1, _batches(sizes))))
    raise CompressError(
        f"the model runs on none of the {len(tried)} inputs that were made up for it (the first, {next(iter(tried.values()))}): "
        "give real ones with --calibration, or their sizes with --input-shape NAME=1,3,224,224"
    )


def check_shapes(inputs: Sequence[Wanted], given: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UsageError for a shape of an input that is not there, or that the model does not allow."""
    known = {one.name: one for one in inputs}
    for name, shape in given.items():
        text = ",".join(map(str, shape))
        if name not in known:
            raise UsageError(f"--input-shape {name}={text}: the model has no such input, it has {', '.join(known) or 'none'}")
        dims = known[name].dims
        fits = dims is None or (len(dims) == len(shape) and all(not isinstance(d, int) or d == s for d, s in zip(dims, shape, strict=True)))
        if not fits or min(shape, default=1) < 1:
            raise UsageError(f"--input-shape {name}={text} does not fit: the model takes {known[name]}, and sizes are at least 1")


def _batches(sizes: Mapping[str, tuple[int, ...]]) -> int:
    """How many batches of these sizes make SAMPLES samples, within ALL_VALUES."""
    values = sum(int(np.prod(shape, dtype=np.int64)) for shape in sizes.values())
    samples = max((shape[0] for shape in sizes.values() if shape), default=1)
    return max(1, min(SAMPLES // max(samples, 1), ALL_VALUES // max(values, 1)))


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes feeds for `inputs`; `rows` and `bytes` say what is known about the inputs by name (see lookups.py)."""

    inputs: tuple[Wanted, ...]
    rows: Mapping[str, int]
    bytes: frozenset[str]
    seed: int

    def sizes(self, trial: Trial, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """A shape for every input: symbols mean the same everywhere. Raises UsageError for an input of unknown rank."""
        bound = dict(_bound(self.inputs, given))
        for batch in range(trial.batch, 0, -1):
            symbols = dict(bound)
            found = {one.name: given.get(one.name) or _shape(one, trial, batch, symbols) for one in self.inputs}
            if batch == 1 or sum(int(np.prod(shape, dtype=np.int64)) for shape in found.values()) <= BATCH_VALUES:
                return found
        raise AssertionError("a trial has a batch of at least 1")

    def feed(self, sizes: Mapping[str, tuple[int, ...]], trial: Trial, number: int) -> Feed:
        """Batch `number`; the same for the same seed."""
        made: Feed = {}
        for index, one in enumerate(self.inputs):
            rng = np.random.default_rng([self.seed, number, index])
            array = (
                self._floats(one, sizes[one.name], rng) if one.dtype.kind not in "iub" else self._integers(one, sizes[one.name], trial, rng)
            )
            made[one.name] = np.asarray(array).astype(one.dtype)
        return made

    def _floats(self, one: Wanted, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        if "mask" in one.name.lower():
            return np.ones(shape)
        channels = _channels(shape)
        if channels is None:
            return rng.standard_normal(shape) if shape else np.ones(shape)
        pictures = images(shape, channels, rng)
        return np.clip(127.5 + SPREAD_OF_BYTES * pictures, 0, 255) if one.name in self.bytes else pictures

    def _integers(self, one: Wanted, shape: tuple[int, ...], trial: Trial, rng: np.random.Generator) -> Array:
        name, rows = one.name.lower(), self.rows.get(one.name)
        if "mask" in name:
            return np.ones(shape)
        if one.dtype.kind == "b" or "token_type" in name or "segment" in name:
            return np.zeros(shape)
        channels = _channels(shape)
        if one.dtype.itemsize == 1 and channels is not None:
            middle = 127.5 if one.dtype.kind == "u" else 0
            return np.clip(middle + SPREAD_OF_BYTES * images(shape, channels, rng), middle - 127.5, middle + 127.5).astype(np.int16)
        if name in ("sr", "fs") or ("sampl" in name and "rate" in name):
            return np.full(shape, 16000)
        if rows is None and "len" in name and len(shape) <= 1:
            return np.full(shape, trial.length)
        if "position" in name and shape:
            return np.broadcast_to(np.arange(shape[-1]) % (rows or shape[-1]), shape)
        return np.zeros(shape) if trial.careful and rows is None else rng.integers(0, max(rows or 2, 1), shape)


def images(shape: tuple[int, ...], channels: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """1/f noise or discs of `shape`, whose axis `channels` (1 or 3) is the channels: mean 0, standard deviation about 1, within +-LARGEST."""
    count, depth = shape[0], shape[channels]
    height, width = (size for axis, size in enumerate(shape) if axis not in (0, channels))
    mixed = _noise((count, depth, height, width), rng)
    if min(height, width) >= LEAST_SIDE:
        for number in np.flatnonzero(rng.random(count) < 0.5):
            mixed[number] = _discs(mixed[number], rng)
    contrast, brightness = rng.uniform(0.5, 1.2, (count, 1, 1, 1)), 0.5 * rng.standard_normal((count, 1, 1, 1))
    pictures = np.clip(contrast * mixed + brightness, -LARGEST, LARGEST)
    return np.moveaxis(pictures, 1, channels)


def _noise(shape: tuple[int, int, int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """[n, channels, height, width]: amplitudes fall as 1/frequency; four fifths of the variance are what channels share."""
    count, depth, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width)
    noise = np.fft.rfft2(rng.standard_normal((count, 1 + depth, height, width))) / np.maximum(frequency, 1)
    noise[..., 0, 0] = 0
    planes = np.fft.irfft2(noise, s=(height, width))
    planes /= np.maximum(planes.std(axis=(2, 3), keepdims=True), 1e-9)
    return np.asarray(np.sqrt(0.8) * planes[:, :1] + np.sqrt(0.2) * planes[:, 1:])


def _discs(noise: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """An image [channels, height, width] of discs that cover each other, their number falling as the cube of their radius, with a little noise on them.

    After: Lee, Mumford and Huang 2001 (Occlusion models for natural images).
    """
    depth, height, width = noise.shape
    image, (least, largest) = np.zeros_like(noise), (max(1.0, min(height, width) / 64), min(height, width) / 1.5)
    radii = (least**-2 + (largest**-2 - least**-2) * rng.random(DISCS)) ** -0.5
    colours = np.sqrt(0.85) * rng.standard_normal((DISCS, 1)) + np.sqrt(0.15) * rng.standard_normal((DISCS, depth))
    for radius, colour, y, x in zip(radii, colours, height * rng.random(DISCS), width * rng.random(DISCS), strict=True):
        rows, columns = (slice(int(max(at - radius, 0)), int(at + radius + 1)) for at in (y, x))
        part = image[:, rows, columns]
        inside = (np.arange(part.shape[1])[:, None] + rows.start - y) ** 2 + (np.arange(part.shape[2]) + columns.start - x) ** 2 <= radius**2
        part[:, inside] = colour[:, None]
    mixed = image / np.maximum(image.std(axis=(1, 2), keepdims=True), 1e-3) + 0.35 * noise
    mixed -= mixed.mean(axis=(1, 2), keepdims=True)
    return np.asarray(mixed / np.maximum(mixed.std(axis=(1, 2), keepdims=True), 1e-3))


def _channels(shape: tuple[int, ...]) -> int | None:
    """The axis of the channels of a batch of images, or None."""
    if len(shape) != 4 or min(shape) < 1:
        return None
    return next(
        (axis for axis in (1, 3) if shape[axis] <= 4 and min(size for other, size in enumerate(shape[1:], 1) if other != axis) > 4), None
    )


def _bound(inputs: Sequence[Wanted], given: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, int]]:
    """The symbols that the given shapes settle."""
    for one in inputs:
        for size, number in zip(one.dims or (), given.get(one.name, ()), strict=False):
            if isinstance(size, str):
                yield size, number


def _shape(one: Wanted, trial: Trial, batch: int, symbols: dict[str, int]) -> tuple[int, ...]:
    if one.dims is None:
        raise UsageError(f"input {one.name} has no shape in the model: give one with --input-shape {one.name}=1,3,224,224")
    shape = []
    for axis, size in enumerate(one.dims):
        number = size if isinstance(size, int) else _open_size(one, axis, trial, batch)
        shape.append(symbols.setdefault(size, number) if isinstance(size, str) else number)
    return tuple(shape)


def _open_size(one: Wanted, axis: int, trial: Trial, batch: int) -> int:
    """A size for an axis that the model leaves open, by its symbol, its place and the rank."""
    dims = one.dims or ()
    symbol = str(dims[axis] or "").lower()
    is_sequence = any(word in symbol for word in ("seq", "len", "time", "step", "frame"))
    if "batch" in symbol or (axis == 0 and not is_sequence) or (axis == 1 and not is_sequence and _is_state(one)):
        return batch
    if "past" in symbol and not any(word in symbol for word in ("+", "total")):
        return 0
    if len(dims) == 4 and not is_sequence and one.dtype.kind != "i":
        last = dims[3] in (1, 3, 4)
        return 3 if axis == 1 and not last else trial.image
    return min(trial.length, 32) if len(dims) >= 5 else trial.length


def _is_state(one: Wanted) -> bool:
    """Whether this is the state of a recurrent layer, [layers, batch, size]; hidden states of a transformer have no fixed first axis."""
    name, dims = one.name.lower(), one.dims or ()
    return len(dims) == 3 and isinstance(dims[0], int) and ("state" in name or "hidden" in name or name in {"h", "c", "h0", "c0"})
