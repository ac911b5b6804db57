"""What each tap of a convolution's filters meets: sums over all output positions, exact at the borders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.form import View

Sums = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution: its view, groups, and for each spatial axis kernel size, stride, dilation and padding (begin, end; None: by `auto_pad`)."""

    view: View
    groups: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    @staticmethod
    def of(node: ir.Node, view: View) -> Geometry:
        """From a Conv node and the view of its filters [O, I / group, ..]."""
        kernel, ones = view.dims[2:], [1] * (len(view.dims) - 2)
        attributes = node.attributes
        return Geometry(
            view,
            attributes.get_int("group", 1),
            kernel,
            tuple(attributes.get_ints("strides", ones)),
            tuple(attributes.get_ints("dilations", ones)),
            tuple(attributes.get_ints("pads", [0] * (2 * len(kernel)))),
            attributes.get_string("auto_pad", "NOTSET"),
        )

    def positions(self, axis: int, size: int) -> tuple[int, int]:
        """How many outputs a spatial axis of `size` has, and the padding before it."""
        reach, stride = (self.kernel[axis] - 1) * self.dilations[axis] + 1, self.strides[axis]
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-size // stride)
            padding = max((count - 1) * stride + reach - size, 0)
            return count, (padding + (self.auto_pad == "SAME_LOWER")) // 2
        begin, end = (self.pads[axis], self.pads[axis + len(self.kernel)]) if self.auto_pad == "NOTSET" else (0, 0)
        return max((size + begin + end - reach) // stride + 1, 0), begin


def tap_sums(x: NDArray[np.float32], geometry: Geometry) -> tuple[Sums, Sums, int]:
    """Sums of x and x^2 [N, C, ...] over samples and output positions, for each tap, and the number of those positions.

    The sums broadcast against the view [batch, rows, k]: [1, 1, k], with groups [groups, 1, k] or [1, rows, k].
    """
    count = x.shape[0]
    for axis, size in enumerate(x.shape[2:]):
        count *= geometry.positions(axis, size)[0]
    first = _arranged(_per_tap(x.sum(axis=0, dtype=np.float32), geometry), geometry)
    second = _arranged(_per_tap(np.einsum("n...,n...->...", x, x), geometry), geometry)
    return first, second, count


def _per_tap(summed: NDArray[np.float32], geometry: Geometry) -> Sums:
    """[C, ...] values to [C, taps] sums: one axis after the other. Without BLAS, whose sums depend on its number of threads."""
    result: Sums = summed.astype(np.float64)
    for axis, size in enumerate(summed.shape[1:]):
        # Each axis goes from its place to the end: afterwards they are in order again.
        result = np.einsum("cs...,ts->c...t", result, _visits(geometry, axis, size))
    return result.reshape(summed.shape[0], -1)


def _visits(geometry: Geometry, axis: int, size: int) -> Sums:
    """[taps, size]: 1 where the tap meets that input position at some output position."""
    count, begin = geometry.positions(axis, size)
    visits = np.zeros((geometry.kernel[axis], size))
    for tap in range(geometry.kernel[axis]):
        met = tap * geometry.dilations[axis] - begin + geometry.strides[axis] * np.arange(count)
        visits[tap, met[(met >= 0) & (met < size)]] = 1
    return visits


def _arranged(taps: Sums, geometry: Geometry) -> Sums:
    """[C, taps] to what broadcasts against the view."""
    groups, view = geometry.groups, geometry.view
    if groups == 1:
        return taps.reshape(1, 1, -1)
    grouped = taps.reshape(groups, 1, -1)
    if view.batch == groups:
        return grouped
    return np.repeat(grouped, view.rows // groups, axis=1).reshape(1, view.rows, -1)
