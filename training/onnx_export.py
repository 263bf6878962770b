"""Trained models as ONNX graphs, built node by node from their arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ranking_svc.models.dcn import DcnWeights
from ranking_svc.models.gbdt import Trees

__all__ = ["write_dcn", "write_trees"]

_OPSET = 17  # matrix products, sums and relu have not changed since
_ML_OPSET = 3  # of tree ensembles
_IR_VERSION = 9


def write_dcn(weights: DcnWeights, path: Path) -> None:
    """Write a graph from `x0` [n, D] to `outputs` [n, heads (+ 1)]."""
    graph = _Graph()
    x = "x0"
    for place, cross in enumerate(weights.crosses):
        product = x
        for part, kernel in enumerate(cross.kernels[:-1]):
            product = graph.product(product, kernel, f"cross{place}_{part}")
        product = graph.dense(product, cross.kernels[-1], cross.bias, f"cross{place}")
        x = graph.node("Add", graph.node("Mul", "x0", product), x)
    stacked = weights.structure == "stacked"
    deep = x if stacked else "x0"
    for place, (kernel, bias) in enumerate(weights.hidden):
        deep = graph.node("Relu", graph.dense(deep, kernel, bias, f"hidden{place}"))
    if weights.hidden:
        x = deep if stacked else graph.node("Concat", x, deep, axis=1)
    outputs = graph.dense(x, weights.output_kernel, weights.output_bias, "output")
    graph.nodes.append(helper.make_node("Identity", [outputs], ["outputs"]))
    _write(
        path,
        graph.nodes,
        graph.constants,
        source=("x0", weights.width),
        target=("outputs", len(weights.output_bias)),
    )


def write_trees(trees: Trees, columns: int, path: Path) -> None:
    """Write a graph from `numeric` [n, columns] to `outputs` [n, heads]."""
    last = np.append(trees.root[1:], len(trees.feature))
    sizes = last - trees.root
    tree = np.repeat(np.arange(len(trees.root)), sizes)
    number = np.arange(len(tree)) - np.repeat(trees.root, sizes)  # of the node within its tree
    leaf = trees.feature < 0
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["numeric"],
        ["outputs"],
        domain="ai.onnx.ml",
        n_targets=len(trees.base),
        base_values=trees.base.tolist(),
        aggregate_function="SUM",
        post_transform="NONE",
        nodes_treeids=tree.tolist(),
        nodes_nodeids=number.tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_featureids=np.maximum(trees.feature, 0).tolist(),
        nodes_values=trees.threshold.tolist(),
        nodes_truenodeids=np.where(leaf, 0, trees.left - trees.root[tree]).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, trees.right - trees.root[tree]).tolist(),
        target_treeids=tree[leaf].tolist(),
        target_nodeids=number[leaf].tolist(),
        target_ids=trees.head[tree[leaf]].tolist(),
        target_weights=trees.value[leaf].tolist(),
    )
    _write(path, [node], [], source=("numeric", columns), target=("outputs", len(trees.base)))


def _write(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    *,
    source: tuple[str, int],
    target: tuple[str, int],
) -> None:
    """A graph from one matrix to another, each with its name and width."""
    matrices = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (source, target)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "ranker", matrices[:1], matrices[1:], constants),
        opset_imports=[
            helper.make_opsetid("", _OPSET),
            helper.make_opsetid("ai.onnx.ml", _ML_OPSET),
        ],
        ir_version=_IR_VERSION,
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

    def constant(self, array: np.ndarray, name: str) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def product(self, x: str, kernel: np.ndarray, name: str) -> str:
        """`x` @ kernel."""
        return self.node("MatMul", x, self.constant(kernel, f"{name}_kernel"))

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
        """`x` @ kernel + bias."""
        arrays = self.constant(kernel, f"{name}_kernel"), self.constant(bias, f"{name}_bias")
        return self.node("Gemm", x, *arrays)
