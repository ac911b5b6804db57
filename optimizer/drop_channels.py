"""Drops the channels that the model misses least, whole chains at a time, and fits the layers that read them anew.

A channel's sensitivity is the error that its absence leaves in the layers that read it, once their other weights have made up for it
(elimination.py), times how far the model's outputs move for one unit of that error: one probe a reader. The least sensitive channels of the whole
model go first, until a fraction of all is gone; no chain loses more than half. What is read again is fitted by least squares on calibration data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
from numpy.typing import NDArray

from ..passes.channels import Chain, Reader, find_chains
from ..passes.constants import set_constant, stored, tensor_of
from ..passes.cut_channels import Removed, add_to_bias, cut
from ..passes.fold_shapes import ForgetShapes, InferShapes
from .calibrate import Feed, samples
from .covariances import LARGEST, Covariance, covariances, measure_halves
from .elimination import Elimination, Refit, refit, weights_of
from .probe import Prober
from .sensitivity import LEAST

MOST = 0.5
"""Share of a chain's channels that may go."""

PROBED = 0.125
"""Share of a chain's channels whose absence is probed."""

ROUNDS = 3
"""Of probing what was chosen and choosing anew: the outputs do not move in proportion to a layer's error."""

MOST_PROBES = 128
"""Samples that probes see."""

NAMED = 12
"""Weights that the note names."""


@dataclass(frozen=True, slots=True)
class Drop:
    """What is asked for: a fraction of all channels in chains that may lose some; `random` draws them instead, for comparison."""

    fraction: float
    threads: int = 0
    seed: int = 0
    random: bool = False


@dataclass(slots=True, eq=False)
class _Plan:
    """One chain: its readers' covariances, those over the samples that are no probes, the channels to go, and each reader's importance."""

    chain: Chain
    covariances: list[Covariance]
    seen: list[Covariance]
    gone: list[int] = field(default_factory=list)
    importances: list[float] = field(default_factory=list)

    @property
    def most(self) -> int:
        """How many channels may go."""
        return int(self.chain.channels * MOST) // self.chain.step * self.chain.step

    def kept(self, gone: Sequence[int]) -> NDArray[np.bool_]:
        """All but those."""
        kept = np.ones(self.chain.channels, np.bool_)
        kept[list(gone)] = False
        return kept

    def refits(self, gone: Sequence[int], covariances: Sequence[Covariance]) -> list[Refit]:
        """What becomes of the readers without those channels."""
        return [refit(reader, one, self.kept(gone)) for reader, one in zip(self.chain.readers, covariances, strict=True)]


def drop_channels(model: ir.Model, feeds: Sequence[Feed], drop: Drop) -> tuple[str, ...]:
    """Drops channels in place, once the model is simplified; returns notes for people. Raises CompressError."""
    InferShapes()(model)
    chains = [chain for chain in find_chains(model).chains if chain.channels <= LARGEST]
    ForgetShapes()(model)
    if not chains:
        return ("no channels were dropped: no layer's outputs run to other layers alone",)
    plans = _measured(model, chains, feeds)
    wanted = round(drop.fraction * sum(chain.channels for chain in chains))
    if drop.random:
        _draw(plans, wanted, np.random.default_rng(drop.seed))
        return _apply(model, plans)
    prober = Prober(model, [value for chain in chains for reader in chain.readers for value in _changed(reader)], probes_of(feeds), drop.threads)
    for _ in range(ROUNDS):
        _probe(plans, prober)
        _choose(plans, wanted)
    return _apply(model, plans)


def probes_of(feeds: Sequence[Feed]) -> tuple[Feed, ...]:
    """Every third batch, at most MOST_PROBES samples."""
    held_out = feeds[1::3] or feeds
    return tuple(held_out[: max(1, MOST_PROBES // max(samples(held_out[:1]), 1))])


def _measured(model: ir.Model, chains: Sequence[Chain], feeds: Sequence[Feed]) -> list[_Plan]:
    """Covariances over all feeds, and over those that are no probes: what is fitted to few samples looks better on them than it is, and probes see that."""
    probes = {id(feed) for feed in probes_of(feeds)}
    readers = [reader for chain in chains for reader in chain.readers]
    parts = [[feed for feed in feeds if (id(feed) in probes) == inside] for inside in (False, True)]
    halves = zip(*(measure_halves(model, readers, part) for part in parts), strict=True)
    plans = []
    for chain in chains:
        found = [covariances(reader, weights_of(reader), *next(halves)) for reader in chain.readers]
        plans.append(_Plan(chain, [whole for whole, _ in found], [seen for _, seen in found]))
    return plans


def _draw(plans: Sequence[_Plan], wanted: int, rng: np.random.Generator) -> None:
    """Channels at random, as many at a time as keep the chain's step."""
    while wanted > 0:
        sizes = np.array([plan.chain.channels * (len(plan.gone) < plan.most and plan.chain.step <= wanted) for plan in plans], np.float64)
        if not sizes.any():
            return
        plan = plans[rng.choice(len(plans), p=sizes / sizes.sum())]
        left = np.flatnonzero(plan.kept(plan.gone))
        plan.gone += rng.choice(left, plan.chain.step, replace=False).tolist()
        wanted -= plan.chain.step


def _choose(plans: Sequence[_Plan], wanted: int) -> None:
    """The least sensitive over all chains; each offers its next few."""
    offers = [_offers(plan) for plan in plans]
    ready = [next(offer, None) for offer in offers]
    for plan in plans:
        plan.gone = []
    while wanted > 0:
        open_ones = [(one[1] / len(one[0]), number) for number, one in enumerate(ready) if one is not None and len(one[0]) <= wanted]
        if not open_ones:
            return
        number = min(open_ones)[1]
        channels, _ = ready[number] or ([], 0.0)
        plans[number].gone += channels
        wanted -= len(channels)
        ready[number] = next(offers[number], None)


def _offers(plan: _Plan) -> Iterator[tuple[list[int], float]]:
    """(the next channels to go, what that costs), a step at a time."""
    elimination = Elimination(plan.chain, plan.covariances, plan.importances)
    for _ in range(plan.most // plan.chain.step):
        taken = [elimination.take() for _ in range(plan.chain.step)]
        yield [channel for channel, _ in taken], sum(cost for _, cost in taken)


def _probe(plans: Sequence[_Plan], prober: Prober) -> None:
    """Divergence for one unit of error, for every reader: without an eighth of the channels at first, then without those that were chosen."""
    jobs = [(plan, number, reader, fitted) for plan in plans for number, (reader, fitted) in enumerate(_trials(plan))]
    moved = prober.divergences(_replacement(reader, fitted) for _, _, reader, fitted in jobs)
    worst = max((one for one in moved if np.isfinite(one)), default=1.0)
    for (plan, number, reader, fitted), one in zip(jobs, moved, strict=True):
        error = fitted.error + (0.0 if len(_changed(reader)) > 1 else float(np.square(fitted.shift).sum()))
        plan.importances += [0.0] * (len(plan.chain.readers) - len(plan.importances))
        plan.importances[number] = max(one if np.isfinite(one) else 10 * worst, LEAST) / max(error, LEAST)


def _trials(plan: _Plan) -> Iterator[tuple[Reader, Refit]]:
    """What becomes of the readers without some channels; nothing to try where a choice has been made and none was chosen."""
    if plan.importances and not plan.gone:
        return
    gone = list(plan.gone)
    if not gone:
        elimination = Elimination(plan.chain, plan.covariances, [1.0] * len(plan.covariances))
        gone = [elimination.take()[0] for _ in range(max(1, int(plan.chain.channels * PROBED)))]
    yield from zip(plan.chain.readers, plan.refits(gone, plan.seen), strict=True)


def _changed(reader: Reader) -> list[ir.Value]:
    """The constants that a refit of this reader changes and that a probe can replace: its weight, and the bias of its own."""
    bias = stored(reader.node.inputs[2]) if reader.node.op_type in ("Conv", "Gemm") and len(reader.node.inputs) > 2 else None
    rows = len(reader.columns())
    fits = bias is not None and tensor_of(bias).size == rows and "beta" not in reader.node.attributes and "alpha" not in reader.node.attributes
    return [reader.slot.value, *([bias] if bias is not None and fits and len(list(bias.uses())) == 1 else [])]


def _replacement(reader: Reader, fitted: Refit) -> dict[str, NDArray[np.float32]]:
    values = _changed(reader)
    replaced = {str(values[0].name): reader.uncolumns(fitted.columns).astype(np.float32)}
    for bias in values[1:]:
        old = tensor_of(bias).numpy().astype(np.float32)
        replaced[str(bias.name)] = (old.reshape(-1) + fitted.shift.astype(np.float32)).reshape(old.shape)
    return replaced


def _apply(model: ir.Model, plans: Sequence[_Plan]) -> tuple[str, ...]:
    """Writes new weights and biases first, then cuts: a bias that is new belongs to a chain as well."""
    gone = {}
    for plan in (plan for plan in plans if plan.gone):
        for reader, fitted in zip(plan.chain.readers, plan.refits(plan.gone, plan.covariances), strict=True):
            dtype = tensor_of(reader.slot.value).dtype.numpy()
            set_constant(reader.slot.value, reader.uncolumns(fitted.columns).astype(dtype))
            add_to_bias(model, reader, fitted.shift)
            gone[reader.slot.value] = plan
    removed, counts = Removed(), []
    InferShapes()(model)
    for chain in find_chains(model).chains:
        found = gone.get(chain.readers[0].slot.value)
        if found is not None:
            cut(chain, np.flatnonzero(found.kept(found.gone)), removed)
            counts.append((len(found.gone), _maker(chain)))
    ir.passes.common.RemoveUnusedNodesPass()(model)
    ForgetShapes()(model)
    return (_note(removed, counts, sum(plan.chain.channels for plan in plans)),)


def _maker(chain: Chain) -> str:
    """The name of the first weight that lost rows."""
    return str(chain.slots[0].value.name)


def _note(removed: Removed, counts: Sequence[tuple[int, str]], total: int) -> str:
    named = ", ".join(f"{count} from {name}" for count, name in sorted(counts, key=lambda one: -one[0])[:NAMED])
    more = f" and {len(counts) - NAMED} others" * (len(counts) > NAMED)
    return f"{removed.channels} of {total} channels were dropped ({removed.bytes:,} bytes of {len(removed.weights)} weights): {named or 'none'}{more}"
