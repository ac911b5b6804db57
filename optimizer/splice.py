"""Edits of a file of nested messages: what replaces which bytes, the lengths that change with it, and the recipe that undoes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import wire
from .recipe import PLAIN
from .wire import Data, Field


@dataclass(frozen=True, slots=True)
class Blob:
    """What is written into the model and found again: a payload (its number is the key), or bytes of a data file (the key is file, start, end), in pieces."""

    key: int | tuple[str, int, int]
    pieces: list[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of the original that are those of a tensor: payload `number`, in a manner of `recipe`; of a part, the bytes before it."""

    start: int
    end: int
    number: int
    manner: int = PLAIN
    part: int = 0


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes `start` to `end` of the original become `new`; `around` are the messages that hold them. Of the old bytes, `stretches` are those of tensors."""

    start: int
    end: int
    new: tuple[bytes | Blob, ...]
    around: tuple[Field, ...] = ()
    stretches: tuple[Stretch, ...] = ()

    @property
    def growth(self) -> int:
        """By how many bytes the file grows."""
        return sum(len(one) if isinstance(one, bytes) else sum(map(len, one.pieces)) for one in self.new) - (self.end - self.start)


def with_lengths(data: Data, edits: list[Edit]) -> list[Edit]:
    """The edits and those of all lengths that change, in order of place."""
    growth: dict[tuple[int, ...], int] = {}
    chains: dict[tuple[int, ...], tuple[Field, ...]] = {}
    for edit in edits:
        for depth in range(1, len(edit.around) + 1):
            chains.setdefault(_key(edit.around[:depth]), edit.around[:depth])
        if edit.around:
            growth[_key(edit.around)] = growth.get(_key(edit.around), 0) + edit.growth
    lengths = []
    for key in sorted(chains, key=len, reverse=True):
        message, grown = chains[key][-1], growth.get(key, 0)
        new = wire.varint(message.end - message.body + grown)
        if grown and new != bytes(data[message.length : message.body]):
            lengths.append(Edit(message.length, message.body, (new,)))
            grown += lengths[-1].growth
        if len(key) > 1:
            growth[key[:-1]] = growth.get(key[:-1], 0) + grown
    return sorted([*lengths, *edits], key=lambda edit: (edit.start, edit.end))


def _key(around: tuple[Field, ...]) -> tuple[int, ...]:
    return tuple(message.start for message in around)


def spans(edits: list[Edit], size: int) -> Iterator[tuple[int, int] | Edit]:
    """The stretches of a file of `size` bytes that stay, as (start, end), and the edits between them."""
    at = 0
    for edit in edits:
        assert edit.start >= at, "edits overlap"
        if edit.start > at:
            yield at, edit.start
        yield edit
        at = edit.end
    if at < size:
        yield at, size
