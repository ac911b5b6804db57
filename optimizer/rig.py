"""A session in which the large constants of a model are inputs: fed where they lie, replaceable at every run, never copied.

The graph without its weights is small, so models beyond 2 GB go through as well. Every run uses one thread: results do not depend on
how many runs go on at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_ir.passes import common

from .errors import CompressError

FED_BYTES = 1 << 20
"""A constant of at least this many bytes is fed even if nobody replaces it."""

FEEDABLE = tuple(getattr(ir.DataType, name) for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64"))

READABLE = {f"tensor({name})" for name in ("float", "float16", "double", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")}
"""onnxruntime's names of the types that numpy has."""

FATAL = 4
"""onnxruntime's log level: everything below is a matter of its own graph, not of the user."""


class RunError(CompressError):
    """The model loads but does not run on a feed; `said` is onnxruntime's reason."""

    def __init__(self, feed: Mapping[str, NDArray[np.generic]], said: str) -> None:
        super().__init__(
            f"the model does not run on inputs of {shapes(feed)} in onnxruntime ({said}): check the calibration data, "
            "or say what the inputs look like with --input-shape"
        )
        self.said = said


class Rig:
    """`Rig(model, fed, watched)`: `fed` are initializers that runs may replace, `watched` inner values that runs can ask for.

    What is not `whole` computes nothing but the watched values, and has no other outputs. Inner values that are `given` (such arrays, of such types) come with
    each feed and are not computed. `readable` are the watched values that numpy has a type for.

    The model itself is left as it is. Raises CompressError where onnxruntime cannot load it.
    """

    def __init__(
        self,
        model: ir.Model,
        fed: Iterable[ir.Value] = (),
        watched: Sequence[str] = (),
        whole: bool = True,
        given: Mapping[str, NDArray[np.generic]] = MappingProxyType({}),
    ) -> None:
        names = {value.name for value in fed} | {name for name, value in model.graph.initializers.items() if _is_large(value)}
        held = {name: model.graph.initializers[name] for name in names if name and _is_feedable(model.graph.initializers.get(name))}
        self._constants = {name: as_input(_tensor(value).numpy(), int(_tensor(value).dtype)) for name, value in held.items()}
        bare = _bare(model, set(held), watched, given)
        self._session = _session(bare if whole else _cut(bare, watched))
        self._inputs = {one.name for one in self._session.get_inputs()}
        self.readable = {one.name for one in self._session.get_outputs() if one.type in READABLE}
        self.outputs = tuple(one.name for one in self._session.get_outputs()[: len(model.graph.outputs)] if one.type.startswith("tensor("))

    def run(
        self, feed: Mapping[str, NDArray[np.generic]], names: Sequence[str], replaced: Mapping[str, ort.OrtValue] | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """The values called `names` for one feed; `replaced` (see `as_input`) stand for constants of their names.

        Raises RunError where the feed does not fit the model.
        """
        values = {name: value for name, value in (self._constants | dict(replaced or {})).items() if name in self._inputs}
        try:
            values |= {name: _input(array) for name, array in feed.items() if name in self._inputs}
            results = self._session.run_with_ort_values(list(names), values)
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            raise RunError(feed, reason(error)) from None
        return dict(zip(names, (result.numpy() for result in results), strict=True))


def as_input(array: NDArray[np.generic], dtype: int) -> ort.OrtValue:
    """An array of the numpy dtype that belongs to the ONNX dtype number, without a copy where its memory allows."""
    plain = np.require(array, requirements=["C", "A"])
    if dtype == int(ir.DataType.BFLOAT16):
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain.view(np.uint16), dtype)
    return ort.OrtValue.ortvalue_from_numpy(plain)


def reason(error: Exception) -> str:
    """What onnxruntime says, on one line, without its codes and source positions."""
    lines = [line for line in str(error).replace("\r", "").split("\n") if line.strip()]
    text = " ".join(lines[:2]) or type(error).__name__
    return text.split(" : ", 3)[-1][:400].strip().rstrip(".")


def _input(array: NDArray[np.generic]) -> ort.OrtValue:
    if array.dtype == ml_dtypes.bfloat16:
        return as_input(array, int(ir.DataType.BFLOAT16))
    return as_input(array, 0)


def shapes(feed: Mapping[str, NDArray[np.generic]]) -> str:
    """The shapes of a feed, for a message."""
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items()) or "no inputs"


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise ValueError(f"{value.name} has no data")
    return value.const_value


def _is_feedable(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and value.const_value.dtype in FEEDABLE and not value.is_graph_output()


def _is_large(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.nbytes >= FED_BYTES and not value.is_graph_input()


def _bare(model: ir.Model, held: set[str], watched: Sequence[str], given: Mapping[str, NDArray[np.generic]]) -> ir.Model:
    """A copy in which the constants in `held` and the values in `given` are inputs, and the values called `watched` outputs too."""
    bare = model.clone()
    _give(bare, given)
    inputs = {value.name for value in bare.graph.inputs}
    for name in sorted(held):
        value = bare.graph.initializers.pop(name)
        tensor = _tensor(value)
        value.shape, value.type, value.const_value = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype), None
        if name not in inputs:
            bare.graph.inputs.append(value)
    _load_external(bare)
    _widen_outputs(bare)
    present = {value.name for value in bare.graph.outputs}
    values = {value.name: value for value in (*bare.graph.inputs, *(v for node in bare.graph for v in node.outputs))}
    bare.graph.outputs.extend(values[name] for name in watched if name not in present)
    return bare


def _give(model: ir.Model, given: Mapping[str, NDArray[np.generic]]) -> None:
    """Inputs take the places of inner values; sizes may differ from run to run."""
    made = {str(value.name): value for node in model.graph for value in node.outputs}
    for name, array in given.items():
        old, new = made[name], ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(array.dtype)), shape=ir.Shape([None] * array.ndim))
        old.name = f"{name}.computed"
        ir.convenience.replace_all_uses_with(old, new)
        model.graph.inputs.append(new)


def _cut(model: ir.Model, watched: Sequence[str]) -> ir.Model:
    """The same with the watched values as its only outputs."""
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name in watched]
    common.RemoveUnusedNodesPass()(model)
    return model


def _load_external(model: ir.Model) -> None:
    """What is left in the model comes into its bytes: a session made from bytes knows no folder."""
    for value in (value for graph in model.graphs() for value in graph.initializers.values()):
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)


def _widen_outputs(model: ir.Model) -> None:
    """bfloat16 outputs as float: Python cannot read them otherwise."""
    for index, value in enumerate(model.graph.outputs):
        if value.dtype == ir.DataType.BFLOAT16 and value.producer() is not None:
            name = value.name
            value.name = f"{name}_bfloat16"
            cast = ir.node("Cast", [value], attributes={"to": int(ir.DataType.FLOAT)})
            cast.outputs[0].name, cast.outputs[0].type, cast.outputs[0].shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
            model.graph.append(cast)
            model.graph.outputs[index] = cast.outputs[0]


def _session(model: ir.Model) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # shapes differ from run to run
    try:
        content = ir.serde.serialize_model(model).SerializeToString()
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        raise CompressError(
            f"onnxruntime {ort.__version__} cannot load the model ({reason(error)}): a model that does not run cannot be measured; "
            "convert it for the CPU, or check it with onnx.checker"
        ) from None
