"""A small convolutional net for scikit-learn's digits (8x8 images), trained in plain numpy.

    image [batch, 1, 8, 8] -> Conv 3x3, 24 -> Relu -> Conv 3x3, 48 -> Relu -> MaxPool 2x2 -> Gemm, 176 -> Relu -> Gemm, 10 -> logits

About 150 K parameters: 600 KB as fp32. `python models/digits.py demo/digits.onnx` writes the model and, beside it,
digits_calibration.npz (key `image`) and digits_eval.npz (keys `image`, `label`). This file imports no sibling, so that it runs as a script.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

Array = NDArray[np.float32]

FIRST, SECOND, HIDDEN, CLASSES = 24, 48, 176, 10
EVALUATION_SAMPLES = 450
CALIBRATION_SAMPLES = 512
EPOCHS, BATCH, PEAK_RATE = 60, 64, 3e-3


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Weights of the net, float32; convolutions as [9 * in, out] (kernel row, kernel column, channel), dense layers as [in, out].

    The first dense layer reads the pooled map in the order row, column, channel.
    """

    conv1: Array
    bias1: Array
    conv2: Array
    bias2: Array
    dense1: Array
    bias3: Array
    dense2: Array
    bias4: Array

    def arrays(self) -> list[Array]:
        """The weights in the order of the fields."""
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What the backward pass needs from the forward pass."""

    columns1: Array
    active1: Array
    columns2: Array
    active2: Array
    pooled: Array
    hidden: Array
    logits: Array


def split() -> tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]:
    """Training images and labels, then evaluation images and labels; images [n, 1, 8, 8] with values in [0, 1]."""
    pixels, target = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(target))
    images = np.asarray(pixels[order] / 16, np.float32).reshape(-1, 1, 8, 8)
    labels = np.asarray(target[order], np.int64)
    cut = len(labels) - EVALUATION_SAMPLES
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def data() -> tuple[Array, Array, NDArray[np.int64]]:
    """Calibration images (part of the training split), evaluation images and evaluation labels."""
    train_images, _, images, labels = split()
    return train_images[:CALIBRATION_SAMPLES], images, labels


def train(seed: int, epochs: int = EPOCHS) -> Parameters:
    """Adam with a one-cycle rate on distorted images; one BLAS thread, so that the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    images, labels, _, _ = split()
    parameters = initial(rng)
    steps = epochs * (len(labels) // BATCH)
    first = [np.zeros_like(array) for array in parameters.arrays()]
    second = [np.zeros_like(array) for array in parameters.arrays()]
    with threadpool_limits(1):
        for step, (batch, target) in enumerate(batches((images, labels), epochs, rng)):
            gradients = gradient(parameters, batch, target, rng)
            rate = PEAK_RATE * one_cycle(step / steps)
            for weight, g, m, v in zip(parameters.arrays(), gradients, first, second, strict=True):
                adam(weight, g, (m, v), rate, step + 1)
    return parameters


def initial(rng: np.random.Generator) -> Parameters:
    """He initialisation: normal with variance 2 / fan_in; biases are zero."""

    def he(inputs: int, outputs: int) -> Array:
        return np.asarray(rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs), np.float32)

    def zeros(outputs: int) -> Array:
        return np.zeros(outputs, np.float32)

    return Parameters(
        he(9, FIRST),
        zeros(FIRST),
        he(9 * FIRST, SECOND),
        zeros(SECOND),
        he(16 * SECOND, HIDDEN),
        zeros(HIDDEN),
        he(HIDDEN, CLASSES),
        zeros(CLASSES),
    )


def batches(samples: tuple[Array, NDArray[np.int64]], epochs: int, rng: np.random.Generator) -> Iterator[tuple[Array, NDArray[np.int64]]]:
    """Shuffled batches for all epochs, [BATCH, 8, 8, 1], each image distorted a little."""
    images, labels = samples
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(labels) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield distorted(images[chosen, 0, :, :, None], rng), labels[chosen]


def distorted(images: Array, rng: np.random.Generator) -> Array:
    """Each image under an affine map of its own, sampled bilinearly with zeros around it, plus noise of 0.03.

    position' = centre + (I + D) (position - centre) + t, D uniform in +-0.15 (rotation, shear, scale), t uniform in +-0.8 pixel.
    """
    n = len(images)
    axis = np.arange(8) - 3.5
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(64, 2)
    matrix = np.eye(2) + rng.uniform(-0.15, 0.15, (n, 2, 2))
    # 4.5: the centre within the image padded by one; 8.999: the last position that has a neighbour
    position = np.clip(grid @ matrix + rng.uniform(-0.8, 0.8, (n, 1, 2)) + 4.5, 0, 8.999)
    padded = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    whole = position.astype(np.int64)
    part = (position - whole).astype(np.float32)
    sample, (row, column), (y, x) = np.arange(n)[:, None], np.moveaxis(whole, -1, 0), np.moveaxis(part, -1, 0)
    upper = padded[sample, row, column] * (1 - x) + padded[sample, row, column + 1] * x
    lower = padded[sample, row + 1, column] * (1 - x) + padded[sample, row + 1, column + 1] * x
    moved = (upper * (1 - y) + lower * y).reshape(n, 8, 8, 1)
    return np.asarray(moved + np.float32(0.03) * rng.standard_normal(moved.shape, dtype=np.float32), np.float32)


def one_cycle(progress: float) -> float:
    """Rises linearly over the first fifth, then falls as a half cosine to zero."""
    return progress / 0.2 if progress < 0.2 else 0.5 * (1 + float(np.cos(np.pi * (progress - 0.2) / 0.8)))


def adam(weight: Array, gradient: Array, moments: tuple[Array, Array], rate: float, step: int) -> None:
    """One step in place: w -= rate * m' / (sqrt(v') + 1e-8) with bias-corrected moments, decay 0.9 and 0.999. After: Kingma and Ba 2015."""
    m, v = moments
    m += 0.1 * (gradient - m)
    v += 0.001 * (gradient * gradient - v)
    weight -= np.float32(rate / (1 - 0.9**step)) * m / (np.sqrt(v / np.float32(1 - 0.999**step)) + np.float32(1e-8))


def unfolded(images: Array) -> Array:
    """im2col of a padded 3x3 convolution: [n, 8, 8, c] -> [n * 64, 9 * c], kernel position first."""
    n, height, width, channels = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.concatenate(parts, axis=3).reshape(n * height * width, 9 * channels)


def folded(columns: Array, channels: int) -> Array:
    """Transpose of `unfolded`: sums [n * 64, 9 * c] back into [n, 8, 8, c]."""
    parts = columns.reshape(-1, 8, 8, 9, channels)
    padded = np.zeros((len(parts), 10, 10, channels), np.float32)
    for position in range(9):
        i, j = divmod(position, 3)
        padded[:, i : i + 8, j : j + 8] += parts[:, :, :, position]
    return padded[:, 1:9, 1:9]


def forward(p: Parameters, images: Array, keep: Array | None = None) -> Trace:
    """The net on [n, 8, 8, 1]; `keep` is the dropout mask [n, HIDDEN] of the dense layer, already scaled."""
    n = len(images)
    columns1 = unfolded(images)
    active1 = np.maximum(columns1 @ p.conv1 + p.bias1, 0)
    columns2 = unfolded(active1.reshape(n, 8, 8, FIRST))
    active2 = np.maximum(columns2 @ p.conv2 + p.bias2, 0)
    pooled = active2.reshape(n, 4, 2, 4, 2, SECOND).max(axis=(2, 4)).reshape(n, -1)
    hidden = np.maximum(pooled @ p.dense1 + p.bias3, 0)
    hidden = hidden if keep is None else hidden * keep
    return Trace(columns1, active1, columns2, active2, pooled, hidden, hidden @ p.dense2 + p.bias4)


def gradient(p: Parameters, images: Array, labels: NDArray[np.int64], rng: np.random.Generator) -> list[Array]:
    """Gradients of the mean cross-entropy, in the order of the fields of Parameters; dropout of a quarter before the last layer."""
    keep = (rng.random((len(images), HIDDEN), dtype=np.float32) > 0.25).astype(np.float32) / np.float32(0.75)
    t = forward(p, images, keep)
    d_logits = softmax(t.logits)
    d_logits[np.arange(len(labels)), labels] -= 1
    d_logits /= np.float32(len(labels))
    d_hidden = (d_logits @ p.dense2.T) * keep * (t.hidden > 0)
    d_active2 = unpooled(d_hidden @ p.dense1.T, t) * (t.active2 > 0)
    d_active1 = folded(d_active2 @ p.conv2.T, FIRST).reshape(-1, FIRST) * (t.active1 > 0)
    return [
        t.columns1.T @ d_active1,
        d_active1.sum(axis=0),
        t.columns2.T @ d_active2,
        d_active2.sum(axis=0),
        t.pooled.T @ d_hidden,
        d_hidden.sum(axis=0),
        t.hidden.T @ d_logits,
        d_logits.sum(axis=0),
    ]


def softmax(logits: Array) -> Array:
    """exp(x - max) / sum, along the last axis."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def unpooled(d_pooled: NDArray[np.floating], trace: Trace) -> Array:
    """Gradient behind the 2x2 maximum, [n * 64, SECOND]: given to every position that equals the maximum."""
    blocks = trace.active2.reshape(-1, 4, 2, 4, 2, SECOND)
    highest = trace.pooled.reshape(-1, 4, 1, 4, 1, SECOND)
    return np.asarray((blocks == highest) * d_pooled.reshape(highest.shape), np.float32).reshape(-1, SECOND)


def exported(p: Parameters) -> onnx.ModelProto:
    """The trained net as ONNX: NCHW, IR 8, opset 17; input `image`, output `logits`."""
    kernel1 = p.conv1.reshape(3, 3, 1, FIRST).transpose(3, 2, 0, 1)
    kernel2 = p.conv2.reshape(3, 3, FIRST, SECOND).transpose(3, 2, 0, 1)
    # the flattened NCHW map is ordered channel, row, column
    dense1 = p.dense1.reshape(4, 4, SECOND, HIDDEN).transpose(3, 2, 0, 1).reshape(HIDDEN, -1)
    arrays = [kernel1, p.bias1, kernel2, p.bias2, dense1, p.bias3, p.dense2.T, p.bias4]
    names = [
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        "conv2.bias",
        "hidden.weight",
        "hidden.bias",
        "classes.weight",
        "classes.bias",
    ]
    weights = [numpy_helper.from_array(np.ascontiguousarray(a), name) for a, name in zip(arrays, names, strict=True)]
    graph = helper.make_graph(
        layers(),
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="onnx-compress models")
    onnx.checker.check_model(model, full_check=True)
    return model


def layers() -> list[onnx.NodeProto]:
    """The nodes of the exported graph."""
    make = helper.make_node
    return [
        make("Conv", ["image", "conv1.weight", "conv1.bias"], ["conv1"], pads=[1, 1, 1, 1]),
        make("Relu", ["conv1"], ["relu1"]),
        make("Conv", ["relu1", "conv2.weight", "conv2.bias"], ["conv2"], pads=[1, 1, 1, 1]),
        make("Relu", ["conv2"], ["relu2"]),
        make("MaxPool", ["relu2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Flatten", ["pooled"], ["flat"]),
        make("Gemm", ["flat", "hidden.weight", "hidden.bias"], ["hidden"], transB=1),
        make("Relu", ["hidden"], ["relu3"]),
        make("Gemm", ["relu3", "classes.weight", "classes.bias"], ["logits"], transB=1),
    ]


def build(path: Path, seed: int = 0) -> None:
    """Trains the net and writes it to `path`."""
    onnx.save(exported(train(seed)), path)


def main(path: Path) -> None:
    """Writes the model, the calibration samples and the evaluation samples, all into the folder of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    build(path)
    calibration, images, labels = data()
    np.savez(path.with_name(path.stem + "_calibration.npz"), image=calibration)
    np.savez(path.with_name(path.stem + "_eval.npz"), image=images, label=labels)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python models/digits.py OUT.onnx")
    main(Path(sys.argv[1]))
