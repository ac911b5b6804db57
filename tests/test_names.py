"""Names become short and stay unique; the interface keeps its own."""

from __future__ import annotations

import onnx_ir as ir
from onnx import helper
from onnx_compress.passes.names import short_names, shorten

from tests.slimming import floats, model_of, names, normal, stored


def test_short_names_are_unique_and_spare_the_taken_ones() -> None:
    generator = short_names(frozenset({"b", "aa"}))
    found = [next(generator) for _ in range(5000)]
    assert found[:2] == ["a", "c"]
    assert len(set(found)) == len(found)
    assert not {"b", "aa"} & set(found)
    assert max(map(len, found)) == 3


def test_shortening_keeps_the_interface_and_tells_all_new_names() -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["long"]), helper.make_node("Add", ["long", "weight"], ["b"])]
    model = ir.from_proto(model_of(nodes, [floats(2, 8)], ["b"], {"a": normal(8, 8), "weight": normal(2, 8)}))
    renamed = shorten(model)
    proto = ir.to_proto(model)
    assert names(proto) == (["x"], ["b"])
    assert set(renamed) == {"a", "long", "weight"}
    assert len(set(renamed.values()) | {"x", "b"}) == 5
    assert list(stored(proto)) == [renamed["a"], renamed["weight"]]
    assert not any(node.name for node in proto.graph.node)
