"""What lossless compression sees of an ONNX file: its graphs, their nodes and the tensors in them, by the bytes where they are.

Numbers of fields are those of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from . import wire
from .wire import Data, Field

MODEL_IR_VERSION, MODEL_GRAPH, MODEL_OPSETS, MODEL_METADATA, MODEL_FUNCTIONS = 1, 7, 8, 14, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_INTS, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_TYPE = 1, 3, 5, 6, 8, 10, 11, 20
TYPE_INTS = 7
FUNCTION_NODE = 7
VALUE_TYPE = 2
NO_TENSORS = {4: "a sequence", 5: "a map", 7: "opaque", 8: "a sparse tensor", 9: "an optional"}
"""TypeProto's fields besides tensor_type."""
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
TYPED_DATA = (4, 5, 6, 7, 10, 11)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A TensorProto at `place`. Its values are bytes `data` (start, end) of the file, or of the `external` file (location, offset, length or -1)."""

    place: Field
    name: str
    dtype: int
    dims: tuple[int, ...]
    data: tuple[int, int] | None
    external: tuple[str, int, int] | None

    @property
    def size(self) -> int:
        """Number of values."""
        size = 1
        for dim in self.dims:
            size *= dim
        return size


@dataclass(frozen=True, slots=True)
class Node:
    """A NodeProto at `place`, its attributes' fields by name, and the tensor of a Constant."""

    place: Field
    name: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Field]
    constant: Tensor | None


@dataclass(frozen=True, slots=True)
class Graph:
    """A GraphProto; `around` are the messages that hold it, itself last, outermost first."""

    around: tuple[Field, ...]
    nodes: list[Node] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    inputs: list[tuple[str, Field]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    @property
    def start(self) -> int:
        """Where its first field is."""
        return self.around[-1].body


@dataclass(frozen=True, slots=True)
class Model:
    """A ModelProto: its fields and all graphs in it, the main one first, then those inside its nodes. Functions are not looked into."""

    fields: list[Field]
    graphs: list[Graph]
    metadata: dict[str, str]
    stray_external: bool

    def placed_tensors(self) -> Iterator[tuple[Tensor, tuple[Field, ...]]]:
        """All tensors with the messages that hold each, outermost first."""
        for graph in self.graphs:
            yield from ((tensor, graph.around) for tensor in graph.tensors)
            yield from ((node.constant, (*graph.around, node.place, node.attributes["value"])) for node in graph.nodes if node.constant is not None)

    def tensors(self) -> Iterator[Tensor]:
        """The tensors of all graphs: initializers, and what Constants give."""
        yield from (tensor for tensor, _ in self.placed_tensors())


def read_model(data: Data) -> Model:
    """The model in `data`; no graphs where the file has another number of main graphs than one. Raises CompressError."""
    found = list(wire.fields(data, 0, len(data)))
    mains = [one for one in found if one.number == MODEL_GRAPH and one.kind == wire.LENGTH]
    graphs = list(_graphs(data, (mains[0],))) if len(mains) == 1 else []
    known = {tensor.place.start for graph in graphs for tensor in (*graph.tensors, *(node.constant for node in graph.nodes if node.constant))}
    stray = any(place.start not in known for one in found if one.number in (MODEL_GRAPH, MODEL_FUNCTIONS) for place in _externals(data, one))
    return Model(found, graphs, dict(_entry(data, one) for one in found if one.number == MODEL_METADATA), stray)


def read_metadata(data: Data) -> dict[str, str]:
    """The metadata of the model in `data`, whose graph is skipped. Raises CompressError."""
    return {key: value for key, value, _ in metadata_entries(data)}


def metadata_entries(data: Data) -> Iterator[tuple[str, str, Field]]:
    """Key, value and place of each. Raises CompressError."""
    yield from ((*_entry(data, one), one) for one in wire.fields(data, 0, len(data)) if one.number == MODEL_METADATA)


def data_locations(data: Data) -> set[str]:
    """The data files, as the model names them, of all tensors in its graphs and functions. Raises MalformedError."""
    bodies = [one for one in wire.fields(data, 0, len(data)) if one.number in (MODEL_GRAPH, MODEL_FUNCTIONS) and one.kind == wire.LENGTH]
    if all(one.number != MODEL_GRAPH for one in bodies):  # an empty file is a valid protobuf, and so is much junk
        raise wire.MalformedError("is no ONNX model (it has no graph): export or copy it again")
    tensors = (tensor for body in bodies for tensor in _externals(data, body))
    entries = (_entry(data, one) for tensor in tensors for one in wire.fields(data, tensor.body, tensor.end) if one.number == TENSOR_EXTERNAL)
    return {value for key, value in entries if key == "location"}


def no_tensors(data: Data) -> Iterator[tuple[str, str]]:
    """Inputs and outputs of the main graph that are no tensors, and weights that are sparse: (such as "output 'scores'", what it is). Raises MalformedError."""
    for graph in (one for one in wire.fields(data, 0, len(data)) if one.number == MODEL_GRAPH and one.kind == wire.LENGTH):
        for one in wire.fields(data, graph.body, graph.end):
            if one.number in (GRAPH_INPUT, GRAPH_OUTPUT):
                kinds = [NO_TENSORS[kind] for kind in _type_fields(data, one) if kind in NO_TENSORS]
                yield from ((f"{'input' if one.number == GRAPH_INPUT else 'output'} {_name(data, one)!r}", kind) for kind in kinds)
            elif one.number == GRAPH_SPARSE:
                values = (part for part in wire.fields(data, one.body, one.end) if part.number == 1)
                yield f"weight {next((_tensor(data, part).name for part in values), '')!r}", NO_TENSORS[8]


def _type_fields(data: Data, value: Field) -> Iterator[int]:
    for kind in (one for one in wire.fields(data, value.body, value.end) if one.number == VALUE_TYPE):
        yield from (one.number for one in wire.fields(data, kind.body, kind.end))


def _externals(data: Data, body: Field) -> Iterator[Field]:
    """Every tensor with external data in a graph or function, wherever it is."""
    node_field = GRAPH_NODE if body.number != MODEL_FUNCTIONS else FUNCTION_NODE
    for one in wire.fields(data, body.body, body.end):
        if one.number == node_field and one.kind == wire.LENGTH:
            for attribute in (a for a in wire.fields(data, one.body, one.end) if a.number == NODE_ATTRIBUTE and a.kind == wire.LENGTH):
                for value in (v for v in wire.fields(data, attribute.body, attribute.end) if v.kind == wire.LENGTH):
                    if value.number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS) and _is_external(data, value):
                        yield value
                    elif value.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                        yield from _externals(data, value)
        elif body.number != MODEL_FUNCTIONS and one.number == GRAPH_INITIALIZER and one.kind == wire.LENGTH and _is_external(data, one):
            yield one


def _is_external(data: Data, tensor: Field) -> bool:
    return any(one.number == TENSOR_LOCATION and one.value == 1 for one in wire.fields(data, tensor.body, tensor.end))


def _entry(data: Data, place: Field) -> tuple[str, str]:
    parts = {one.number: wire.text(data, one) for one in wire.fields(data, place.body, place.end) if one.kind == wire.LENGTH}
    return parts.get(1, ""), parts.get(2, "")


def _graphs(data: Data, around: tuple[Field, ...]) -> Iterator[Graph]:
    graph, inner = Graph(around), []
    for one in wire.fields(data, around[-1].body, around[-1].end):
        if one.kind != wire.LENGTH:
            continue
        if one.number == GRAPH_NODE:
            node = _node(data, one)
            graph.nodes.append(node)
            inner += [(*around, one, attribute) for attribute in node.attributes.values()]
        elif one.number == GRAPH_INITIALIZER:
            graph.tensors.append(_tensor(data, one))
        elif one.number == GRAPH_INPUT:
            graph.inputs.append((_name(data, one), one))
        elif one.number == GRAPH_OUTPUT:
            graph.outputs.append(_name(data, one))
    yield graph
    for path in inner:
        for one in wire.fields(data, path[-1].body, path[-1].end):
            if one.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS) and one.kind == wire.LENGTH:
                yield from _graphs(data, (*path, one))


def _name(data: Data, place: Field) -> str:
    return next((wire.text(data, one) for one in wire.fields(data, place.body, place.end) if one.number == 1), "")


def _node(data: Data, place: Field) -> Node:
    inputs, outputs, texts, attributes, constant = [], [], {}, {}, None
    for one in wire.fields(data, place.body, place.end):
        if one.number == NODE_INPUT:
            inputs.append(wire.text(data, one))
        elif one.number == NODE_OUTPUT:
            outputs.append(wire.text(data, one))
        elif one.number == NODE_ATTRIBUTE:
            attributes[_name(data, one)] = one
        elif one.kind == wire.LENGTH:
            texts[one.number] = wire.text(data, one)
    op_type, domain = texts.get(NODE_OP_TYPE, ""), texts.get(NODE_DOMAIN, "")
    if op_type == "Constant" and domain in ("", "ai.onnx") and list(attributes) == ["value"]:
        value = attributes["value"]
        tensors = [one for one in wire.fields(data, value.body, value.end) if one.number == ATTRIBUTE_TENSOR]
        constant = _tensor(data, tensors[0]) if len(tensors) == 1 else None
    return Node(place, texts.get(NODE_NAME, ""), op_type, domain, tuple(inputs), tuple(outputs), attributes, constant)


def attribute_int(data: Data, node: Node, name: str, otherwise: int) -> int:
    """An integer attribute of a node."""
    place = node.attributes.get(name)
    if place is None:
        return otherwise
    found = [wire.packed(data, one)[0] for one in wire.fields(data, place.body, place.end) if one.number == ATTRIBUTE_INT]
    return found[-1] if found else 0


def _tensor(data: Data, place: Field) -> Tensor:
    """A tensor whose values are not in one stretch of bytes (scattered, or in fields that name them twice) has neither data nor external."""
    dims: list[int] = []
    name, dtype, values, external, location = "", 0, [], [], 0
    for one in wire.fields(data, place.body, place.end):
        if one.number == TENSOR_DIMS:
            dims += wire.packed(data, one)
        elif one.number == TENSOR_TYPE:
            dtype = one.value
        elif one.number == TENSOR_NAME:
            name = wire.text(data, one)
        elif one.number == TENSOR_RAW or one.number in TYPED_DATA:
            values.append(one)
        elif one.number == TENSOR_EXTERNAL:
            external.append(_entry(data, one))
        elif one.number == TENSOR_LOCATION:
            location = one.value
    where = values[0] if len(values) == 1 and _is_plain(values[0], dtype) else None
    stretch = (where.body, where.end) if where and not location else None
    return Tensor(place, name, dtype, tuple(dims), stretch, _external(dict(external)) if location and not values else None)


def _is_plain(values: Field, dtype: int) -> bool:
    """Whether the bytes of a field are those of the values: raw_data, or packed floats or doubles."""
    return values.number == TENSOR_RAW or (values.kind == wire.LENGTH and (values.number, dtype) in ((4, 1), (10, 11)))


def _external(entries: dict[str, str]) -> tuple[str, int, int] | None:
    try:
        return entries["location"], int(entries.get("offset", "0")), int(entries.get("length", "-1"))
    except (KeyError, ValueError):
        return None
