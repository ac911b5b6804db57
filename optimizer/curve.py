"""The curve of a model: for a range of ratios, how large the file would be and how far its outputs would move. Nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from threadpoolctl import threadpool_limits

from .candidates import HIGH_BITS
from .compress import Clock, named, observed, prepare
from .emit import Emitted
from .files import Workspace
from .fit import Market
from .report import Curve, CurvePoint, Progress, Request, silent
from .study import Study

RATIOS = (2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0)

REACH_BITS = 1.0
"""Candidates made around a rate serve rates this far off: less than the reach of those with a trellis."""


def curve(source: str | Path, request: Request, progress: Progress = silent) -> Curve:
    """The curve of the model at `source`, measured on the calibration data of the request, or on made-up inputs.

    The target of the request does not count. Raises UsageError, CompressError.
    """
    source, clock = Path(source), Clock(progress)
    with Workspace(source, source, dry_run=True) as work, named(source):
        clock.start("reading")
        prepared = prepare(source, source, request)
        with threadpool_limits(1):  # sums of BLAS depend on its number of threads; the threads are ours
            prepared, evidence = observed(prepared, request, work.scratch, clock)
            study = Study(prepared.task(request), evidence, request, clock.start)
            targets = {ratio: int(prepared.bytes / ratio) for ratio in RATIOS}
            rates = [study.bits(size) for size in targets.values() if size > study.skeleton_bytes]
            around = bands(rates)
            for bits in around:
                study.extend(bits)
            study.probe_along([bits * study.values / 8 for bits in (*around, min(rates, default=0.0))])
            points = _points(study, targets, prepared.bytes, clock)
        clock.stop()
    out_of_reach = tuple(ratio for ratio in RATIOS if ratio not in {point.asked for point in points})
    return Curve(str(source), prepared.bytes, evidence.description, study.kind, points, out_of_reach, clock.seconds)


def bands(rates: Sequence[float]) -> list[float]:
    """Few rates such that each of `rates` has one of them within reach; one at least."""
    found: list[float] = []
    for rate in sorted(min(rate, HIGH_BITS) for rate in rates or [1.0]):
        if not found or rate > found[-1] + REACH_BITS:
            found.append(min(rate + REACH_BITS, HIGH_BITS, max(rates, default=rate)))
    return found


def _points(study: Study, targets: dict[float, int], bytes_before: int, clock: Clock) -> tuple[CurvePoint, ...]:
    """One point for each target that can be reached."""
    market, tick = study.market(), clock.start("measuring the curve")
    found, overhead = [], float(study.skeleton_bytes)
    for done, (ratio, size) in enumerate(targets.items()):
        made = _file(study, market, size, overhead)
        if made is not None:
            emitted, real, predicted_bytes = made
            overhead = real - predicted_bytes
            choices = [choice for payload in emitted.payloads for choice in payload.choices]
            families = Counter(choice.family for choice in choices)
            predicted = sum(choice.predicted for choice in choices)
            found.append(CurvePoint(ratio, real, bytes_before / real, predicted, study.divergence(emitted), dict(families.most_common())))
        tick((done + 1) / len(targets))
    return tuple(found)


def _file(study: Study, market: Market, target_bytes: int, overhead: float) -> tuple[Emitted, int, float] | None:
    """(a file of at most this size, its bytes, its weights' predicted bytes); None where there is none. One correction of the overhead."""
    made: tuple[Emitted, int, float] | None = None
    for _ in range(2):
        study.settle(target_bytes - overhead)
        numbers = market.allocate(target_bytes - overhead)
        if numbers is None:
            return None
        emitted, size = study.sizer.emit(market.choices(numbers))
        if size <= target_bytes:
            made = emitted, size, market.bytes(numbers)
            break
        overhead = max(size - market.bytes(numbers), overhead) + size - target_bytes
    return made
