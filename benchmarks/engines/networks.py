"""Engines that run one network, the crosses and layers of `DcnWeights`, from its input x0.

All get the same weights. What reads ONNX reads the graph that our training writes; TensorFlow's
engines call the layers that our training trains.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before TensorFlow is imported anywhere
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking_svc.models.dcn import DcnWeights
from training.onnx_export import write_dcn

__all__ = ["NETWORKS", "NetworkCase", "Scorer", "reference"]

Floats = npt.NDArray[np.float32]
Scorer = Callable[[Floats], Floats]
"""float32 [n, outputs] of x0, float32 [n, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCase:
    """What an engine is made for."""

    weights: DcnWeights
    rows: int  # of each call
    folder: Path  # for its files


def reference(weights: DcnWeights, x0: Floats) -> npt.NDArray[np.float64]:
    """The same sums in float64: what every engine is compared with."""
    wide = x0.astype(np.float64)
    x = wide
    for cross in weights.crosses:
        product = x
        for kernel in cross.kernels:
            product = product @ kernel
        x = wide * (product + cross.bias) + x
    stacked = weights.structure == "stacked"
    deep = x if stacked else wide
    for kernel, bias in weights.hidden:
        deep = np.maximum(deep @ kernel + bias, 0)
    last = deep if stacked else np.concatenate([x, deep], axis=1)
    return last @ weights.output_kernel + weights.output_bias


def keras_eager(case: NetworkCase) -> Scorer:
    """The layers called one by one, as `model(x)` does."""
    tf, network = _tensorflow(), _network(case.weights)
    return lambda x0: network(tf.constant(x0)).numpy()


def tf_function(case: NetworkCase) -> Scorer:
    tf, network = _tensorflow(), _network(case.weights)
    function = _function(network, case.weights.width, None)
    return lambda x0: function(tf.constant(x0)).numpy()


def tf_xla(case: NetworkCase) -> Scorer:
    """Compiled for so many rows."""
    tf, network = _tensorflow(), _network(case.weights)
    function = _function(network, case.weights.width, case.rows, jit_compile=True)
    return lambda x0: function(tf.constant(x0)).numpy()


def saved_model(case: NetworkCase) -> Scorer:
    """Saved, loaded, and asked by its signature."""
    tf, network = _tensorflow(), _network(case.weights)
    network.score = _function(network, case.weights.width, None)
    signature = network.score.get_concrete_function()
    tf.saved_model.save(network, str(case.folder / "saved"), signatures=signature)
    loaded = tf.saved_model.load(str(case.folder / "saved"))
    serve = loaded.signatures["serving_default"]

    def score(x0: Floats) -> Floats:
        (output,) = serve(x0=tf.constant(x0)).values()
        return output.numpy()

    score.model = loaded  # type: ignore[attr-defined] # lives as long as its signature
    return score


def lite_rt(case: NetworkCase) -> Scorer:
    """For so many rows, as all its shapes are fixed."""
    from ai_edge_litert.interpreter import Interpreter

    tf, network = _tensorflow(), _network(case.weights)
    concrete = _function(network, case.weights.width, case.rows).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], network)
    interpreter = Interpreter(model_content=converter.convert(), num_threads=1)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def score(x0: Floats) -> Floats:
        interpreter.set_tensor(source["index"], x0)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return score


def onnx_runtime(case: NetworkCase) -> Scorer:
    """What the ranker runs by default, without what it does around it."""
    from ranking_svc.models.onnx_session import OnnxSession

    write_dcn(case.weights, case.folder / "model.onnx")
    return OnnxSession(case.folder / "model.onnx").run


def openvino(case: NetworkCase) -> Scorer:
    import openvino as ov

    write_dcn(case.weights, case.folder / "openvino.onnx")
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
    # Else it computes in 16 bits where the machine can.
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    core = ov.Core()
    model = core.read_model(str(case.folder / "openvino.onnx"))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda x0: np.array(request.infer([x0])[0])


NETWORKS: dict[str, Callable[[NetworkCase], Scorer]] = {
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": openvino,
    "LiteRT": lite_rt,
    "tf.function": tf_function,
    "tf.function, XLA": tf_xla,
    "SavedModel": saved_model,
    "Keras model(x)": keras_eager,
}


def _tensorflow() -> Any:
    import tensorflow as tf

    if not tf.config.threading.get_intra_op_parallelism_threads():
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def _network(weights: DcnWeights) -> Any:
    _tensorflow()
    from benchmarks.serving.peers.model import Network

    return Network(weights)


def _function(network: Any, width: int, rows: int | None, **options: Any) -> Any:
    tf = _tensorflow()
    spec = tf.TensorSpec((rows, width), tf.float32, name="x0")
    return tf.function(network.__call__, input_signature=[spec], **options)
