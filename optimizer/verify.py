"""Runs a compressed model in a real session and compares it with its original and with its restored form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from ..passes.simplify import simplify
from ..runtime import session as compressed_session
from ..runtime.reader import read_header
from . import distortion
from .calibrate import Feed, load_calibration, masked
from .errors import CompressError, VerificationError
from .expand import open_compressed, restore_model
from .loading import load
from .lossless_restore import is_lossless, restore_lossless
from .operators import DOMAIN, Read, reads
from .rig import reason
from .save import KEPT_INLINE_BYTES
from .synthetic import synthesize

TOLERANCE = 1e-4
"""Largest difference of fused and restored outputs, in units of the largest output: sums in another order."""

TOLERANCE_FLOAT16 = 4e-3
"""The same where activations are float16."""

AS_ITSELF = 8
"""Fused and restored outputs may differ so many times as much as onnxruntime differs from itself, see `_agreement`."""

EQUAL_INTEGERS = 0.999
"""Share of integer outputs that must be equal: a class may flip where two scores tie."""

FLOAT_PRODUCTS = ("session.qdq_matmulnbits_accuracy_level", "1")
"""By default onnxruntime rounds the activations of a MatMul with dequantized weights to 8 bits where it recognises the pattern, which differs
between the two forms of a model by 0.5 % of the outputs. This makes it multiply floats."""

Outputs = Mapping[str, NDArray]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was seen: divergence from the original, its kind, the largest difference of fused and restored outputs (relative), and the outputs that say
    nothing: probabilities that were near 0 for all inputs.
    """

    divergence: float
    kind: distortion.Kind
    agreement: float
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What `onnx-compress verify` says."""

    original: str
    compressed: str
    inputs: str
    divergence: float
    divergence_kind: str
    fused_against_restored: float
    warnings: tuple[str, ...]


def verify(original: str | Path, compressed: str | Path, inputs: Sequence[str | Path] = (), max_divergence: float | None = None) -> VerifyReport:
    """Compares the two files on the given inputs, or on synthetic ones. Raises UsageError, CompressError, VerificationError."""
    original, compressed = Path(original), Path(compressed)
    model = load(original)
    open_compressed(compressed)
    feeds = load_calibration(inputs, model.graph.inputs) if inputs else synthesize(model, 0, {})
    checked = check(original, compressed, feeds, max_divergence)
    what = f"{len(feeds)} {'batches of the given' if inputs else 'synthetic'} inputs"
    return VerifyReport(str(original), str(compressed), what, checked.divergence, checked.kind, checked.agreement, loss_warnings(checked, bool(inputs)))


def check(
    original: Path, compressed: Path, feeds: Sequence[Feed], max_divergence: float | None, tick: Callable[[float], None] = lambda _: None
) -> Checked:
    """Runs original, compressed and restored model one after the other on `feeds`.

    Raises VerificationError where the compressed model gives a NaN that the original does not have, differs from its restored form, or moves
    its outputs by more than `max_divergence`.
    """
    kinds = _kinds(original)
    reference = run(_plain_session(original), feeds, lambda done: tick(done / 3))
    fused = run(_compressed_session(compressed), feeds, lambda done: tick((1 + done) / 3))
    _refuse_new_nans(reference, fused)
    each = [distortion.divergence(kinds, before, after, masked(feed)) for before, after, feed in zip(reference, fused, feeds, strict=True)]
    divergence = float(np.mean(each))
    with _restored(compressed) as path:
        agreement = _agreement(fused, path, feeds, _tolerance(compressed), lambda done: tick((2 + done) / 3))
    if max_divergence is not None and not divergence <= max(max_divergence, distortion.ROUNDING):
        raise VerificationError(f"the outputs differ by {divergence:.3g}, more than --max-divergence {max_divergence:g}: ask for a lower ratio, or give calibration data")
    probabilities = [name for name in distortion.counted(kinds) if kinds[name] == "probability"]
    silent = tuple(name for name in probabilities if all(distortion.is_silent(outputs[name]) for outputs in reference))
    return Checked(divergence, distortion.main_kind(kinds), agreement, silent)


def _kinds(original: Path) -> Mapping[str, distortion.Kind]:
    """The kinds of the outputs, read off the simplified graph: constants that are made at run time hide what an output is."""
    model = load(original)
    simplify(model)
    return distortion.kinds(model)


def run(session: ort.InferenceSession, feeds: Sequence[Feed], tick: Callable[[float], None] = lambda _: None) -> list[Outputs]:
    """The outputs of every feed by name. Raises CompressError where the runtime fails."""
    names = [output.name for output in session.get_outputs()]
    found: list[Outputs] = []
    for feed in feeds:
        try:
            found.append(dict(zip(names, session.run(names, dict(feed)), strict=True)))
        except Exception as error:  # onnxruntime raises many kinds
            raise CompressError(f"onnxruntime cannot run the model: {error}") from error
        tick(len(found) / len(feeds))
    return found


def _plain_session(path: Path, level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL) -> ort.InferenceSession:
    def made(options: ort.SessionOptions) -> ort.InferenceSession:
        options.graph_optimization_level = level
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    return _opened(path, made)


def _compressed_session(path: Path) -> ort.InferenceSession:
    """With the operator library, and with all checksums verified."""
    return _opened(path, lambda options: compressed_session(path, options, verify_checksums=True))


def _opened(path: Path, make: Callable[[ort.SessionOptions], ort.InferenceSession]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry(*FLOAT_PRODUCTS)
    try:
        return make(options)
    except Exception as error:  # onnxruntime raises many kinds
        raise CompressError(f"{path} does not load in onnxruntime: {reason(error)}; copy the file again, or compress the original again") from error


@contextmanager
def _restored(compressed: Path) -> Iterator[Path]:
    """A file of the restored model, for as long as it is needed."""
    with tempfile.TemporaryDirectory(dir=compressed.parent) as folder:
        path = Path(folder) / "restored.onnx"
        if is_lossless(compressed):
            restore_lossless(compressed, path, False, False)
        else:
            model = open_compressed(compressed)
            restore_model(model, str(compressed))
            ir.save(model, path, external_data="restored.data", size_threshold_bytes=KEPT_INLINE_BYTES)
            del model
        yield path


def _refuse_new_nans(reference: Sequence[Outputs], changed: Sequence[Outputs]) -> None:
    for before, after in zip(reference, changed, strict=True):
        for name, array in after.items():
            if array.dtype.kind == "f" and _has_new_nan(before[name], array):
                raise VerificationError(f"output {name!r} of the compressed model holds NaN where the original's does not: ask for a lower ratio, or exclude weights")


def _has_new_nan(before: NDArray, after: NDArray) -> bool:
    """Whether a value is NaN that was none; of arrays that do not compare, whether only one holds any."""
    if before.shape != after.shape:
        return bool(np.isnan(after).any() and not np.isnan(before).any())
    return bool((np.isnan(after) & ~np.isnan(before)).any())


def _tolerance(compressed: Path) -> float:
    """Looser where an operator of ours works on float16 activations: a 16-bit weight that is not cast."""
    model = ir.load(compressed)
    works_on = (node for node in model.graph.all_nodes() if node.domain == DOMAIN and "to" not in node.attributes)
    return TOLERANCE_FLOAT16 if any(_is_float16(read) for node in works_on for read in reads(node)) else TOLERANCE


def _is_float16(read: Read) -> bool:
    if read.payload is None or read.payload.const_value is None:
        return False
    return read_header(read.payload.const_value.numpy()).payload.members[read.member].dtype == ir.DataType.FLOAT16


def _agreement(fused: Sequence[Outputs], restored: Path, feeds: Sequence[Feed], tolerance: float, tick: Callable[[float], None]) -> float:
    """The largest difference of fused and restored outputs (see `_apart`).

    Where it is above `tolerance`, onnxruntime runs the restored model once more, without its optimizations and on inputs that differ in their last bits:
    outputs in which it differs from itself as much are rounding and nothing else (a Sigmoid of large negative numbers). Raises VerificationError for others.
    """
    outputs = run(_plain_session(restored), feeds, tick)
    _check_integers(fused, outputs)
    found = _apart(fused, outputs)
    if not max(found.values(), default=0.0) <= tolerance:
        itself = _apart(run(_plain_session(restored, ort.GraphOptimizationLevel.ORT_DISABLE_ALL), [_nudged(feed) for feed in feeds]), outputs)
        for name, share in found.items():
            own = itself[name] if np.isfinite(itself[name]) else 0.0
            if not share <= max(tolerance, AS_ITSELF * own):
                raise VerificationError(f"output {name!r} of the compressed model differs from the restored model's by {share:.2g} of its largest value: please report this as a bug")
    return max(found.values(), default=0.0)


def _nudged(feed: Feed) -> Feed:
    """The feed with floats that are larger or smaller by one unit in their last place or two."""
    rng = np.random.default_rng(0)
    made = dict(feed)
    for name, array in feed.items():
        if array.dtype.kind == "f":
            unit = float(np.finfo(array.dtype.type).eps)  # type: ignore[type-var]
            made[name] = (array.astype(np.float64) * (1 + unit * rng.choice((-1, 1), array.shape))).astype(array.dtype)
    return made


def _apart(ours: Sequence[Outputs], others: Sequence[Outputs]) -> dict[str, float]:
    """max|ours - others| / max|others| of each float output; both maxima are over all feeds, some of which an output may hardly answer. Infinite where
    shapes differ.
    """
    largest: dict[str, float] = {}
    apart: dict[str, float] = {}
    for one, other in zip(ours, others, strict=True):
        for name, array in one.items():
            if array.dtype.kind != "f":
                continue
            if array.shape != other[name].shape:
                apart[name] = np.inf
                continue
            a, b = array.astype(np.float64), other[name].astype(np.float64)
            finite = np.isfinite(b)
            largest[name] = max(largest.get(name, 1e-30), float(np.abs(b[finite]).max(initial=0.0)))
            apart[name] = max(apart.get(name, 0.0), _furthest(a[finite] - b[finite]))
    return {name: apart[name] / largest.get(name, 1.0) for name in apart}


def _furthest(differences: NDArray[np.float64]) -> float:
    """The largest magnitude; infinite where there is a NaN."""
    largest = float(np.abs(differences).max(initial=0.0))
    return np.inf if np.isnan(largest) else largest


def _check_integers(fused: Sequence[Outputs], restored: Sequence[Outputs]) -> None:
    for one, other in zip(fused, restored, strict=True):
        for name, array in one.items():
            whole = array.dtype.kind != "f" and array.size > 0 and array.shape == other[name].shape
            if whole and float(np.mean(array == other[name])) < EQUAL_INTEGERS - 1 / array.size:
                raise VerificationError(f"integers of output {name!r} differ between the compressed and the restored model: please report this as a bug")


SURPRISE = 2.0
"""A divergence of more than this times the predicted one deserves a word."""

NOISE_SHARE = 1e-3
"""Of the divergence that is warned of: below, a difference is of no consequence, and partly numerical noise."""


def surprise_warnings(checked: Checked, predicted: float, calibrated: bool) -> tuple[str, ...]:
    """The prediction is a sum over the weights, each measured alone: where errors work together, the plan was made on wrong grounds."""
    if checked.divergence <= max(SURPRISE * predicted, NOISE_SHARE * distortion.WARN_ABOVE[checked.kind]):
        return ()
    times = f"{checked.divergence / predicted:.1f} times" if predicted > 0 else "more than"
    data = "" if calibrated else "give --calibration data, "
    sentence = (
        f"the outputs moved by {checked.divergence:.2g}, {times} the {predicted:.2g} predicted: the errors of single weights add up to more than their sum, "
        f"so the bytes may not lie where they help most; {data}try --effort best, or ask for a lower ratio (--table shows each weight, predicted and measured)"
    )
    return (sentence,)


def loss_warnings(checked: Checked, calibrated: bool) -> tuple[str, ...]:
    """A loss that can be seen is never silent: what it is, and the remedies that are left."""
    limit = distortion.WARN_ABOVE[checked.kind]
    silent = tuple(
        f"output {name!r} stays below {distortion.SILENT:g} on all inputs, so the difference says little: give --calibration data that it answers to"
        for name in checked.silent
    )
    if checked.divergence <= limit:
        return silent
    remedy = "ask for a lower ratio" if calibrated else "give --calibration data, or ask for a lower ratio"
    return (*silent, f"the outputs moved by {checked.divergence:.2g} ({checked.kind}), above {limit:g}, where accuracy usually suffers: {remedy}")
