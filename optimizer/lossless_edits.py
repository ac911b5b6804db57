"""The edits that make a lossless file of a model: payloads for tensors, nodes of ours, inputs that go (for `lossless`)."""

from __future__ import annotations

from collections.abc import Iterator

from . import exact, protos, wire
from .lossless_packed import Packed, Weight
from .lossless_source import FLOAT, Source
from .lossless_uses import attribute_ints, fused_node, ours, users_of
from .operators import PARTS
from .protos import Model, Tensor
from .recipe import PART, TRANSPOSED, Place
from .splice import Blob, Edit, Stretch
from .wire import Field

UINT8 = 2
LEAST_IR_VERSION = 4
"""Before it, initializers must be inputs of the graph."""


class Plan:
    """All edits of a model."""

    def __init__(self, held: Source, model: Model, packed: Packed) -> None:
        self._held, self._model, self._packed = held, model, packed
        self._prefix = _free_prefix(model)
        self._likes: set[int] = set()
        self._users = users_of(model.graphs)
        self._fresh = 0
        self.notes: list[str] = []

    def edits(self) -> list[Edit]:
        """Tensors become payloads, nodes of ours come first in their graphs, inputs that would override a payload go."""
        edits = self._input_edits()
        heads: list[list[bytes | Blob]] = [[] for _ in self._model.graphs]
        stored: set[int] = set()
        bundles: dict[int, list[Weight]] = {}
        for weight in self._packed.weights:
            head = heads[weight.item.graph]
            if weight.number not in stored:
                head += self._payload(weight.number)
                stored.add(weight.number)
            if weight.manner == PART:
                bundles.setdefault(weight.number, []).append(weight)
            edits += self._weight_edits(weight, head)
        heads[0] += [self._cut(number, parts) for number, parts in bundles.items()]
        coded = {weight.item.tensor.place.start for weight in self._packed.weights}
        edits += [edit for tensor, around in self._model.placed_tensors() if tensor.place.start not in coded for edit in self._kept_edits(tensor, around)]
        heads[0] += [wire.block(protos.GRAPH_INITIALIZER, _tensor(self._like(dtype), dtype, [1], b"\0" * exact.stored_bytes(dtype, 1))) for dtype in sorted(self._likes)]
        for graph, head in zip(self._model.graphs, heads, strict=True):
            if head:
                edits.append(Edit(graph.start, graph.start, tuple(head), graph.around))
        return edits

    def _input_edits(self) -> list[Edit]:
        graph, coded = self._model.graphs[0], {weight.name for weight in self._packed.weights if weight.item.graph == 0}
        version = next((one for one in self._model.fields if one.number == protos.MODEL_IR_VERSION), None)
        edits = []
        if version is not None and version.value < LEAST_IR_VERSION:
            edits.append(Edit(version.start, version.end, (wire.number(protos.MODEL_IR_VERSION, LEAST_IR_VERSION),)))
            coded |= {tensor.name for tensor in graph.tensors}
        gone = [Edit(place.start, place.end, (), graph.around) for name, place in graph.inputs if name in coded]
        if gone:
            self.notes.append(f"{len(gone)} inputs that were weights too are no inputs of the compressed model; restore brings them back")
        return edits + gone

    def _payload_name(self, number: int) -> str:
        return f"{self._prefix}{number}"

    def _like(self, dtype: int) -> str:
        return f"{self._prefix}like{dtype}"

    def _payload(self, number: int) -> list[bytes | Blob]:
        """The initializer of a payload."""
        if (pieces := self._packed.pieces.get(number)) is not None:
            head = _tensor_head(self._payload_name(number), UINT8, [sum(map(len, pieces))])
            return _blob(protos.GRAPH_INITIALIZER, head, number, pieces)
        place = self._packed.places[number]
        return [wire.block(protos.GRAPH_INITIALIZER, _external(self._payload_name(number), UINT8, [place.size], self._packed.data_name, place))]

    def _weight_edits(self, weight: Weight, head: list[bytes | Blob]) -> list[Edit]:
        item, graph = weight.item, self._model.graphs[weight.item.graph]
        place = item.node.place if item.node else item.tensor.place
        stretches = (Stretch(*item.tensor.data, weight.number, weight.manner, weight.start),) if item.tensor.data else ()
        nodes = self._decompress(weight) if item.readers.whole and weight.manner != PART else []
        new: tuple[bytes, ...] = ()
        if item.node is not None:
            new = tuple(nodes)  # in the place of the Constant
        else:
            at = self._first_use(item.graph, item.given) if nodes else None
            if at is None:
                head += nodes
            else:
                return [Edit(at.start, at.start, tuple(nodes), graph.around), *self._fused_edits(weight, Edit(place.start, place.end, (), graph.around, stretches))]
        return self._fused_edits(weight, Edit(place.start, place.end, new, graph.around, stretches))

    def _first_use(self, number: int, name: str) -> Field | None:
        """The first node that reads a weight, if only nodes of its own graph do: decoded there, and not earlier, it is in memory for no longer than needed."""
        users = self._users.get(name, [])
        return users[0][1].place if users and all(graph == number for graph, _ in users) else None

    def _fused_edits(self, weight: Weight, first: Edit) -> list[Edit]:
        item, around = weight.item, self._model.graphs[weight.item.graph].around
        edits, readers = [first], item.readers
        for use in readers.fused:
            likes = self._likes_of(item.tensor.dtype) if use.node.op_type == "Gather" else []
            new = fused_node(self._held.data, use, self._payload_name(weight.number), likes)
            edits.append(Edit(use.node.place.start, use.node.place.end, (new,), around))
        return edits + [Edit(cast.place.start, cast.place.end, (), around) for cast in readers.casts]

    def _likes_of(self, dtype: int) -> list[str]:
        if dtype == FLOAT:
            return []
        self._likes.add(dtype)
        return [self._like(dtype)]

    def _decompress(self, weight: Weight) -> list[bytes]:
        """The nodes that make a weight, under the name that its readers know."""
        item, payload = weight.item, self._payload_name(weight.number)
        likes = [] if item.readers.widened else self._likes_of(item.tensor.dtype)
        if weight.manner != TRANSPOSED:
            return [ours("Decompress", [payload, *likes], [item.given])]
        self._fresh += 1
        turned = f"{self._prefix}t{self._fresh}"
        transpose = wire.block(protos.GRAPH_NODE, wire.block(1, turned) + wire.block(2, item.given) + wire.block(protos.NODE_OP_TYPE, "Transpose"))
        return [ours("Decompress", [payload, *likes], [turned]), transpose]

    def _cut(self, number: int, weights: list[Weight]) -> bytes:
        """The node that makes all weights of a bundle."""
        item = weights[0].item
        likes = [] if item.readers.widened else self._likes_of(item.tensor.dtype)
        dims = [number for weight in weights for number in (len(weight.item.tensor.dims), *weight.item.tensor.dims)]
        return ours("Decompress", [self._payload_name(number), *likes], [weight.item.given for weight in weights], attributes=attribute_ints(PARTS, dims))

    def _kept_edits(self, tensor: Tensor, around: tuple[Field, ...]) -> Iterator[Edit]:
        """A tensor of a data file that stays as it is: it now stands in the new data file, or in the model."""
        span = self._held.span(tensor)
        if tensor.external is None or span is None:
            return
        place = self._packed.kept.get(span)
        dims = list(tensor.dims)
        if place is not None:
            new: list[bytes | Blob] = [wire.block(tensor.place.number, _external(tensor.name, tensor.dtype, dims, self._packed.data_name, place))]
        else:
            raw = self._held.read(span[0], span[1], span[2] - span[1]).tobytes()
            new = _blob(tensor.place.number, _tensor_head(tensor.name, tensor.dtype, dims), span, [raw])
        yield Edit(tensor.place.start, tensor.place.end, tuple(new), around)


def _free_prefix(model: Model) -> str:
    """With which no name of the model begins."""
    names = {name for graph in model.graphs for node in graph.nodes for name in (*node.inputs, *node.outputs)}
    names |= {name for graph in model.graphs for name, _ in graph.inputs} | {tensor.name for tensor in model.tensors()}
    prefix = "oc"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _tensor_head(name: str, dtype: int, dims: list[int]) -> bytes:
    sizes = b"".join(wire.number(protos.TENSOR_DIMS, dim) for dim in dims)
    return sizes + wire.number(protos.TENSOR_TYPE, dtype) + wire.block(protos.TENSOR_NAME, name)


def _tensor(name: str, dtype: int, dims: list[int], raw: bytes) -> bytes:
    return _tensor_head(name, dtype, dims) + wire.block(protos.TENSOR_RAW, raw)


def _blob(field: int, head: bytes, key: int | tuple[str, int, int], pieces: list[bytes | memoryview]) -> list[bytes | Blob]:
    """A tensor as a field of what holds it; its values are found again by `key`."""
    size = sum(map(len, pieces))
    body = head + wire.varint(protos.TENSOR_RAW << 3 | wire.LENGTH) + wire.varint(size)
    return [wire.varint(field << 3 | wire.LENGTH) + wire.varint(len(body) + size) + body, Blob(key, pieces)]


def _external(name: str, dtype: int, dims: list[int], location: str, place: Place) -> bytes:
    entries = {"location": location, "offset": str(place.at), "length": str(place.size)}
    body = b"".join(wire.block(protos.TENSOR_EXTERNAL, wire.block(1, key) + wire.block(2, value)) for key, value in entries.items())
    return _tensor_head(name, dtype, dims) + body + wire.number(protos.TENSOR_LOCATION, 1)
