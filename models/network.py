"""A graph under construction: draws weights with realistic statistics from one generator and collects nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSION, OPSET = 8, 17  # onnxruntime 1.20 and older load these

Attributes = Mapping[str, Any]
Dims = Sequence[int | str]


def tensor(name: str, dims: Dims, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A graph input or output; a string is a dynamic dimension."""
    return helper.make_tensor_value_info(name, dtype, dims)


class Network:
    """Nodes and initializers of one graph; `body` opens a subgraph that shares the generator."""

    def __init__(self, seed: int | np.random.Generator, prefix: str = "") -> None:
        self.rng = np.random.default_rng(seed)
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def draw(self, dims: Sequence[int], fan_in: int = 0) -> NDArray[np.float32]:
        """Laplace values times a log-normal scale a row: variance about 1 / fan_in (default: all dims but the first), scales spread by 0.3."""
        fan_in = fan_in or max(prod(dims[1:]), 1)
        scale = np.exp(0.3 * self.rng.standard_normal((*dims[:1], *(1 for _ in dims[1:]))))
        values = self.rng.laplace(0, np.sqrt(0.5 / fan_in), dims)
        return np.asarray(values * scale, np.float32)

    def weight(self, name: str, dims: Sequence[int], fan_in: int = 0) -> str:
        """An initializer drawn by `draw`."""
        return self.constant(name, self.draw(dims, fan_in))

    def bias(self, name: str, size: int) -> str:
        """A rank-1 initializer, normal with deviation 0.05."""
        return self.constant(name, (0.05 * self.rng.standard_normal(size)).astype(np.float32))

    def constant(self, name: str, values: object, dtype: str = "float32") -> str:
        """An initializer with these values: an array keeps its dtype, anything else gets `dtype`."""
        array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), self.prefix + name))
        return self.prefix + name

    def literal(self, values: object, dtype: str = "float32") -> str:
        """A Constant node with these values; returns its output."""
        array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype)
        return self.add("Constant", [], {"value": numpy_helper.from_array(array)})

    def add(self, operator: str, inputs: Sequence[str], attributes: Attributes | None = None, domain: str = "") -> str:
        """A node with one output; returns the output's name."""
        return self.add_many(operator, inputs, 1, attributes, domain)[0]

    def add_many(self, operator: str, inputs: Sequence[str], count: int, attributes: Attributes | None = None, domain: str = "") -> list[str]:
        """A node with `count` outputs; returns their names."""
        label = f"{self.prefix}{operator}_{len(self.nodes)}"
        outputs = [label if count == 1 else f"{label}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, label, domain=domain or None, **dict(attributes or {})))
        return outputs

    def named(self, source: str, name: str) -> None:
        """Gives the node output `source` its final name, as a graph output."""
        for node in self.nodes:
            node.output[:] = [name if output == source else output for output in node.output]
            node.input[:] = [name if value == source else value for value in node.input]

    def body(self, prefix: str) -> Network:
        """The graph of a branch or a loop body; the prefix keeps its names apart from the outer ones."""
        return Network(self.rng, f"{self.prefix}{prefix}/")

    def graph(self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
        """The finished graph."""
        return helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)

    def model(self, name: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The finished model, IR 8, opset 17."""
        return wrapped(self.graph(name, inputs, outputs))


def wrapped(graph: onnx.GraphProto, domains: Sequence[str] = (), functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
    """A model around a graph: IR 8, opset 17, version 1 of the other domains."""
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, functions=functions, producer_name="onnx-compress models")
