"""What a core of this machine does of float32 matrix products."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ranking_svc.models.onnx_session import OnnxSession

__all__ = ["best_sgemm_gflops", "sgemm_gflops"]

_PRODUCT = 1024  # rows and columns of the matrices that are multiplied
_ROUNDS = 8


def sgemm_gflops() -> float:
    """What one core does of float32 matrix products in numpy: the best of some, by its CPU time.

    A probe of what the machine is worth just now. Call it where numpy's BLAS has one thread.
    """
    a, b = _matrices()
    return _gflops(lambda: a @ b)


def best_sgemm_gflops() -> float:
    """The same of the faster one of numpy and ONNX Runtime, which have kernels of their own."""
    a, b = _matrices()
    multiply = _onnx_product(b)
    return max(sgemm_gflops(), _gflops(lambda: multiply(a)))


def _matrices() -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((2, _PRODUCT, _PRODUCT), np.float32)


def _gflops(multiply: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.thread_time()
        multiply()
        best = min(best, time.thread_time() - started)
    return 2 * _PRODUCT**3 / best / 1e9


def _onnx_product(b: npt.NDArray[np.float32]) -> Callable[[npt.NDArray[np.float32]], object]:
    """The product with `b`, which is a constant as a layer's weights are."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [None, _PRODUCT])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [None, _PRODUCT])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        save(model, path)
        return OnnxSession(path).run
