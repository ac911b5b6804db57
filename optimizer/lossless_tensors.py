"""Which tensors of a file are coded, each in its smallest exact form; duplicates once (for `lossless`)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..runtime.members import WIDTHS
from . import exact
from . import lossless_bundles as bundles
from .lossless_packed import Item, Packed, Weight
from .lossless_source import BFLOAT16, FLOAT, FLOAT16, Source, gaps, widened
from .lossless_threads import LARGE_BYTES, helped, in_order
from .lossless_uses import NONE, Readers, Search
from .protos import Model, Tensor
from .recipe import PART, PLAIN, TRANSPOSED, WIDENED, Place
from .report import Request
from .save import ALIGNMENT, IDENTITY_BYTES, MAGIC

OVERHEAD_BYTES = 90
"""What a payload costs beside its own bytes: a node, an initializer, and its part of the record."""

INLINE_BELOW = 4096
"""Payloads below this stay in the model even where the others are beside it."""

SAMPLED = 8
"""Values of a tensor that are looked at, to see whether it may be a copy of another."""

_Likeness = tuple[int, tuple[int, ...], bytes]


@dataclass(frozen=True, slots=True)
class _Made:
    """What coding a tensor gave: a form, or nothing; the digest of its bytes, and of tensors that it could serve as well, in which manner."""

    found: exact.Exact | None
    digest: bytes
    twins: tuple[tuple[bytes, int], ...]


@dataclass(frozen=True, slots=True)
class _Small:
    """What is known of a small weight: a form of its own that is smaller than its part of a bundle, its digest, and what bundle it may be in."""

    special: exact.Exact | None
    digest: bytes
    key: bundles.Key


class Coder:
    """Codes the tensors of a model, in order; payloads go into `data` where there is such a file."""

    def __init__(self, held: Source, request: Request, pool: ThreadPoolExecutor, data: Path | None) -> None:
        self._held, self._request, self._pool, self._path = held, request, pool, data
        self._packed = Packed(data_name=data.name if data else "")
        self._at, self._hash = 0, hashlib.sha256()
        self._known: dict[bytes, tuple[int, int]] = {}
        self._readers: list[Readers] = []
        self._alone = set[int]()

    def pack(self, model: Model, tick: Callable[[float], None]) -> Packed:
        """Everything that is smaller coded."""
        items = sorted(self._items(model), key=lambda item: not item.readers.gathered)  # a payload that a Gather can read serves its duplicates, too
        self._alone = self._without_copies(items)
        total, done = sum(self._held.stored_bytes(item.tensor) for item in items) or 1, 0
        file = self._path.open("wb") if self._path else None
        try:
            if file:
                self._at = file.write(b"\0" * IDENTITY_BYTES)
            early = self._begun_early(items)
            alone, together = self._parted(items)
            groups = list(bundles.grouped([(small.key, self._held.stored_bytes(item.tensor), item) for item, small in together if small.special is None]))
            written = self._pool.map(self._write_bundle, groups)
            for item, made in in_order(lambda item: early.pop(item.tensor.place.start, None) or self._pool.submit(self._make, item), alone, lambda item: self._held.stored_bytes(item.tensor)):
                self._take(item, made, file)
                done += self._held.stored_bytes(item.tensor)
                tick(done / total)
            for item, small in together:
                if small.special is not None:
                    self._take(item, _Made(small.special, b"", ()), file)
            for (_, grouped), pieces in zip(groups, written, strict=True):
                self._bundle(grouped, pieces, file)
            if file:
                self._keep_external(model, file)
                self._packed.identity = self._hash.digest()
                file.seek(0)
                file.write(MAGIC + self._packed.identity)
        finally:
            if file:
                file.close()
        return self._packed

    def _begun_early(self, items: list[Item]) -> dict[int, Future[_Made]]:
        """The first large weight, by its place, begun before small ones are looked at: while it is planned, only one thread works on it."""
        large = next((item for item in items if self._held.stored_bytes(item.tensor) >= LARGE_BYTES), None)
        return {large.tensor.place.start: self._pool.submit(self._make, large)} if large is not None else {}

    def _items(self, model: Model) -> Iterator[Item]:
        """Tensors of known types, large enough; the reasons why others are left alone are noted."""
        search = Search(self._held.data, model.graphs)
        for number, graph in enumerate(model.graphs):
            for tensor in graph.tensors:
                yield from self._item(Item(number, tensor, tensor.name, None), search)
            for node in graph.nodes:
                if node.constant is not None and len(node.outputs) == 1:
                    yield from self._item(Item(number, node.constant, node.outputs[0], node), search)

    def _item(self, item: Item, search: Search) -> Iterator[Item]:
        tensor, size = item.tensor, self._held.stored_bytes(item.tensor)
        if (reason := self._hindrance(item)) is not None:
            if size >= 4 * bundles.LEAST_VALUES:
                self._packed.left_alone.append((item.name, reason, size))
            return
        yield Item(item.graph, tensor, item.name, item.node, search.readers(item.graph, item.name, tensor))

    def _hindrance(self, item: Item) -> str | None:
        tensor, request = item.tensor, self._request
        if not exact.is_known(tensor.dtype):
            return f"its type (number {tensor.dtype}) is not one that is compressed"
        if (request.include and not any(re.search(one, item.name) for one in request.include)) or any(re.search(one, item.name) for one in request.exclude):
            return "left out by --include or --exclude"
        if len(tensor.dims) > 8 or any(not 0 < dim < 2**31 for dim in tensor.dims):
            return "its shape is too large"
        least = bundles.LEAST_VALUES if item.graph == 0 and tensor.dtype in exact.DENSE_OF else exact.LEAST_VALUES
        if tensor.size < least:
            return f"it has {tensor.size} values, fewer than {least}"
        span = self._held.span(tensor)
        if span is None or not item.name:
            return "its values are in typed fields, not in raw_data" if item.name else "it has no name"
        if span[1] < 0 or span[2] - span[1] != exact.stored_bytes(tensor.dtype, tensor.size) or span[2] > self._held.size(span[0]):
            return "its data has another size than its shape says, or lies outside of its file"
        return None

    def _parted(self, items: list[Item]) -> tuple[list[Item], list[tuple[Item, _Small]]]:
        """(weights that get a payload of their own, those that share one): these are small, and nothing but the whole of them is read."""
        fit = [item for item in items if self._may_share(item)]
        known = dict(zip((item.tensor.place.start for item in fit), self._pool.map(self._look, fit), strict=True))
        copies = Counter(small.digest for small in known.values())
        alone, together = [], []
        for item in items:
            small = known.get(item.tensor.place.start)
            if small is None or (copies[small.digest] > 1 and item.tensor.size >= exact.LEAST_VALUES):
                alone.append(item)
            else:
                together.append((item, small))
        return [item for item in alone if item.tensor.size >= exact.LEAST_VALUES], together

    def _may_share(self, item: Item) -> bool:
        tensor = item.tensor
        return item.graph == 0 and not item.readers.fused and tensor.dtype in exact.DENSE_OF and tensor.size < bundles.BUNDLE_BELOW

    def _look(self, item: Item) -> _Small:
        tensor, raw = item.tensor, self._read(item)
        dropped = bundles.dropped_bits(raw.view(f"<u{raw.size // tensor.size}"), tensor.dtype)
        found = exact.special(raw, tensor.dtype, tensor.dims) if tensor.size >= exact.LEAST_VALUES else None
        least = bundles.least_bytes(tensor.dtype, tensor.size, dropped)
        special = found if found is not None and found.size + self._cost(item) < least else None
        return _Small(special, _digest(raw, tensor.dtype, tensor.dims), (tensor.dtype, item.readers.widened, dropped))

    def _bundle(self, items: list[Item], pieces: list[bytes | memoryview], file: BinaryIO | None) -> None:
        """Takes the payload that small weights share, where it is smaller than these."""
        sizes = [self._held.stored_bytes(item.tensor) for item in items]
        size, total = sum(map(len, pieces)), sum(sizes)
        if size + OVERHEAD_BYTES >= total:
            self._packed.left_alone += [(item.name, "no exact form of it is smaller", one) for item, one in zip(items, sizes, strict=True)]
            return
        number = len(self._readers)
        self._readers.append(NONE)
        self._store(number, pieces, file)
        starts = [sum(sizes[:at]) for at in range(len(sizes))]
        self._packed.weights += [Weight(item, number, PART, "planes", one, size * one // total, start) for item, one, start in zip(items, sizes, starts, strict=True)]

    def _write_bundle(self, group: tuple[bundles.Key, list[Item]]) -> list[bytes | memoryview]:
        (dtype, *_), items = group
        return bundles.write_bundle([self._read(item).view(f"<u{WIDTHS[dtype] // 8}") for item in items], dtype)

    def _make(self, item: Item) -> _Made:
        tensor = item.tensor
        raw = self._read(item)
        alone = item.tensor.place.start in self._alone
        digest = b"" if alone else _digest(raw, tensor.dtype, tensor.dims)
        if digest in self._known:
            return _Made(None, digest, ())
        view = item.readers.view
        sights = exact.any_sight(tensor.dims) if view is None else exact.one_sight(view, item.readers.gathered)
        work = helped(self._pool) if raw.size >= LARGE_BYTES else map
        return _Made(exact.smallest(raw, tensor.dtype, tensor.dims, sights, work), digest, () if alone else tuple(_twins(raw, tensor)))

    def _without_copies(self, items: list[Item]) -> set[int]:
        """The places of tensors that surely are no copies of others."""
        found = [self._likeness(item) for item in items]
        many = Counter(found)
        return {item.tensor.place.start for item, one in zip(items, found, strict=True) if many[one] == 1}

    def _likeness(self, item: Item) -> _Likeness:
        """What a tensor has in common with its copies, be they transposed or widened: values of its diagonal, else its first ones."""
        tensor, span = item.tensor, self._held.span(item.tensor)
        assert span is not None
        width, diagonal = self._held.stored_bytes(tensor) // tensor.size, len(tensor.dims) == 2
        apart, many, width = (tensor.dims[1] + 1, min(SAMPLED, *tensor.dims), width) if diagonal and width else (1, 1, max(width, 1) * min(SAMPLED, tensor.size // 2))
        raw = np.concatenate([self._held.read(span[0], span[1] + i * apart * width, width) for i in range(many)])
        half = tensor.dtype in (FLOAT16, BFLOAT16)
        return FLOAT if half else tensor.dtype, tuple(sorted(tensor.dims)), (widened(raw, tensor.dtype) if half else raw).tobytes()

    def _read(self, item: Item) -> NDArray[np.uint8]:
        span = self._held.span(item.tensor)
        assert span is not None
        return self._held.read(span[0], span[1], span[2] - span[1])

    def _take(self, item: Item, made: _Made, file: BinaryIO | None) -> None:
        """Writes a payload, or finds that there is one already, or leaves the tensor alone."""
        size = self._held.stored_bytes(item.tensor)
        if made.digest in self._known:
            number, manner = self._known[made.digest]
            if item.readers.fused and not self._serves(number, manner, item.readers):
                item = replace(item, readers=NONE)
            self._packed.weights.append(Weight(item, number, manner, "duplicate", size, 0))
            return
        if made.found is None or made.found.size + self._cost(item) >= size:
            self._packed.left_alone.append((item.name, "no exact form of it is smaller", size))
            return
        number = len(self._readers)
        self._readers.append(item.readers)
        self._store(number, made.found.pieces, file)
        if item.graph == 0 and made.digest:
            self._known[made.digest] = number, PLAIN
            self._known |= {digest: (number, manner) for digest, manner in made.twins if digest not in self._known}
        self._packed.weights.append(Weight(item, number, PLAIN, made.found.form, size, made.found.size))

    @staticmethod
    def _cost(item: Item) -> int:
        """What a payload costs beside its bytes, about."""
        return OVERHEAD_BYTES + 2 * len(item.name)

    def _serves(self, number: int, manner: int, readers: Readers) -> bool:
        """Whether a payload that is there can be read by the operators of a duplicate: the transposed one's columns are the rows of the other."""
        view, wanted = self._readers[number].view, readers.view
        if view is None or wanted is None or (readers.gathered and not self._readers[number].gathered) or manner not in (PLAIN, TRANSPOSED):
            return False
        if manner == PLAIN:
            return view == wanted
        return not readers.gathered and view.permutation == wanted.permutation[::-1] and (view.batch, view.rows) == (wanted.batch, wanted.rows)

    def _store(self, number: int, pieces: list[bytes | memoryview], file: BinaryIO | None) -> None:
        size = sum(map(len, pieces))
        if file is None or size < INLINE_BELOW:
            self._packed.pieces[number] = pieces
        else:
            self._packed.places[number] = self._append(pieces, file)

    def _append(self, pieces: Iterable[bytes | memoryview], file: BinaryIO) -> Place:
        """Writes into the data file."""
        padding = -self._at % ALIGNMENT
        start = self._at = self._at + file.write(b"\0" * padding)
        for piece in pieces:
            self._hash.update(piece)
            self._at += file.write(piece)
        return Place(True, start, self._at - start)

    def _keep_external(self, model: Model, file: BinaryIO) -> None:
        """Tensors of data files that were not coded, and what lies between tensors, move into the new data file."""
        coded = {item.tensor.place.start for item in (weight.item for weight in self._packed.weights)}
        for tensor in (tensor for tensor in model.tensors() if tensor.external is not None and tensor.place.start not in coded):
            span = self._held.span(tensor)
            assert span is not None
            if span not in self._packed.kept:
                self._packed.kept[span] = self._append(self._held.blocks(*span), file)
        for span in gaps(self._held, model):
            if span[2] - span[1] >= INLINE_BELOW and span not in self._packed.kept:
                self._packed.kept[span] = self._append(self._held.blocks(*span), file)


def _twins(raw: NDArray[np.uint8], tensor: Tensor) -> Iterator[tuple[bytes, int]]:
    """Digests of tensors that this one would serve as well: its transpose, and itself as float32."""
    width = raw.size // tensor.size
    if len(tensor.dims) == 2 and width:
        turned = np.ascontiguousarray(raw.view(f"u{width}").reshape(tensor.dims).T)
        yield _digest(turned.view(np.uint8).reshape(-1), tensor.dtype, tensor.dims[::-1]), TRANSPOSED
    if tensor.dtype in (FLOAT16, BFLOAT16):
        yield _digest(widened(raw, tensor.dtype), FLOAT, tensor.dims), WIDENED


def _digest(raw: NDArray[np.uint8], dtype: int, dims: tuple[int, ...]) -> bytes:
    return hashlib.sha256(raw.data).digest() + repr((dtype, dims)).encode()
