"""Radix: a grid of at most n levels, packed as digits of base n into words of fixed size: weights that plain operators decode.

Nothing is entropy-coded, so a value costs log2(n) bits and what a word wastes; a runtime that knows no operators of ours makes such a weight dense when
it creates a session (`optimizer/fold.py`). It has a scale for all or one a row, in 16 bits: those are exact in float32, as is the product with a level
before it is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..runtime.form import Dense, Form, Grid, Symbols
from .quantize import FLOAT16_SCALES, Steps, factor_of, peak, rounded, row_magnitudes, single_scale, total_error
from .technique import Context, Made, Refusal

WORD_BITS = {1: 8, 2: 16, 4: 32, 8: 63}
"""Usable bits of a word by its bytes: words become int64 before they are taken apart."""

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.int64}
MOST_LEVELS = 256
HIGHEST_PEAK = 1e9
"""Levels are clipped, but what is clipped must fit an integer."""


@dataclass(frozen=True, slots=True)
class Packing:
    """`digits` digits of base `levels` in a word of `word_bytes`."""

    levels: int
    word_bytes: int
    digits: int

    @property
    def lowest(self) -> int:
        """The level that digit 0 stands for; levels run from here to lowest + levels - 1."""
        return -(self.levels // 2)

    @property
    def powers(self) -> NDArray[np.int64]:
        """What the digits of a word count, [digits]."""
        return np.array([self.levels**place for place in range(self.digits)], np.int64)

    def bytes(self, values: int) -> int:
        """Bytes of so many values."""
        return self.word_bytes * -(-values // self.digits)

    def pack(self, levels: NDArray[np.int32]) -> NDArray[np.generic]:
        """Levels [size] as words [words, 1]; the last word is filled up with zeros."""
        digits = np.zeros(-(-levels.size // self.digits) * self.digits, np.int64)
        digits[: levels.size] = levels
        digits[: levels.size] -= self.lowest
        words = (digits.reshape(-1, self.digits) * self.powers).sum(axis=1, keepdims=True)
        return np.asarray(words.astype(WORDS[self.word_bytes]))


@lru_cache
def packing(levels: int) -> Packing:
    """The words that spend the fewest bits on a digit, the smallest of those that are alike. Raises ValueError for a base that is out of range."""
    if not 2 <= levels <= MOST_LEVELS:
        raise ValueError(f"{levels} levels cannot be packed: give 2 to {MOST_LEVELS}")
    options = [Packing(levels, size, _digits(levels, bits)) for size, bits in WORD_BITS.items()]
    return min(options, key=lambda one: one.word_bytes / one.digits)


def _digits(levels: int, bits: int) -> int:
    """The most digits such that levels^digits <= 2^bits."""
    digits = 1
    while levels ** (digits + 1) <= 1 << bits:
        digits += 1
    return digits


@dataclass(frozen=True, slots=True)
class Radix:
    """level = clip(round(w / scale)) to `levels` levels around 0, scale[o] = step * rms * (rms[o] / rms)^power as in `Quantize`.

    With `feedback` errors, those of clipping too, are taken up in what is still to be rounded (needs a factor).
    """

    levels: int
    step: float
    power: float = 1.0
    feedback: bool = False

    def apply(self, weight: NDArray[np.float32], context: Context) -> Form | Refusal:
        """A Grid with float16 scales, or one float scale for all."""
        made = self.made(weight, context)
        return made if isinstance(made, Refusal) else made.form

    def made(self, weight: NDArray[np.float32], context: Context) -> Made | Refusal:
        """The Grid and its error."""
        scale = self._scale(weight)
        if isinstance(scale, Refusal):
            return scale
        factor = factor_of(context, weight.shape, self.feedback)
        if isinstance(factor, Refusal):
            return factor
        steps = Steps(scale, None, weight.shape)
        if not peak(weight, steps) < HIGHEST_PEAK:
            return Refusal(f"step {self.step:g} gives levels beyond {HIGHEST_PEAK:g}")
        lowest = packing(self.levels).lowest
        levels, errors = rounded(weight, steps, factor, (lowest, lowest + self.levels - 1))
        return Made(Grid(scale, Symbols(levels)), total_error(errors, context, self.feedback))

    def at(self, factor: float) -> Radix:
        """The same with all steps times a factor: other errors, the same bytes."""
        return replace(self, step=self.step * factor)

    def _scale(self, weight: NDArray[np.float32]) -> Dense | Refusal:
        """One scale for all where `power` is 0, else float16 by row."""
        magnitudes = row_magnitudes(weight, self.power)
        if isinstance(magnitudes, Refusal):
            return magnitudes
        wanted = self.step * magnitudes
        if self.power == 0:
            return single_scale(float(wanted.max()))
        least, most = FLOAT16_SCALES
        if not least <= wanted.max() <= most:
            return Refusal(f"a scale of {wanted.max():g} is outside {least:g}..{most:g}")
        return Dense("float16", np.maximum(wanted, least / 1024).astype("<f2").view(np.uint16).reshape(-1))


def usual_step(levels: int) -> float:
    """About the step, relative to the root mean square, that serves normal weights best: it clips at 1.36 + 0.33 log2(levels) deviations.

    Fitted to the table of Max 1960, "Quantizing for minimum distortion": within 4 % from 3 to 256 levels.
    """
    return 2 * (1.36 + 0.33 * float(np.log2(levels))) / levels
