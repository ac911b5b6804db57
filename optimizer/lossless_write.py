"""Writes the compressed file of `lossless`: the original's bytes, edited, and the recipe behind them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

from ..runtime.header import FORMAT_KEY, LOSSLESS_VERSION
from . import protos, wire
from .flush import Flushed, Stream
from .lossless_edits import Plan
from .lossless_packed import Packed, Weight
from .lossless_source import Source, gaps
from .operators import DOMAIN
from .protos import Model
from .recipe import (
    BEFORE_BYTES,
    COPY_DATA,
    COPY_MODEL,
    LITERAL,
    RECIPE_KEY,
    TENSOR,
    Original,
    Place,
    Recipe,
    Segment,
    pack,
)
from .save import IDENTITY_KEY
from .splice import Edit, spans, with_lengths


@dataclass(frozen=True, slots=True)
class Target:
    """The file to write, and the threads that do."""

    file: Flushed
    pool: ThreadPoolExecutor


@dataclass(frozen=True, slots=True)
class Written:
    """A compressed model without its record: what that is to say (but for checksums), where it comes, and what the user should know."""

    recipe: Recipe
    stream: Stream
    notes: tuple[str, ...]


def write_model(held: Source, model: Model, packed: Packed, target: Target) -> Written:
    """Writes the compressed model without its record; its data file is there already. Raises OSError."""
    plan = Plan(held, model, packed)
    stream = Stream(target.file, target.pool)
    writer = _Writer(held, packed, stream)
    writer.write(with_lengths(held.data, plan.edits()))
    entries = {FORMAT_KEY: LOSSLESS_VERSION}
    entries |= {IDENTITY_KEY: packed.identity.hex()} if packed.identity else {}
    stream.write(wire.block(protos.MODEL_OPSETS, wire.block(1, DOMAIN) + wire.number(2, 1)))
    for key, value in entries.items():
        stream.write(_metadata(key, value))
    stream.finish()
    target.file.flush()
    return Written(writer.recipe(model), stream, tuple(plan.notes))


def write_record(recipe: Recipe, stream: Stream, file: Flushed) -> int:
    """Writes the record behind the model; gives its bytes. Raises OSError."""
    begin = max(0, stream.at - BEFORE_BYTES)
    record = pack(recipe, file.load(begin, stream.at - begin))
    stream.write(_metadata(RECIPE_KEY, record))
    stream.finish()
    return len(record)


def _metadata(key: str, value: str) -> bytes:
    return wire.block(protos.MODEL_METADATA, wire.block(1, key) + wire.block(2, value))


class _Writer:
    """Writes edited bytes and notes how to undo it."""

    def __init__(self, held: Source, packed: Packed, stream: Stream) -> None:
        self._held, self._packed, self._stream = held, packed, stream
        self._files: list[Original] = []
        self._segments: list[Segment] = []
        self._literals = bytearray()
        self._places: dict[int, Place] = dict(packed.places)
        self._kept: dict[tuple[str, int, int], Place] = dict(packed.kept)

    def write(self, edits: list[Edit]) -> None:
        """The model without its last fields."""
        size = len(self._held.data)
        for span in spans(edits, size):
            if isinstance(span, Edit):
                self._edit(span)
            else:
                self._segments.append(Segment(COPY_MODEL, self._stream.at, span[1] - span[0]))
                for block in self._held.blocks("", *span):
                    self._stream.write(block)
        self._finish("", size)

    def _finish(self, name: str, size: int) -> None:
        self._files.append(Original(name, size, b"", tuple(self._segments)))
        self._segments = []

    def recipe(self, model: Model) -> Recipe:
        """What gives the original files back, once the model is written; without checksums."""
        weights = {self._held.span(weight.item.tensor): weight for weight in self._packed.weights if weight.item.tensor.external}
        everything = sorted([*self._held.spans(model), *gaps(self._held, model)])
        for location, parts in groupby(everything, itemgetter(0)):
            for span in parts:
                self._data_segment(span, weights.get(span))
            self._finish(location, self._held.size(location))
        places = tuple(self._places[number] for number in sorted(self._places))
        return Recipe(tuple(self._files), places, bytes(self._literals))

    def _data_segment(self, span: tuple[str, int, int], weight: Weight | None) -> None:
        size = span[2] - span[1]
        if weight is not None:
            self._segments.append(Segment(TENSOR, weight.number, size, weight.manner, weight.start))
        elif (place := self._kept.get(span)) is not None:
            self._segments.append(Segment(COPY_DATA if place.external else COPY_MODEL, place.at, size))
        else:
            self._segments.append(Segment(LITERAL, len(self._literals), size))
            self._literals += self._held.read(span[0], span[1], size).tobytes()

    def _edit(self, edit: Edit) -> None:
        for one in edit.new:
            if isinstance(one, bytes):
                self._stream.write(one)
                continue
            start = self._stream.at
            for piece in one.pieces:
                self._stream.write(piece)
            place = Place(False, start, self._stream.at - start)
            if isinstance(one.key, int):
                self._places[one.key] = place
            else:
                self._kept[one.key] = place
        at = edit.start
        for stretch in edit.stretches:
            self._literal(at, stretch.start)
            self._segments.append(Segment(TENSOR, stretch.number, stretch.end - stretch.start, stretch.manner, stretch.part))
            at = stretch.end
        self._literal(at, edit.end)

    def _literal(self, start: int, end: int) -> None:
        if end > start:
            old = bytes(self._held.data[start:end])
            before = self._segments.pop() if self._segments and self._segments[-1].kind == LITERAL else Segment(LITERAL, len(self._literals), 0)
            self._segments.append(replace(before, size=before.size + len(old)))
            self._literals += old
