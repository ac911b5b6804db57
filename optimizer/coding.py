"""Codes a plan: choices to payloads, each weight made, coded and dropped again, so that memory holds one weight a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..passes import tables, writer
from ..passes.planes import write_planes
from ..passes.technique import Technique
from ..runtime import library
from ..runtime.evaluate import centroid_numbers, dense_values
from ..runtime.form import Codebook, Mapped, Member
from .fold import Folded
from .parallel import spread
from .plan import Choice, Payload


class Coder:
    """Codes plans, one after the other: what two of them have in common is coded once."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._coded: dict[Key, Payload] = {}

    def code(self, choices: Sequence[Choice]) -> tuple[Payload, ...]:
        """The payloads of all choices: small weights in pools, folded ones and each other one by itself. The same bytes for any number of threads."""
        sharing = [choice for choice in choices if choice.layer.is_pooled and not choice.is_folded and not choice.is_exact_float]
        groups = [[sharing[place] for place in pool] for pool in writer.pools([choice.weight.view.size for choice in sharing])]
        pooled = {id(choice) for group in groups for choice in group}
        groups += [[choice] for choice in choices if id(choice) not in pooled]
        new = [group for group in groups if _key(group) not in self._coded]
        made = spread(_coded, new, lambda group: sum(choice.weight.view.size for choice in group), self._threads)
        known = self._coded | {_key(group): payload for group, payload in zip(new, made, strict=True)}
        self._coded = {_key(group): known[_key(group)] for group in groups}
        return tuple(_renewed(known[_key(group)], group) for group in groups)


def decoded(payload: Payload) -> list[dict[str, NDArray[np.float32]]]:
    """For each float weight of a payload, by initializer name, what a session will see of it: the weight as the bytes decode, and its bias."""
    found = []
    for number, choice in enumerate(payload.choices):
        if choice.technique is None:
            continue
        weight, bias = choice.weight, choice.layer.bias
        array = library.decode(payload.data, np.empty(weight.view.dims, ir.DataType(weight.dtype).numpy()), number) if payload.folded is None else payload.folded.array()
        arrays = {weight.name: array.astype(np.float32, copy=False)}
        if bias is not None and str(bias.name) in payload.biases:
            arrays[str(bias.name)] = payload.biases[str(bias.name)]
        found.append(arrays)
    return found


Key = tuple[tuple[str, Technique | None], ...]


def _key(group: Sequence[Choice]) -> Key:
    return tuple((choice.weight.name, choice.technique) for choice in group)


def _renewed(payload: Payload, group: Sequence[Choice]) -> Payload:
    """The payload with what is predicted now; a technique that was taken instead of another stays."""
    return replace(payload, choices=tuple(replace(old, predicted=new.predicted, times=new.times) for old, new in zip(payload.choices, group, strict=True)))


def _coded(group: list[Choice]) -> Payload:
    if group[0].is_exact_float:
        return _exact(group[0])
    taken, members = zip(*(choice.made() for choice in group), strict=True)
    return _payload(taken, members)


def _payload(choices: Sequence[Choice], members: Sequence[Member]) -> Payload:
    biases = {}
    for choice, made in zip(choices, members, strict=True):
        bias = choice.layer.corrected_bias(made) if choice.technique is not None else None
        if bias is not None:
            biases[str(choice.layer.bias.name)] = bias  # type: ignore[union-attr]
    zeros = tuple(map(_zeros, members))
    if choices[0].is_folded:
        return Payload(b"", tuple(choices), zeros, biases, Folded.of(members[0]))
    return Payload(_bytes(choices, members), tuple(choices), zeros, biases, shares=_shares(members))


def _shares(members: Sequence[Member]) -> tuple[float, ...]:
    """Each one's part of the bytes, by what its symbols take with tables of its own."""
    if len(members) == 1:
        return (1.0,)
    bits = [tables.rate(*tables.histogram(member.symbols.levels))[0] for member in members]
    return tuple(one / sum(bits) for one in bits)


def _exact(choice: Choice) -> Payload:
    """A weight of floats that keeps every bit."""
    weight = choice.weight
    array = np.ascontiguousarray(weight.array())
    pieces = write_planes(array.view(f"u{array.itemsize}"), weight.dtype, (weight.view,), any(use.kind == "Gather" for use in weight.uses))
    return Payload(b"".join(pieces), (choice,), (float(np.mean(array == 0)),), {})


def _bytes(choices: Sequence[Choice], members: Sequence[Member]) -> bytes:
    if choices[0].layer.is_pooled:
        return writer.write_pool(list(members))
    return writer.write(members[0], any(use.kind == "Gather" for use in choices[0].weight.uses))


def _zeros(made: Member) -> float:
    """The share of values that are exactly zero."""
    levels = made.symbols.levels
    if levels.size == 0:
        return 0.0
    if isinstance(made.form, Codebook | Mapped):
        return float((dense_values(made.form.centroids) == 0)[centroid_numbers(made.form, made.view.shape)].mean())
    return float(np.mean(levels == 0))
