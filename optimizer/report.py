"""What the user asks for (Request) and what came of it (Report): plain data, to and from JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from .effort import EFFORTS, Effort, effort_of
from .errors import UsageError
from .preference import POOL_VALUES, PREFERENCES, Pace

Progress: TypeAlias = Callable[[str, float], None]
"""Called with the name of the phase and the fraction of it that is done, 0..1."""

TECHNIQUES = ("auto", "quantize", "codebook", "mapped", "prune", "deep-compression", "lowrank")
HIGHEST_RATIO = 10_000.0
"""Far beyond any model: 0.003 bits for each 32-bit weight. A larger ratio is a slip of the keyboard."""

HIGHEST_DROP = 0.9

EXACT = "exact"
"""The kind of divergence of files whose weights all keep their bits."""


def silent(phase: str, fraction: float) -> None:
    """The Progress that shows nothing."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for. The goal is a ratio or a size; or, without either, `max_divergence`: then the smallest file within it.

    With a target, a file whose outputs differ by more than `max_divergence` is an error. `effort` is a name of `effort.py`, by default fast without
    calibration and balanced with it; `prefer` one of `preference.py`. `per_weight` measures the divergence of each chosen form alone, before drift is followed.
    `lossless` changes nothing at all, `lossless_weights` (regular expressions) keeps the bits of some weights. Raises UsageError where a value is out of its range.
    """

    target_ratio: float | None = None
    target_bytes: int | None = None
    calibration: tuple[Path, ...] = ()
    technique: str = "auto"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    max_divergence: float | None = None
    external_data: bool | None = None
    keep_overridable: bool = False
    seed: int = 0
    threads: int = 0
    force: bool = False
    dry_run: bool = False
    drop_channels: float = 0.0
    effort: str | None = None
    per_weight: bool = False
    prefer: str = "balanced"
    lossless: bool = False
    lossless_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_target()
        if self.technique not in TECHNIQUES:
            raise UsageError(f"technique {self.technique!r} is not known: choose one of {', '.join(TECHNIQUES)}")
        if self.effort is not None and self.effort not in EFFORTS:
            raise UsageError(f"effort {self.effort!r} is not known: choose one of {', '.join(EFFORTS)}")
        if self.prefer not in PREFERENCES:
            raise UsageError(f"preference {self.prefer!r} is not known: choose one of {', '.join(PREFERENCES)}")
        if self.lossless and (self.has_target or self.lossless_weights or self.drop_channels or self.max_divergence is not None):
            raise UsageError("--lossless changes nothing and takes the size that comes of it: leave out targets, --drop-channels and --lossless-weights, or leave out --lossless")
        for regex in (*self.include, *self.exclude, *self.lossless_weights):
            _check_regex(regex)
        for name, shape in self.input_shapes.items():
            if not all(size > 0 for size in shape):
                raise UsageError(f"shape {list(shape)} of input {name!r} is impossible: every dimension is at least 1")
        if self.max_divergence is not None and not self.max_divergence >= 0:
            raise UsageError(f"largest divergence {self.max_divergence:g} is impossible: give a number from 0 on")
        if not 0 <= self.drop_channels <= HIGHEST_DROP:
            raise UsageError(f"{self.drop_channels:g} of the channels cannot be dropped: give a fraction from 0 to {HIGHEST_DROP:g}, such as 0.05")
        if self.drop_channels and not self.calibration:
            raise UsageError("which channels matter is learned from data: give --calibration with --drop-channels")
        if self.seed < 0 or self.threads < 0:
            raise UsageError(f"seed {self.seed} and threads {self.threads} must be 0 or more (0 threads: all cores)")

    @property
    def level(self) -> Effort:
        """The level of effort that this asks for."""
        return effort_of(self.effort, bool(self.calibration))

    @property
    def pace(self) -> Pace | None:
        """How fast the result is to be, None where nothing counts but size and divergence."""
        return PREFERENCES[self.prefer]

    @property
    def pool_values(self) -> int:
        """How many values a weight has at most that shares a pool."""
        return POOL_VALUES[self.prefer]

    @property
    def has_target(self) -> bool:
        """Whether a size is asked for."""
        return self.target_ratio is not None or self.target_bytes is not None

    def check_goal(self) -> None:
        """Raises UsageError where nothing says how small the file is to become."""
        if not self.has_target and self.max_divergence is None and not self.lossless:
            raise UsageError(
                "how small? Give --target-ratio, such as 10, or --target-size, such as 500KB, or --max-divergence for the smallest file "
                "within it; --dry-run --curve shows what there is to choose from"
            )

    def _check_target(self) -> None:
        """At most one target, and a possible one."""
        if self.target_ratio is not None and self.target_bytes is not None:
            raise UsageError("give either --target-ratio or --target-size: both at once may contradict each other")
        if self.target_ratio is not None and not 1 <= self.target_ratio <= HIGHEST_RATIO:
            raise UsageError(
                f"target ratio {self.target_ratio:g} is impossible: it says how many times smaller the file becomes, from 1 to {HIGHEST_RATIO:g}"
            )
        if self.target_bytes is not None and self.target_bytes < 1:
            raise UsageError(f"target size {self.target_bytes} is impossible: give a number of bytes from 1 on, such as 500KB")


def _check_regex(regex: str) -> None:
    try:
        re.compile(regex)
    except re.error as error:
        raise UsageError(f"{regex!r} is no regular expression ({error}): a literal point or bracket needs a backslash") from None


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What became of one weight; `zeros` is the share of zeros after compression, `predicted` its share of the divergence.

    `measured` is the divergence with this weight alone compressed, NaN where the request did not ask for it. `placement` is "fused" (decoded inside the
    operators that use it), "decompressed" (decoded as a whole at every run, at least for some of its uses) or "folded" (dense in the session); `fused_us`
    and `folded_us` are what the cost model gives a run either way, `resident_bytes` what the placement keeps in memory between runs.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    operator: str
    form: str
    bytes_before: int
    bytes_after: int
    bits_per_weight: float
    zeros: float
    predicted: float
    measured: float = math.nan
    placement: str = "fused"
    fused_us: float = 0.0
    folded_us: float = 0.0
    resident_bytes: int = 0

    @property
    def microseconds(self) -> float:
        """Modelled, of one run, as the weight is placed."""
        return self.folded_us if self.placement == "folded" else self.fused_us


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a Request. Bytes are counted over all files of a model; `seconds` are by phase.

    `left_alone` holds (name, reason, bytes) of each weight that was not compressed, `inputs` says what `divergence` was measured on. `resident_bytes` is what
    all weights keep in memory, `modelled_us` what the cost model gives a run of all of them, what is reordered between them too, `folded_us` the same if all were folded.
    """

    source: str
    target: str
    bytes_before: int
    bytes_after: int
    ratio: float
    graph_bytes: int
    divergence: float
    divergence_kind: str
    inputs: str
    predicted: float
    fused_against_restored: float
    weights: tuple[WeightReport, ...]
    left_alone: tuple[tuple[str, str, int], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    resident_bytes: int = 0
    modelled_us: float = 0.0
    folded_us: float = 0.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The file that a ratio of `asked` gives: its bytes and ratio, the divergence predicted and measured, and the weights by winning family."""

    asked: float
    bytes: int
    ratio: float
    predicted: float
    measured: float
    families: dict[str, int]


@dataclass(frozen=True, slots=True)
class Curve:
    """What a model could become: one point for each ratio that can be reached. `inputs` says what was measured on, `seconds` are by phase."""

    source: str
    bytes_before: int
    inputs: str
    divergence_kind: str
    points: tuple[CurvePoint, ...]
    out_of_reach: tuple[float, ...]
    seconds: dict[str, float]


def to_json(report: Any) -> str:
    """A report, whatever its dataclass, as JSON text; numbers that are not finite become null, which every JSON reader knows."""
    return json.dumps(_plain(asdict(report)), indent=2, allow_nan=False, default=str)


def from_json(text: str) -> Report:
    """The inverse of `to_json` for a Report; null becomes NaN. Raises UsageError where the text is no report."""
    try:
        content = json.loads(text)
        weights = tuple(WeightReport(**_typed(WeightReport, weight)) for weight in content["weights"])
        left_alone = tuple((str(name), str(reason), int(size)) for name, reason, size in content["left_alone"])
        texts = {name: tuple(content[name]) for name in ("notes", "warnings")}
        return Report(**{**_typed(Report, content), "weights": weights, "left_alone": left_alone, **texts})
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"this text is no report of onnx-compress ({type(error).__name__}: {error}): give what --json printed") from None


def _typed(kind: type[WeightReport | Report], content: dict[str, Any]) -> dict[str, Any]:
    """The fields of `content` with the types that JSON does not keep."""
    floats = {item.name for item in fields(kind) if item.type == "float"}
    typed: dict[str, Any] = {name: math.nan if value is None and name in floats else value for name, value in content.items()}
    return {**typed, "dims": tuple(typed["dims"])} if "dims" in typed else typed


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a scalar of numpy
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
