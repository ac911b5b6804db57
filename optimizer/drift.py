"""Follows the drift: weights of a compressed model are rounded once more, in the order of the graph, for what they meet in it.

Behind weights that were compressed a layer meets x' where it met x. What makes up for that is no longer W but the least squares fit

    A = argmin E|W x - A x'|^2 = W + G C^-1,      C = E[x' x'^T],  G = W E[(x - x') x'^T]

(covariances where a bias takes up the mean), so A is what is rounded, with the error feedback of C. Each weight is settled before the next one is looked
at: the errors of one rounding have nothing in common with those of another, and layers that made up for the same drift at the same time would do so twice.

G C^-1 is noise where samples are few. So the step from W to A is that of three quarters of the data, and what is left judges it: how far C is shrunk off the
diagonal, and which part of the step is taken, 0..1. That part of the data had no say in the layers before either, else it would see less drift than there is.
Rounding is repeated at a step nearby so that a weight takes the bits that it had.

After: Li et al. 2025 (arXiv:2504.02692, GPTAQ), who feed this drift back without shrinking it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from ..passes.cholesky import solved
from ..passes.feedback import DAMPING, LEAST_VARIANCE
from ..passes.technique import Adjustable, Context, Refusal
from ..runtime.evaluate import viewed_values
from ..runtime.form import Form, Member
from .bias import correction
from .calibrate import Feed, masked
from .course import Array, Course
from .evidence import informed
from .moments import Moments, arranged, counted, each, multiplier
from .parallel import spread
from .plan import Choice, Layer, Remade
from .rig import as_input
from .shrinkage import MANY_COLUMNS, shrunk
from .sums import Half
from .trial import Sample, coded_bits
from .vectors import cut, vectors
from .weights import Weight

CHOICES, FEW_CHOICES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0), (0.05, 0.2, 0.7)
"""Shrinkages that are tried; the latter from MANY_COLUMNS on."""

JUDGE = 4
"""Every so many-th batch judges."""

COVARIANCES = 4
"""Copies of a covariance, two of them in float64, that a factorization holds at a time."""

NEAR_BITS = 1e-4
"""A weight may miss the bits that it had by this share."""

Floats = NDArray[np.float32]
Arrays = dict[str, Floats]
Run = Callable[[Callable[[int, Array, Array], list[list[Floats]]]], Iterable[list[list[Floats]]]]
"""Gives what a function makes of each feed's number, the original's value and the compressed model's; in the order of the feeds."""


@dataclass(frozen=True, slots=True, eq=False)
class Road:
    """A model, the data that runs through it, the initializers that must keep their bytes, and the number of threads."""

    model: ir.Model
    feeds: Sequence[Feed]
    untouchable: frozenset[str]
    threads: int


@dataclass(slots=True)
class Pair:
    """Sums over the vectors of one part of the data: `met` of x', `first` of x [m, k], `cross` of (x - x') x'^T [m, k, k]."""

    met: Half = field(default_factory=Half)
    first: NDArray[np.float64] | float = 0.0
    cross: Floats | None = None

    def add(self, x: Floats, met: Floats) -> None:
        """Adds vectors [m, n, k] of the original, and those that take their place."""
        self.met.add(met)
        self.first = self.first + x.sum(axis=1, dtype=np.float64)
        product = np.matmul((x - met).transpose(0, 2, 1), met)
        self.cross = product if self.cross is None else np.add(self.cross, product, out=self.cross)

    def asked(self, weight: Floats, centred: bool) -> tuple[Floats, Floats]:
        """(C [m, k, k], G [m, rows, k]) for a weight [m, rows, k]."""
        assert self.cross is not None
        matrix, cross = self.met.covariance(), self.cross / np.float32(self.met.count)
        mean = (np.asarray(self.met.first) / self.met.count).astype(np.float32)
        drift = (np.asarray(self.first) / self.met.count).astype(np.float32) - mean
        if centred:
            cross = cross - drift[:, :, None] * mean[:, None, :]
        else:
            matrix = matrix + mean[:, :, None] * mean[:, None, :]
        return matrix, np.matmul(weight, cross)


def followed(choices: Sequence[Choice], arrays: Arrays, road: Road, share: float, tick: Callable[[float], None]) -> list[Choice]:
    """The choices, settled where the weight meets what drifts; such weights take `share` of the bits that they had.

    `arrays` are what all weights and biases decode to so far, by the names of their initializers.
    """
    stages = _stages(road.model, choices)
    moving = {choice.weight.name for _, members in stages for choice in members}
    held = [value for choice in choices for value in (choice.weight.value, choice.layer.bias) if value is not None and choice.weight.is_float]
    course = Course(road.model, held, [source for source, _ in stages], road.feeds, road.threads)
    settled: dict[str, Choice] = {}
    replaced: dict[str, ort.OrtValue] = {}
    for choice in choices:
        if choice.weight.name not in moving:
            replaced |= _inputs(choice, arrays)
    for number, (_, members) in enumerate(stages):
        seen, judge = _sums(partial(course.stage, number, replaced), members, road.feeds)
        jobs = list(zip(members, seen, judge, strict=True))
        found = spread(lambda job: _settled(*job, road.untouchable, share), jobs, _largest, road.threads)
        for choice in found:
            settled[choice.weight.name] = choice
            replaced |= _inputs(choice, arrays if choice.layer.remade is None else _decoded(choice))
        tick((number + 1) / len(stages))
    return [settled.get(choice.weight.name, choice) for choice in choices]


def _largest(job: tuple[Choice, Pair, Pair]) -> int:
    """Values of the largest array that settling a weight works on: the weight, or its covariances, of which it takes several."""
    choice, seen, _ = job
    return max(choice.weight.view.size, 0 if seen.met.matrix is None else COVARIANCES * seen.met.matrix.size)


def _stages(model: ir.Model, choices: Sequence[Choice]) -> list[tuple[str, list[Choice]]]:
    """(inner value, the weights that it alone is multiplied with), in the order of the graph."""
    order = {node: number for number, node in enumerate(model.graph)}
    found: dict[str, tuple[int, list[Choice]]] = {}
    for choice in choices:
        value = _source(choice.weight) if choice.technique is not None else None
        producer = value.producer() if value is not None else None
        if producer is not None and producer in order:
            found.setdefault(str(value.name), (order[producer], []))[1].append(choice)  # type: ignore[union-attr]
    return [(name, members) for name, (_, members) in sorted(found.items(), key=lambda item: item[1][0])]


def _source(weight: Weight) -> ir.Value | None:
    """What the only use of a weight multiplies it with; None for several uses, and where vectors are no plain multipliers."""
    if len(weight.uses) != 1 or weight.uses[0].node.op_type in ("Gather", "ConvTranspose"):
        return None
    return multiplier(weight.uses[0])


def _inputs(choice: Choice, arrays: Mapping[str, Floats]) -> dict[str, ort.OrtValue]:
    """A compressed weight and its bias as inputs of the rig, in their own dtypes."""
    values = [value for value in (choice.weight.value, choice.layer.bias) if value is not None and str(value.name) in arrays]
    return {str(value.name): as_input(arrays[str(value.name)].astype(value.const_value.dtype.numpy(), copy=False), int(value.const_value.dtype)) for value in values}  # type: ignore[union-attr]


def _decoded(choice: Choice) -> Arrays:
    made = Member(choice.weight.dtype, choice.weight.view, choice.layer.remade.form)  # type: ignore[union-attr]
    bias = choice.layer.remade.bias  # type: ignore[union-attr]
    found = {choice.weight.name: choice.weight.view.unsee(viewed_values(made))}
    return found if bias is None else found | {str(choice.layer.bias.name): bias}  # type: ignore[union-attr]


def _sums(run: Run, members: Sequence[Choice], feeds: Sequence[Feed]) -> tuple[list[Pair], list[Pair]]:
    """The sums for each weight over what is seen, and over what judges. Weights that meet the same vectors share them."""
    cuts = [cut(choice.weight.uses[0], choice.weight.view) for choice in members]
    weights = {how: choice.weight for how, choice in zip(cuts, members, strict=True)}
    found = {how: (Pair(), Pair()) for how in weights}
    judges = len(feeds[::JUDGE])

    def cut_out(number: int, x: Array, met: Array) -> list[list[Floats]]:
        batches = len(feeds) - judges if number % JUDGE else judges
        return [[_vectors(weight, value, feeds[number], each(weight.view.k, batches)) for value in (x, met)] for weight in weights.values()]

    for number, many in enumerate(run(cut_out)):
        for pairs, (x, met) in zip(found.values(), many, strict=True):
            if x.shape[1]:
                pairs[number % JUDGE == 0].add(x, met)
    return [found[how][0] for how in cuts], [found[how][1] for how in cuts]


def _vectors(weight: Weight, x: Array, feed: Feed, most: int) -> Floats:
    use = weight.uses[0]
    return vectors(use, weight.view, counted(x, masked(feed)).astype(np.float32, copy=False), most)


def _settled(choice: Choice, seen: Pair, judge: Pair, untouchable: frozenset[str], share: float) -> Choice:
    """The choice with its weight rounded anew; as it was where nothing was seen, or where the technique refuses."""
    layer, weight = choice.layer, choice.weight
    if not seen.met.count or not judge.met.count:
        return choice
    values = weight.viewed()
    parts = values.reshape(len(np.asarray(seen.first)), -1, weight.view.k)
    aim = (parts + _step(seen.asked(parts, layer.bias is not None), judge.asked(parts, layer.bias is not None))).reshape(values.shape)
    before, after = _moments(seen, judge, layer)
    if before is None or after is None:
        return choice
    known = informed(layer, after, untouchable, lambda _, factor: lambda: factor)
    form = _rounded(choice, aim, known.context, share)
    if form is None:
        return choice
    bias = None
    if layer.bias is not None:
        left = viewed_values(Member(weight.dtype, weight.view, form))
        old = layer.bias.const_value.numpy()  # type: ignore[union-attr]
        bias = (old.astype(np.float32).reshape(-1) + correction(weight, values, before) - correction(weight, left, after)).reshape(old.shape)
    return replace(choice, layer=replace(layer, remade=Remade(form, bias)))


def _moments(seen: Pair, judge: Pair, layer: Layer) -> tuple[Moments | None, Moments | None]:
    """The moments of x, without squares, and of x' over all data."""
    count = seen.met.count + judge.met.count
    whole = seen.met.plus(judge.met)
    square = np.einsum("mkk->mk", np.asarray(whole.matrix)).astype(np.float64) / count
    mean, met, squares = (arranged(np.asarray(one), layer.weight) for one in ((seen.first + judge.first) / count, np.asarray(whole.first) / count, square))
    if mean is None or met is None or squares is None:
        return None, None
    matrix = shrunk(whole.covariance(), layer.shrinkage) if layer.context.factor is not None else None
    after = Moments(met.astype(np.float32), squares.astype(np.float32), count, matrix, layer.shrinkage)
    return replace(after, mean=mean.astype(np.float32), covariance=None), after


def _step(seen: tuple[Floats, Floats], judge: tuple[Floats, Floats]) -> Floats:
    """The part of G C^-1, C shrunk, that does best by the data of the judge; [m, rows, k]."""
    best, found = 0.0, np.zeros_like(seen[1])
    for shrinkage in CHOICES if seen[0].shape[1] < MANY_COLUMNS else FEW_CHOICES:
        step = _solved(*seen, shrinkage)
        along = float(np.einsum("mrk,mrk->", step, judge[1], dtype=np.float64))
        across = float(np.einsum("mrk,mrk->", step @ judge[0], step, dtype=np.float64))
        part = float(np.clip(along / max(across, 1e-30), 0, 1))
        gain = (2 * along - part * across) * part  # E|W (x - x')|^2 - E|W (x - x') - part step x'|^2
        if gain > best:
            best, found = gain, np.float32(part) * step
    return found


def _solved(matrix: Floats, cross: Floats, shrinkage: float) -> Floats:
    """G C^-1 for C shrunk off the diagonal; inputs that hardly ever move count as if they did, a little. Zeros where C is not positive for all that."""
    found = shrunk(matrix, shrinkage).astype(np.float64)
    diagonal = np.einsum("mkk->mk", found)
    mean = diagonal.mean(axis=1, keepdims=True)
    diagonal[...] = np.maximum(diagonal, np.maximum(LEAST_VARIANCE * mean, 1e-9 * mean.mean() + 1e-30)) * (1 + DAMPING)
    try:
        return np.stack([solved(one, right.T.astype(np.float64)).T for one, right in zip(found, cross, strict=True)]).astype(np.float32)
    except np.linalg.LinAlgError:
        return np.zeros_like(cross)


def _rounded(choice: Choice, aim: Floats, context: Context, share: float) -> Form | None:
    """The form of `aim` in `share` of the bits that the choice took; None where the technique refuses."""
    technique, made = choice.technique, choice.made()[1].form
    assert technique is not None
    sample = Sample(aim, context, 1.0, choice.layer.is_pooled)
    goal = (coded_bits(made, sample) or 0.0) * share
    form = technique.apply(aim, context)
    bits = None if isinstance(form, Refusal) else coded_bits(form, sample)
    if isinstance(form, Refusal) or bits is None:
        return None
    if isinstance(technique, Adjustable) and abs(bits - goal) > NEAR_BITS * goal:
        nearer = technique.at(2.0 ** ((bits - goal) / aim.size)).apply(aim, context)
        again = None if isinstance(nearer, Refusal) else coded_bits(nearer, sample)
        if not isinstance(nearer, Refusal) and again is not None and abs(again - goal) < abs(bits - goal):
            return nearer
    return form
