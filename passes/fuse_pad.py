"""Zero padding of the spatial axes moves into the convolution behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .constants import small_array


class FusePad(ir.passes.InPlacePass):
    """Conv(Pad(x, zeros)) -> Conv(x) with larger pads."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        opset = model.opset_imports.get("", 1)
        fused = [n for n in list(ir.traversal.RecursiveGraphIterator(model.graph)) if n.op_type == "Conv" and n.domain == "" and _fuse(n, opset)]
        return ir.passes.PassResult(model, bool(fused))


def _fuse(conv: ir.Node, opset: int) -> bool:
    source = conv.inputs[0]
    pad = None if source is None else source.producer()
    if source is None or pad is None or pad.op_type != "Pad" or pad.domain != "" or source.is_graph_output():
        return False
    if len(source.uses()) != 1 or pad.graph is not conv.graph or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    amounts = _zero_pads(pad, opset)
    if amounts is None or len(amounts) < 6 or any(a < 0 for a in amounts):
        return False
    rank = len(amounts) // 2
    spatial = amounts[2:rank] + amounts[rank + 2 :]
    if sum(spatial) != sum(amounts):  # it pads the batch or the channels too
        return False
    old = list(conv.attributes.get_ints("pads", ())) or [0] * len(spatial)
    conv.attributes.add(ir.AttrInt64s("pads", [a + b for a, b in zip(old, spatial, strict=True)]))
    conv.replace_input_with(0, pad.inputs[0])
    conv.graph.remove(pad, safe=True)  # type: ignore[union-attr]
    return True


def _zero_pads(pad: ir.Node, opset: int) -> list[int] | None:
    """Begin and end amounts of all axes, if they are constant and the padding is zero."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return None
    if opset < 11:
        return list(pad.attributes.get_ints("pads", ())) if pad.attributes.get_float("value", 0.0) == 0.0 else None
    inputs = [*pad.inputs, None, None][:4]
    amounts, value = small_array(inputs[1]), small_array(inputs[2])
    if amounts is None or inputs[3] is not None or (inputs[2] is not None and (value is None or np.any(value))):
        return None
    return [int(a) for a in amounts]
