"""The trained network as an ONNX graph, built node by node from its arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ranking_svc.engine import DcnWeights

__all__ = ["write_onnx"]

_OPSET = 17  # matrix products, sums and relu have not changed since


def write_onnx(weights: DcnWeights, path: Path) -> None:
    """Write a graph from `x0` [n, D] to `score` [n, 1]."""
    graph = _Graph()
    x = deep = "x0"
    for place, (kernel, bias) in enumerate(weights.crosses):
        crossed = graph.node("Mul", "x0", graph.dense(x, kernel, bias, f"cross{place}"))
        x = graph.node("Add", crossed, x)
    for place, (kernel, bias) in enumerate(weights.hidden):
        deep = graph.node("Relu", graph.dense(deep, kernel, bias, f"hidden{place}"))
    both = graph.node("Concat", x, deep, axis=1)
    score = graph.dense(both, weights.output_kernel, weights.output_bias, "output")
    graph.nodes.append(helper.make_node("Identity", [score], ["score"]))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "dcn",
            [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", weights.width])],
            [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _Graph:
    """Nodes and constants under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, operation: str, *inputs: str, **attributes: int) -> str:
        """Add a node; the name of its output."""
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, list(inputs), [output], **attributes))
        return output

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
        """`x` @ kernel + bias."""
        for part, array in (("kernel", kernel), ("bias", bias)):
            constant = numpy_helper.from_array(np.ascontiguousarray(array), f"{name}_{part}")
            self.constants.append(constant)
        return self.node("Gemm", x, f"{name}_kernel", f"{name}_bias")
