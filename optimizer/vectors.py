"""The vectors that a weight is multiplied with, cut out of a consumer's input.

| consumer | x, for weight [batch, rows, k] | vectors [m, n, k] |
|---|---|---|
| MatMul, Gemm | the last axis of the input (of the right matrix for a weight on the left) | m = 1 or batch |
| Conv | channel and kernel position, padding included: exactly the input values that the filter meets | m = groups |
| ConvTranspose | input channel; each kernel position meets the same | m = 1 |
| LSTM, GRU, RNN | the input for W, the outputs for R (each direction its own) | m = 1 or batch |

The rows of a weight use the m sets in equal parts, one after the other.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..runtime.form import View
from .weights import Use

RECURRENT = ("LSTM", "GRU", "RNN")

Floats = NDArray[np.float32]


def vectors(use: Use, view: View, x: Floats, most: int) -> Floats:
    """At most about `most` vectors, float32 [m, n, k], evenly spread over the positions; ConvTranspose: [1, n, channels]."""
    node = use.node
    if node.op_type == "Conv":
        return patches(x, Geometry.of(node, view), most)
    if node.op_type == "ConvTranspose":
        return _thinned(np.moveaxis(x.reshape(*x.shape[:2], -1), 1, 2).reshape(1, -1, x.shape[1]), most)
    if node.op_type in RECURRENT and use.index == 2:
        directions = np.moveaxis(x, 2 if node.attributes.get_int("layout", 0) == 1 else 1, 0)
        return _thinned(directions.reshape(view.batch, -1, view.k), most)
    if node.op_type == "MatMul" and use.index == 0:
        x = np.swapaxes(x, -1, -2)
    if node.op_type == "Gemm" and node.attributes.get_int("transA", 0) == 1:
        x = x.T
    own = view.batch > 1 and node.op_type == "MatMul" and x.shape[-len(view.dims) : -2] == view.dims[:-2]
    if own:  # every matrix of the stack meets inputs of its own
        stacked = x.reshape(-1, view.batch, x.shape[-2], x.shape[-1])
        return _thinned(np.moveaxis(stacked, 1, 0).reshape(view.batch, -1, x.shape[-1]), most)
    return _thinned(x.reshape(1, -1, x.shape[-1]), most)


def cut(use: Use, view: View) -> Hashable:
    """What `vectors` goes by: uses of one value that have this in common meet the same vectors."""
    node = use.node
    how: Hashable = node.attributes.get_int("transA", 0), node.attributes.get_int("layout", 0)
    if node.op_type in ("Conv", "MatMul"):
        how = Geometry.of(node, view) if node.op_type == "Conv" else view.dims[:-2]
    return node.op_type, use.index, view.batch, view.k, how


def _thinned(x: Floats, most: int) -> Floats:
    """[m, n, k], at most about `most` of n, evenly spread."""
    return x if x.shape[1] <= most else x[:, spread(x.shape[1], most)]


def spread(count: int, most: int) -> NDArray[np.intp]:
    """At most `most` of the numbers below `count`, ascending: one from each of as many equal parts, anywhere in it.

    Equal distances would not do: of every 32nd position of a 32 x 32 image all lie in its first column, where part of a filter only ever meets padding.
    """
    number = np.arange(min(count, most))
    first, behind = number * count // len(number), (number + 1) * count // len(number)
    return np.asarray(np.random.default_rng(0).integers(first, behind), np.intp)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A convolution: groups, and for each spatial axis kernel size, stride, dilation and padding (begin, end; None: by `auto_pad`)."""

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
            attributes.get_int("group", 1),
            kernel,
            tuple(attributes.get_ints("strides", ones)),
            tuple(attributes.get_ints("dilations", ones)),
            tuple(attributes.get_ints("pads", [0] * (2 * len(kernel)))),
            attributes.get_string("auto_pad", "NOTSET"),
        )

    def padding(self, axis: int, size: int) -> tuple[int, int]:
        """Zeros before and behind a spatial axis of `size`."""
        reach, stride = (self.kernel[axis] - 1) * self.dilations[axis] + 1, self.strides[axis]
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            whole = max((-(-size // stride) - 1) * stride + reach - size, 0)
            begin = (whole + (self.auto_pad == "SAME_LOWER")) // 2
            return begin, whole - begin
        return (self.pads[axis], self.pads[axis + len(self.kernel)]) if self.auto_pad == "NOTSET" else (0, 0)


def patches(x: Floats, geometry: Geometry, most: int) -> Floats:
    """[groups, n, k] of x [N, C, ...]: what the filter meets at at most `most` output positions, evenly spread."""
    padded = np.pad(x, [(0, 0), (0, 0), *(geometry.padding(axis, size) for axis, size in enumerate(x.shape[2:]))])
    reach = tuple((k - 1) * d + 1 for k, d in zip(geometry.kernel, geometry.dilations, strict=True))
    if any(size < need for size, need in zip(padded.shape[2:], reach, strict=True)):
        return np.empty((geometry.groups, 0, x.shape[1] // geometry.groups * int(np.prod(geometry.kernel))), np.float32)
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)  # [N, C, positions.., kernel..]
    windows = windows[tuple(slice(None, None, step) for step in (1, 1, *geometry.strides, *geometry.dilations))]
    positions = (windows.shape[0], *windows.shape[2 : x.ndim])
    sample, *place = np.unravel_index(spread(int(np.prod(positions)), most), positions)
    found = np.moveaxis(windows, 1, x.ndim - 1)[sample, *place]  # [n, C, kernel..]
    return np.ascontiguousarray(found.reshape(len(sample), geometry.groups, -1).transpose(1, 0, 2))
