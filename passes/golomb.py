"""Golomb codes of levels, such that operators of ai.onnx take them apart (`optimizer/fold.py`): no tables, no state, no operator of ours.

A level l becomes u = 2 l - 1 where it is positive, else -2 l. With the modulus m of its weight, u = q m + r: q zeros and a one in a stream of bits that
all weights share, and r as a digit of base m in a stream of words. The place of the n-th one in the bits gives q, by sorting; words are taken apart by
division. Within 0.04-0.19 bit of the entropy of normal and Laplacian levels, from 1.5 bits on.
After: Golomb 1966, "Run-length encodings".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MODULI = (1, 2, 3, 4, 6, 9, 16, 32, 64, 128, 256)
"""The moduli to choose from: about half a bit apart where most weights are."""

WORD_BITS = {1: 8, 2: 16, 4: 31}
"""Usable bits of a word by its bytes: words become int32 before they are taken apart, half the memory that int64 would take while a session is created."""

WORDS = {1: np.uint8, 2: np.uint16, 4: np.int32}


@dataclass(frozen=True, slots=True)
class Packing:
    """`digits` digits of base `base` in a word of `word_bytes`."""

    base: int
    word_bytes: int
    digits: int

    @property
    def powers(self) -> NDArray[np.int32]:
        """What the digits of a word count, [digits]."""
        return np.array([self.base**place for place in range(self.digits)], np.int32)

    @property
    def bits(self) -> float:
        """Bits of a digit."""
        return 8 * self.word_bytes / self.digits

    def pack(self, digits: NDArray[np.int64]) -> NDArray[np.generic]:
        """Digits [count] as words [words, 1]; the last word is filled up with zeros."""
        filled = np.zeros(-(-digits.size // self.digits) * self.digits, np.int64)
        filled[: digits.size] = digits
        words = (filled.reshape(-1, self.digits) * self.powers.astype(np.int64)).sum(axis=1, keepdims=True)
        return np.asarray(words.astype(WORDS[self.word_bytes]))


BITS = Packing(2, 1, 8)
"""The bits of a byte, as `unary` writes them: the first is the lowest."""


@lru_cache
def packing(base: int) -> Packing:
    """The words that spend the fewest bits on a digit, the smallest of those that are alike; `base` is 2 to 256."""
    options = [Packing(base, size, _digits(base, bits)) for size, bits in WORD_BITS.items()]
    return min(options, key=lambda one: one.bits)


def _digits(base: int, bits: int) -> int:
    """The most digits such that base^digits <= 2^bits."""
    digits = 1
    while base ** (digits + 1) <= 1 << bits:
        digits += 1
    return digits


def unsigned(levels: NDArray[np.int32]) -> NDArray[np.int64]:
    """u of each level: 0, 1, -1, 2, -2, .. become 0, 1, 2, 3, 4, .."""
    wide = levels.astype(np.int64)
    return np.asarray(np.where(wide > 0, 2 * wide - 1, -2 * wide))


def coded_bits(levels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Bits that levels take with each of the MODULI."""
    counts = np.bincount(np.minimum(u := unsigned(levels).reshape(-1), LARGE))
    beyond = float((u[u > LARGE] - LARGE).sum())
    values = np.arange(len(counts))
    return np.array([u.size + float(counts @ (values // m)) + beyond / m + (u.size * packing(m).bits if m > 1 else 0.0) for m in MODULI])


LARGE = 1 << 16
"""Beyond, quotients are not counted one by one."""


def unary(quotients: NDArray[np.int64]) -> NDArray[np.uint8]:
    """For each quotient so many zeros and a one, the first in the lowest bit of the first byte, [bytes, 1]."""
    ones = np.cumsum(quotients + 1) - 1
    bits = np.zeros(int(ones[-1]) + 1, np.uint8)
    bits[ones] = 1
    return np.packbits(bits, bitorder="little")[:, None]


def moduli(bits: NDArray[np.float64], each_bits: float) -> list[int]:
    """The modulus of each weight, from the bits [weights, MODULI] of all; one that is used at all costs another `each_bits`.

    Begins with all of them and drops the one that saves most, until none does.
    """
    kept = list(range(len(MODULI)))
    total = _total(bits, kept, each_bits)
    while len(kept) > 1:
        options = [(_total(bits, rest, each_bits), rest) for rest in ([one for one in kept if one != out] for out in kept)]
        best = min(options, key=lambda option: option[0])
        if best[0] >= total:
            break
        total, kept = best
    return [MODULI[kept[number]] for number in bits[:, kept].argmin(axis=1)]


def _total(bits: NDArray[np.float64], kept: list[int], each_bits: float) -> float:
    chosen = bits[:, kept]
    return float(chosen.min(axis=1).sum()) + each_bits * len(np.unique(chosen.argmin(axis=1)))
