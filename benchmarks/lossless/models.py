"""The models of the comparison: each as it is, and with its float32 weights stored in 16 bits (and a Cast behind each)."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LEAST_VALUES = 64
KINDS = {"bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16), "fp16": (TensorProto.FLOAT16, np.float16)}


def variants(source: Path, folder: Path) -> dict[str, Path]:
    """The files of a model by kind; those that differ from the original are written into `folder`."""
    found = {"as it is": source}
    for kind in KINDS:
        model = onnx.load(source)
        if _cast(model, kind):
            found[kind] = folder / f"{source.stem}.{kind}.onnx"
            onnx.save(model, found[kind])
    return found


def _cast(model: onnx.ModelProto, kind: str) -> int:
    """Stores the float32 initializers of the main graph in 16 bits; gives their number."""
    dtype, numpy_type = KINDS[kind]
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_VALUES:
            continue
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            bits = array.astype(numpy_type).view(np.uint16)
        name = tensor.name
        tensor.CopyFrom(helper.make_tensor(f"{name}.{kind}", dtype, array.shape, bits.tobytes(), raw=True))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    names = {cast.output[0] for cast in casts}
    inputs = [one for one in model.graph.input if one.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.ir_version = max(model.ir_version, 4)
    return len(casts)
