"""Bundles: small weights of one type share a payload, of which one node makes them all (for `lossless`).

The weights stand one behind the other in one tensor [steps, lanes], lanes first: so each is a few steps, and the classes of columns give
weights of like spread a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..passes.planes import write_planes
from ..runtime.form import View
from ..runtime.members import EXPONENT_BITS, WIDTHS

BUNDLE_BELOW = 8192
"""Values: from here on a payload of its own, whose classes go by single columns, takes less (or as much)."""

LEAST_VALUES = 32
"""Below it, the name of a weight costs more than is saved."""

MOST_PARTS = 64
"""Outputs of a node."""

FEW_LANES, MANY_LANES = (8, 32), (32, 64)
MANY_FROM = 1 << 14
"""Values from which on a bundle has many lanes: each costs two bytes, and all are decoded at once."""

LEAST_DROPPED = 8
LEAST_GROUP_BYTES = 2048
"""A smaller group of weights that end with zeros joins those that do not."""

EXPONENT_LEAST = 2
"""Bits that an exponent takes at least, to compare other forms with."""

Key = tuple[int, bool, int]
"""What the weights of a bundle have in common: dtype, whether they are given as floats, zero bits at their ends."""

One = TypeVar("One")


def dropped_bits(bits: NDArray, dtype: int) -> int:
    """Zero bits that all values end with, where they are worth a bundle of their own; else 0."""
    union = int(np.bitwise_or.reduce(bits, axis=None)) | 1 << (WIDTHS[dtype] - 1 - EXPONENT_BITS[dtype])
    dropped = (union & -union).bit_length() - 1
    return dropped if dropped >= LEAST_DROPPED else 0


def least_bytes(dtype: int, size: int, dropped: int) -> int:
    """What `size` values take in a bundle, about and rather less."""
    return size * (WIDTHS[dtype] - EXPONENT_BITS[dtype] - dropped + EXPONENT_LEAST) // 8


def grouped(found: Sequence[tuple[Key, int, One]]) -> Iterator[tuple[Key, list[One]]]:
    """Bundles of what has (key, bytes, what it is), in order, each of as many parts as a node has outputs."""
    sizes: dict[Key, int] = {}
    for key, size, _ in found:
        sizes[key] = sizes.get(key, 0) + size
    groups: dict[Key, list[One]] = {}
    for (dtype, widened, dropped), _, one in found:
        kept = dropped if sizes[dtype, widened, dropped] >= LEAST_GROUP_BYTES else 0
        groups.setdefault((dtype, widened, kept), []).append(one)
    for key, members in groups.items():
        each = -(-len(members) // -(-len(members) // MOST_PARTS))
        yield from ((key, members[at : at + each]) for at in range(0, len(members), each))


def write_bundle(parts: list[NDArray], dtype: int) -> list[bytes | memoryview]:
    """The payload of weights, each given by its bits [values], in pieces; behind the last value, it is repeated to fill the lanes."""
    joined = np.concatenate(parts)
    lanes = MANY_LANES if len(joined) >= MANY_FROM else FEW_LANES
    filled = np.pad(joined, (0, -len(joined) % max(lanes)), mode="edge")
    return write_planes(filled, dtype, tuple(View((-(-len(joined) // many), many), (1, 0), 1, many) for many in lanes))
