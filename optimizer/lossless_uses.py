"""The nodes of a file that operators of ours replace: those that look a tensor up, or multiply by it (for `lossless`)."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from ..runtime.form import View
from . import exact, protos, wire
from .emit import FUSED, KEPT_ATTRIBUTES
from .lossless_source import BFLOAT16, FLOAT, FLOAT16
from .operators import DOMAIN
from .protos import Graph, Node, Tensor, attribute_int
from .views import filters, matrix
from .wire import Data

KNOWN_ATTRIBUTES = {
    "Gather": {"axis"},
    "MatMul": set[str](),
    "Gemm": {"alpha", "beta", "transA", "transB"},
    "Conv": {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
}


FUSED_FROM_BYTES = {FLOAT: 1 << 18, FLOAT16: 1 << 21, BFLOAT16: 1 << 21}
"""Below this a weight is made whole for a moment: it then stays in the view that takes least (up to 1 % less), and outputs are onnxruntime's to the bit."""


@dataclass(frozen=True, slots=True)
class Use:
    """A node that an operator of ours replaces, and the view that it needs."""

    node: Node
    view: View

    @property
    def operator(self) -> str:
        """The operator of ours."""
        return FUSED[self.node.op_type]

    def kept(self, data: Data) -> bytes:
        """The attributes that stay, as they stand in the file."""
        names = KEPT_ATTRIBUTES.get(self.operator, ())
        return b"".join(bytes(data[place.start : place.end]) for name, place in self.node.attributes.items() if name in names)


@dataclass(frozen=True, slots=True)
class Readers:
    """What reads a tensor: `fused` become operators of ours, all in one view; `casts` to float go, since only these read them; `whole`: it is made whole
    for others, or for what reads the one Cast."""

    fused: tuple[Use, ...] = ()
    casts: tuple[Node, ...] = ()
    whole: bool = True

    @property
    def view(self) -> View | None:
        """The view that the payload must have, if any."""
        return self.fused[0].view if self.fused else None

    @property
    def widened(self) -> bool:
        """Whether it is made as float at once, in the place of a Cast."""
        return self.whole and bool(self.casts)

    @property
    def gathered(self) -> bool:
        """Whether rows are looked up."""
        return any(use.node.op_type == "Gather" for use in self.fused)


NONE = Readers()
Users = dict[str, list[tuple[int, Node]]]


def users_of(graphs: Sequence[Graph]) -> Users:
    """By name: the nodes that read it, with the numbers of their graphs."""
    users: Users = {}
    for number, graph in enumerate(graphs):
        for node in graph.nodes:
            for name in node.inputs:
                users.setdefault(name, []).append((number, node))
    return users


class Search:
    """Finds the readers of tensors."""

    def __init__(self, data: Data, graphs: Sequence[Graph]) -> None:
        self._data, self._graphs, self._users = data, graphs, users_of(graphs)

    def readers(self, graph: int, name: str, tensor: Tensor) -> Readers:
        """Multiplications by large tensors are replaced where nothing else needs them whole, lookups always."""
        nodes = self._nodes(graph, name)
        if nodes is None:
            return NONE
        casts = tuple(node for node in nodes if self._widens(node, tensor))
        direct = [self._use(node, name, tensor, (FLOAT, FLOAT16)) for node in nodes if node not in casts]
        behind = [use for cast in casts for use in self._behind(graph, cast, tensor)]
        found = [use for use in (*direct, *behind) if use is not None]
        view = next((use.view for use in sorted(found, key=lambda use: use.node.op_type != "Gather")), None)
        fused = tuple(use for use in found if use.view == view)
        large = tensor.dtype in FUSED_FROM_BYTES and exact.stored_bytes(tensor.dtype, tensor.size) >= FUSED_FROM_BYTES[tensor.dtype]
        lookups = tuple(use for use in found if use.node.op_type == "Gather")
        if fused and (large or lookups == fused) and len(fused) == len(direct) + len(behind):
            return Readers(fused, casts, False)
        if len(nodes) == len(casts) == 1:
            return Readers((), casts)
        return Readers(lookups) if lookups else NONE

    def _nodes(self, graph: int, name: str) -> list[Node] | None:
        """The nodes that read a name; None where graphs inside read it too, or where it is an output."""
        users = self._users.get(name, [])
        if name in self._graphs[graph].outputs or any(number != graph for number, _ in users):
            return None
        return list({node.place.start: node for _, node in users}.values())

    def _behind(self, graph: int, cast: Node, tensor: Tensor) -> list[Use | None]:
        """What reads a Cast of a tensor; None stands for a reader that cannot be replaced."""
        nodes = self._nodes(graph, cast.outputs[0])
        if not nodes:
            return [None]
        return [self._use(node, cast.outputs[0], tensor, (FLOAT, FLOAT16, BFLOAT16)) if node.op_type != "Gather" else None for node in nodes]

    def _widens(self, node: Node, tensor: Tensor) -> bool:
        """Whether a node casts to float what is no wider, which no value is changed by."""
        plain = node.op_type == "Cast" and node.domain in ("", "ai.onnx") and len(node.inputs) == len(node.outputs) == 1
        return plain and tensor.dtype in (FLOAT, FLOAT16, BFLOAT16) and attribute_int(self._data, node, "to", 0) == FLOAT

    def _use(self, node: Node, name: str, tensor: Tensor, types: Container[int]) -> Use | None:
        """How a node uses a tensor; None where no operator of ours does that. What is multiplied with is of one of `types`."""
        known = KNOWN_ATTRIBUTES.get(node.op_type)
        if known is None or node.domain not in ("", "ai.onnx") or not known.issuperset(node.attributes) or node.inputs.count(name) != 1:
            return None
        view = self._lookup(node, name, tensor) if node.op_type == "Gather" else None
        if node.op_type != "Gather" and tensor.dtype in types and len(node.inputs) > 1 and node.inputs[1] == name:
            view = self._multiplied(node, tensor.dims)
        return Use(node, view) if view is not None else None

    def _lookup(self, node: Node, name: str, tensor: Tensor) -> View | None:
        fits = len(tensor.dims) >= 2 and tensor.dims[0] > 1 and tensor.dtype not in exact.FOUR_BITS
        first = len(node.inputs) == 2 and node.inputs[0] == name and attribute_int(self._data, node, "axis", 0) == 0
        return exact.row_view(tensor.dims) if fits and first else None

    def _multiplied(self, node: Node, dims: tuple[int, ...]) -> View | None:
        rank = len(dims)
        match node.op_type:
            case "MatMul" if rank >= 2:
                return matrix(dims, by_columns=True)
            case "Gemm" if rank == 2:
                return matrix(dims, by_columns=not attribute_int(self._data, node, "transB", 0))
            case "Conv" if 3 <= rank <= 5:
                return filters(dims, attribute_int(self._data, node, "group", 1))
        return None


def fused_node(data: Data, use: Use, payload: str, likes: Sequence[str]) -> bytes:
    """The node of ours in the place of `use`, as a field of its graph."""
    node = use.node
    inputs = [payload, node.inputs[1], *likes] if use.operator == "CompressedGather" else [node.inputs[0], payload, *node.inputs[2:]]
    return ours(use.operator, inputs, node.outputs, node.name, use.kept(data))


def ours(op_type: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", attributes: bytes = b"") -> bytes:
    """A node of our domain, as a field of its graph."""
    body = b"".join([*(wire.block(protos.NODE_INPUT, one) for one in inputs), *(wire.block(protos.NODE_OUTPUT, one) for one in outputs)])
    named = wire.block(protos.NODE_NAME, name) if name else b""
    rest = wire.block(protos.NODE_OP_TYPE, op_type) + attributes + wire.block(protos.NODE_DOMAIN, DOMAIN)
    return wire.block(protos.GRAPH_NODE, body + named + rest)


def attribute_ints(name: str, values: Sequence[int]) -> bytes:
    """An attribute of integers, as a field of its node."""
    packed = b"".join(map(wire.varint, values))
    return wire.block(protos.NODE_ATTRIBUTE, wire.block(1, name) + wire.block(protos.ATTRIBUTE_INTS, packed) + wire.number(protos.ATTRIBUTE_TYPE, protos.TYPE_INTS))
