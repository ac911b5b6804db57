"""How weights are stored: external data, overridable initializers, typed fields, duplicates, shared weights, clutter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from .network import Network, tensor


def plain(seed: int) -> onnx.ModelProto:
    """Three dense layers; 74 K weights. `write_external` gives it an external file."""
    net = Network(seed)
    x = net.add("Relu", [net.add("Gemm", ["x", net.weight("first", (192, 128)), net.bias("first_bias", 192)], {"transB": 1})])
    x = net.add("Relu", [net.add("MatMul", [x, net.weight("second", (192, 192))])])
    x = net.add("MatMul", [x, net.weight("third", (192, 64), fan_in=192)])
    net.named(x, "y")
    return net.model("plain", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 64])])


def write_external(model: onnx.ModelProto, path: Path, one_file: bool = True) -> Path:
    """Writes the model with its initializers of 1 KB or more outside of it; `model` is left as it was.

    They stand in `<name>.data`, each at a multiple of 4096 bytes, or in files of their own, `<name>.0.data` and so on.
    """
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    large = [initializer for initializer in outside.graph.initializer if len(initializer.raw_data) >= 1024]
    files: dict[str, bytes] = {}
    for index, initializer in enumerate(large):
        location = f"{path.name}.data" if one_file else f"{path.name}.{index}.data"
        content = files.get(location, b"")
        content += bytes(-len(content) % 4096)
        files[location] = content + initializer.raw_data
        set_external_data(initializer, location, len(content), len(initializer.raw_data))
        initializer.ClearField("raw_data")
    for location, content in files.items():
        path.with_name(location).write_bytes(content)
    path.write_bytes(outside.SerializeToString())
    return path


def overridable_initializers(seed: int) -> onnx.ModelProto:
    """IR 3, opset 7: every initializer is a graph input too, and float values stand in `float_data`; 27 K weights."""
    net = Network(seed)
    x = net.add("Conv", ["image", net.weight("kernel", (32, 3, 5, 5)), net.bias("kernel_bias", 32)], {"auto_pad": "SAME_UPPER"})
    parameters = [net.constant(name, net.rng.uniform(0.5, 1.5, 32).astype(np.float32)) for name in ("gamma", "beta", "mean", "variance")]
    x = net.add("MaxPool", [net.add("Relu", [net.add("BatchNormalization", [x, *parameters])])], {"kernel_shape": [2, 2], "strides": [2, 2]})
    x = net.add("Reshape", [x, net.constant("flat", [-1, 512], "int64")])
    x = net.add("Gemm", [x, net.weight("dense", (512, 48), fan_in=512), net.constant("dense_bias", net.draw((1, 48)))])
    net.named(net.add("Softmax", [x], {"axis": 1}), "probabilities")
    net.initializers[:] = [typed(initializer) for initializer in net.initializers]
    inputs = [tensor("image", [1, 3, 8, 8]), *(tensor(i.name, list(i.dims), i.data_type) for i in net.initializers)]
    graph = net.graph("overridable_initializers", inputs, [tensor("probabilities", [1, 48])])
    return helper.make_model(graph, ir_version=3, opset_imports=[helper.make_opsetid("", 7)], producer_name="onnx-compress models")


def typed(initializer: onnx.TensorProto) -> onnx.TensorProto:
    """The same tensor with its values in the typed field (float_data, int64_data) in place of raw_data."""
    values = onnx.numpy_helper.to_array(initializer)
    return helper.make_tensor(initializer.name, initializer.data_type, list(initializer.dims), values.reshape(-1))


def duplicated_weights(seed: int) -> onnx.ModelProto:
    """The same values under two names (as exporters write tied layers), once also transposed; 49 K weights, 16 K different."""
    net = Network(seed)
    values = net.draw((128, 128))
    x = net.add("Relu", [net.add("MatMul", ["x", net.constant("first", values)])])
    x = net.add("Relu", [net.add("MatMul", [x, net.constant("copy", values)])])
    x = net.add("Gemm", [x, net.constant("transposed_copy", np.ascontiguousarray(values.T))], {"transB": 1})
    net.named(x, "y")
    return net.model("duplicated_weights", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 128])])


def shared_weight(seed: int) -> onnx.ModelProto:
    """One weight under five uses: MatMul twice, Gemm with transB, Gather, and an elementwise Mul; 16 K weights."""
    net = Network(seed)
    weight = net.weight("shared", (128, 128))
    x = net.add("Relu", [net.add("MatMul", ["x", weight])])
    x = net.add("Relu", [net.add("MatMul", [x, weight])])
    x = net.add("Gemm", [x, weight], {"transB": 1})
    row_sums = net.add("ReduceSum", [net.add("Mul", [weight, weight]), net.constant("axis", [1], "int64")], {"keepdims": 0})
    x = net.add("Add", [net.add("Add", [x, net.add("Gather", [weight, "token"])]), row_sums])
    net.named(x, "y")
    return net.model("shared_weight", [tensor("x", ["batch", 128]), tensor("token", ["batch"], TensorProto.INT64)], [tensor("y", ["batch", 128])])


def also_an_output(seed: int) -> onnx.ModelProto:
    """A weight that is multiplied with and returned as a graph output as well; 20 K weights."""
    net = Network(seed)
    net.named(net.add("MatMul", ["x", net.weight("table", (128, 160), fan_in=128)]), "y")
    return net.model("also_an_output", [tensor("x", ["batch", 128])], [tensor("y", ["batch", 160]), tensor("table", [128, 160])])


def cluttered(seed: int) -> onnx.ModelProto:
    """A small net under what slimming takes away; 37 K weights, 16 K of them dead.

    Dead weights and nodes, shape chains, Identity, Dropout, doc strings, long names, value_info, metadata.
    """
    net = Network(seed)
    long = "model/encoder/very_long_scope_name_as_exporters_write_it/"
    net.weight(long + "never_used", (128, 128))
    net.add("Relu", [net.add("Mul", ["x", net.constant(long + "dead_scale", 2.0)])])
    x = "x"
    for index in range(5):
        scope = f"{long}layer_{index:03d}/"
        x = net.add("MatMul", [x, net.add("Identity", [net.weight(scope + "dense/kernel/read", (64, 64))])])
        x = net.add("Add", [x, net.bias(scope + "dense/bias/read", 64)])
        x = net.add("Dropout", [net.add("Relu", [reshaped(net, scope, x)])])
    net.named(x, "y")
    model = net.model("cluttered", [tensor("x", ["batch", 64])], [tensor("y", ["batch", 64])])
    return documented(model, long)


def reshaped(net: Network, scope: str, x: str) -> str:
    """Shape, Gather, Unsqueeze, Concat and Reshape to [batch, 8, 8], then back through a folded constant chain."""
    zero = net.constant(scope + "zero", 0, "int64")
    axes = net.constant(scope + "axes", [0], "int64")
    batch = net.add("Unsqueeze", [net.add("Gather", [net.add("Shape", [x]), zero]), axes])
    square = net.add("Concat", [batch, net.literal([8], "int64"), net.literal([8], "int64")], {"axis": 0})
    x = net.add("Reshape", [x, square])
    size = net.add("Mul", [net.literal([8], "int64"), net.literal([8], "int64")])
    return net.add("Reshape", [x, net.add("Concat", [net.literal([-1], "int64"), size], {"axis": 0})])


def documented(model: onnx.ModelProto, scope: str) -> onnx.ModelProto:
    """The model with doc strings, long node names, metadata and value_info everywhere."""
    model.doc_string = "Exported by a framework. " * 20
    model.graph.doc_string = "The main graph. " * 20
    for node in model.graph.node:
        node.name = scope + node.name
        node.doc_string = "File 'train.py', line 1, in forward: " * 4
    for initializer in model.graph.initializer:
        initializer.doc_string = "A tensor of the exporter."
    helper.set_model_props(model, {"author": "an exporter", "notes": "x" * 500})
    return onnx.shape_inference.infer_shapes(model)
