"""Channels that carry nothing: constant whatever the inputs are, or read by nobody. They are removed, their constants folded into biases.

Proved from weights and the ranges of activations (ranges.py). Where a layer pads, or is a transposed convolution, an output at the border meets fewer
taps, so only channels that are 0 go there. As many as make up a multiple of `Chain.step` stay, all zero, which costs next to no bytes: an odd number of
channels would make the model slower.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from .channels import CONVOLVED_STEP, Chain, Reader, Slot, find_chains
from .constants import set_constant, tensor_of
from .cut_channels import Removed, add_to_bias, cut
from .fold_shapes import InferShapes
from .ranges import ANYTHING, Range, find_ranges


def remove_dead_channels(model: ir.Model) -> Removed:
    """In place; infers shapes. Goes on while anything goes: one channel may leave another unread."""
    removed, count = Removed(), -1
    while removed.total != count:
        count = removed.total
        InferShapes()(model)
        found = find_chains(model)
        ranges = find_ranges(model, found.layouts) if found.chains else {}
        stale: set[ir.Node] = set()
        for chain in reversed(found.chains):
            if stale.isdisjoint(chain.makers):
                stale.update(_remove_dead(model, chain, ranges, removed))
        if removed.total != count:
            common.RemoveUnusedNodesPass()(model)
    return removed


def dead_channels_note(removed: Removed) -> list[str]:
    """A sentence for the report, if anything went."""
    if not removed.total:
        return []
    note = f"{removed.channels} dead channels were removed from {len(removed.weights)} weights ({removed.bytes:,} bytes)"
    more = f", {removed.silenced} more are all zero: onnxruntime is faster with multiples of {CONVOLVED_STEP}"
    return [note + more * bool(removed.silenced)]


def _remove_dead(model: ir.Model, chain: Chain, ranges: dict[ir.Value, Range], removed: Removed) -> list[ir.Node]:
    """Removes the dead channels of a chain; gives the nodes that have a new constant, with which what was found of their own chain is out of date."""
    constants = [ranges.get(reader.source, ANYTHING).along(reader.slot.block * chain.channels).constant for reader in chain.readers]
    alive = np.zeros(chain.channels, np.bool_)
    for reader, constant in zip(chain.readers, constants, strict=True):
        alive |= _alive(reader, constant)
    kept = _rounded_up(alive, chain.step)
    silenced = _nonzero(chain, kept & ~alive)
    if kept.all() and not silenced.any():
        return []
    changed: list[ir.Node] = []
    for reader, constant in zip(chain.readers, constants, strict=True):
        changed += add_to_bias(model, reader, _folded(reader, constant, alive))
    for slot in _silenceable(chain) if silenced.any() else ():
        set_constant(slot.value, _zeroed(slot, kept & ~alive))
    removed.silenced += int(silenced.sum())
    cut(chain, np.flatnonzero(kept), removed)
    return changed


def _rounded_up(alive: NDArray[np.bool_], step: int) -> NDArray[np.bool_]:
    """With the first of the dead ones, up to a multiple of `step` that is not 0."""
    missing = -int(alive.sum()) % step if alive.any() else step
    kept = alive.copy()
    kept[np.flatnonzero(~alive)[:missing]] = True
    return kept


def _silenceable(chain: Chain) -> list[Slot]:
    """Where zeros may stand for a channel that nobody reads: not where it is made, if a division might meet them."""
    divides = any(node.op_type in ("Div", "Pow") for node in chain.makers)
    return [*(() if divides else chain.slots), *(reader.slot for reader in chain.readers)]


def _nonzero(chain: Chain, which: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Those of some channels that are not all zero yet."""
    found = np.zeros(len(which), np.bool_)
    for slot in _silenceable(chain) if which.any() else ():
        along = np.moveaxis(np.asarray(tensor_of(slot.value).numpy()), slot.axis, 0)
        found |= (along.reshape(len(which), -1) != 0).any(axis=1)
    return found & which


def _zeroed(slot: Slot, which: NDArray[np.bool_]) -> NDArray[np.generic]:
    array = np.array(tensor_of(slot.value).numpy())
    np.moveaxis(array, slot.axis, 0)[np.repeat(which, slot.block)] = 0
    return array


def _alive(reader: Reader, constant: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Channels that this layer reads and that may vary."""
    varies = np.isnan(constant) | ((constant != 0) & reader.pads)
    return np.asarray((reader.columns() != 0).any(axis=(0, 2)) & varies.reshape(-1, reader.slot.block).any(axis=1))


def _folded(reader: Reader, constant: NDArray[np.float64], alive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What the channels that are not alive add to the rows: W x. Without BLAS, whose sums depend on its number of threads."""
    dead = ~alive
    values = np.nan_to_num(constant).reshape(len(alive), reader.slot.block)[dead]
    columns = reader.columns()[:, dead].astype(np.float64)
    if reader.slot.block == 1:
        return np.asarray(np.einsum("rc,c->r", columns.sum(axis=2), values[:, 0]))
    return np.asarray(np.einsum("rct,ct->r", columns, values))
