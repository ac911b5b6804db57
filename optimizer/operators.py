"""Our operators in a graph: their names, and where each has its weights (FORMAT.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

DOMAIN = "onnx_compress"

PAYLOAD_INPUTS = {
    "CompressedMatMul": (1,),
    "CompressedGemm": (1,),
    "CompressedConv": (1,),
    "CompressedGather": (0,),
    "CompressedLSTM": (1, 2),
    "CompressedGRU": (1, 2),
    "Decompress": (0,),
}
"""Which inputs are payloads, of all operators."""

PARTS = "parts"
"""The attribute by which Decompress gives parts of a weight."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """One weight that a node reads: its payload (None where the file is damaged) and the number of the member."""

    payload: ir.Value | None
    member: int


def reads(node: ir.Node) -> Iterator[Read]:
    """The weights that a node of ours reads, in the order of its inputs; nothing for an operator that is not known."""
    inputs = PAYLOAD_INPUTS.get(node.op_type, ())
    alone = (node.attributes.get_int("member", 0),)
    members = alone if len(inputs) == 1 else tuple(node.attributes.get_ints("members", (0,) * len(inputs)))
    for index, member in zip(inputs, members, strict=False):
        yield Read(node.inputs[index] if index < len(node.inputs) else None, member)
