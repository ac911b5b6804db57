"""What the tensors of a file became: payloads, and which tensor is in which (for `lossless`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .lossless_uses import NONE, Readers
from .protos import Node, Tensor
from .recipe import Place


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor that may be coded: an initializer (its graph's number), or what the Constant `node` gives."""

    graph: int
    tensor: Tensor
    name: str
    node: Node | None
    readers: Readers = NONE

    @property
    def given(self) -> str:
        """The name under which it is given to its readers: its own, or that of the Cast that goes."""
        return self.readers.casts[0].outputs[0] if self.readers.widened else self.name


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that was coded: payload `number`, read in a manner of `recipe`; `start`: bytes before it, where it is a part."""

    item: Item
    number: int
    manner: int
    form: str
    bytes_before: int
    bytes_after: int
    start: int = 0

    @property
    def name(self) -> str:
        """Its name in the graph."""
        return self.item.name


@dataclass(slots=True)
class Packed:
    """All that was coded: `pieces` of payloads that go into the model by number, `places` of those in the data file."""

    weights: list[Weight] = field(default_factory=list)
    left_alone: list[tuple[str, str, int]] = field(default_factory=list)
    pieces: dict[int, list[bytes | memoryview]] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)
    kept: dict[tuple[str, int, int], Place] = field(default_factory=dict)
    data_name: str = ""
    identity: bytes = b""
