"""The catalogue: every small model by name, made from a seed, and inputs that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from . import awkward, convolutions, dtypes, linear, quantized, recurrent, storage, subgraphs, transformers

BATCH, OTHER_DYNAMIC = 4, 12
LARGEST_INTEGER = 8  # of an integer input that looks up nothing

BUILDERS: tuple[Callable[[int], onnx.ModelProto], ...] = (
    convolutions.depthwise_batchnorm,
    convolutions.conv_1d,
    convolutions.conv_3d,
    convolutions.conv_transpose,
    convolutions.wide_groups,
    convolutions.narrow_groups,
    linear.gemm_variants,
    linear.batched_matmul,
    linear.left_matmul,
    linear.einsum,
    linear.tiny,
    transformers.tied_transformer,
    transformers.argmax_classifier,
    recurrent.lstm_bidirectional,
    recurrent.gru_language,
    subgraphs.if_branches,
    subgraphs.loop_body,
    subgraphs.scan_body,
    subgraphs.nested_bodies,
    subgraphs.local_functions,
    dtypes.float16_activations,
    dtypes.float16_cast,
    dtypes.bfloat16_cast,
    dtypes.double_weights,
    quantized.int8_per_channel,
    quantized.uint8_activations,
    quantized.integer_operators,
    quantized.matmul_nbits,
    quantized.int4_blocks,
    storage.plain,
    storage.overridable_initializers,
    storage.duplicated_weights,
    storage.shared_weight,
    storage.also_an_output,
    storage.cluttered,
    awkward.pruned,
    awkward.constant_values,
    awkward.not_a_number,
    awkward.infinite,
    awkward.extreme_values,
    awkward.odd_shapes,
    awkward.without_weights,
)

STRUCTURES: Mapping[str, Callable[[int], onnx.ModelProto]] = MappingProxyType({builder.__name__: builder for builder in BUILDERS})


def feeds(model: onnx.ModelProto, seed: int, batch: int = BATCH) -> dict[str, NDArray[np.generic]]:
    """One valid feed: normal floats, masks of ones ending in zeros, token ids below the rows of the table that they look up.

    A dimension named `batch` gets `batch`, any other dynamic one OTHER_DYNAMIC; overridable initializers are left out.
    """
    rng = np.random.default_rng(seed)
    stored = {initializer.name for initializer in model.graph.initializer}
    rows = table_rows(model.graph)
    inputs = [value for value in model.graph.input if value.name not in stored]
    return {value.name: drawn(value, rng, rows.get(value.name, LARGEST_INTEGER), batch) for value in inputs}


def drawn(value: onnx.ValueInfoProto, rng: np.random.Generator, limit: int, batch: int) -> NDArray[np.generic]:
    """Values for one graph input; integers below `limit`."""
    tensor = value.type.tensor_type
    dims = [size(dimension, batch) for dimension in tensor.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if tensor.elem_type == TensorProto.BOOL:
        return rng.random(dims) < 0.5
    if not np.issubdtype(dtype, np.integer):
        return rng.standard_normal(dims).astype(dtype)
    if "mask" in value.name:
        lengths = rng.integers(dims[-1] // 2, dims[-1], (*dims[:-1], 1), endpoint=True)
        return (np.arange(dims[-1]) < lengths).astype(dtype)
    return rng.integers(0, limit, dims).astype(dtype)


def size(dimension: onnx.TensorShapeProto.Dimension, batch: int) -> int:
    """The size that a dimension gets in a feed."""
    if dimension.HasField("dim_value"):
        return int(dimension.dim_value)
    return batch if dimension.dim_param == "batch" else OTHER_DYNAMIC


def table_rows(graph: onnx.GraphProto) -> dict[str, int]:
    """For every name that a Gather uses as indices, how many leading rows of its table are safe: those before the first that is not finite."""
    stored = {initializer.name: initializer for initializer in graph.initializer}
    cast = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    lookups = [(cast.get(node.input[0], node.input[0]), node.input[1]) for node in graph.node if node.op_type == "Gather"]
    return {indices: finite_rows(stored[table]) for table, indices in lookups if table in stored}


def finite_rows(table: onnx.TensorProto) -> int:
    """Leading rows that hold no NaN and no infinity."""
    values = numpy_helper.to_array(table).astype(np.float32)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return len(values) if finite.all() else int(np.argmin(finite))
