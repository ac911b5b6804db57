"""onnxruntime's own quantizers; the files that they write are counted as they are."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.version_converter
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

BLOCK_OPERATORS = ("MatMulNBits", "GatherBlockQuantized")

GATHER_OPSET = 21
"""What GatherBlockQuantized needs."""


class NothingToDoError(Exception):
    """The quantizer found no operator that it knows."""


def blocks(source: Path, target: Path, block: int, embeddings: bool, bits: int = 4) -> None:
    """Weights of 4 or 8 bits, of MatMul, and of Gather where asked for, with a scale for each `block` of them. Raises NothingToDoError."""
    operators = ("MatMul", "Gather") if embeddings else ("MatMul",)
    model = onnx.load(source)
    if embeddings and opset(model) < GATHER_OPSET:  # the quantizer would change the number alone
        model = onnx.version_converter.convert_version(model, GATHER_OPSET)
    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=block, is_symmetric=True, op_types_to_quantize=operators)
    quantizer.process()
    model = quantizer.model.model
    made = {node.op_type for node in model.graph.node}
    if BLOCK_OPERATORS[embeddings] not in made:
        raise NothingToDoError(f"no {'embedding' if embeddings else 'MatMul'} that it quantizes")
    onnx.save(model, target)


def opset(model: onnx.ModelProto) -> int:
    """Of the standard operators."""
    return next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})


def dynamic(source: Path, target: Path, per_channel: bool) -> None:
    """8-bit weights, and activations quantized as they come. Unsigned, since onnxruntime has no ConvInteger for signed weights."""
    quantize_dynamic(source, target, per_channel=per_channel, weight_type=QuantType.QUInt8)
