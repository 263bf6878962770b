"""The rankers of a world as TensorFlow models with the same weights, and what feeds them."""

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
import tensorflow as tf

from ranking_svc.models.dcn import PARITY, DcnWeights
from shortlist.config import DcnConfig
from training.dcn import Dcn, Sizes

__all__ = [
    "Inputs",
    "ModelDiffers",
    "Network",
    "check_parity",
    "eager_model",
    "save_model",
    "saved_model",
]

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]
Score = Callable[[Arrays], Floats]


class ModelDiffers(RuntimeError):
    """The TensorFlow model does not compute what ours does."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Features of items, a table each, gathered by row. What depends on the user is as wide as
    ours, and comes for nothing: peers do not compute it."""

    numeric: Floats  # float32 [n + 1, F]
    item_tokens: npt.NDArray[np.int32]
    item_weights: Floats
    user_slots: int
    context_slots: int

    @staticmethod
    def open(folder: Path, artifact: Path) -> Inputs:
        """`folder` is the peers'; `artifact` the ranking version."""
        import json

        def slots(side: str) -> int:
            found = json.loads((artifact / f"{side}_features.json").read_text("utf-8"))
            return sum(one["slots"] for one in found["tokens"])

        return Inputs(
            numeric=np.load(folder / "numeric.npy", mmap_mode="r"),
            item_tokens=np.load(artifact / "items" / "tokens.npy", mmap_mode="r"),
            item_weights=np.load(artifact / "items" / "token_weights.npy", mmap_mode="r"),
            user_slots=slots("user"),
            context_slots=slots("context"),
        )

    def of(self, rows: npt.NDArray[np.int64]) -> Arrays:
        n = len(rows)
        return {
            "numeric": self.numeric[rows],
            "item_tokens": self.item_tokens[rows],
            "item_weights": self.item_weights[rows],
            "user_tokens": np.ones((n, self.user_slots), np.int32),
            "user_weights": np.ones((n, self.user_slots), np.float32),
            "context_tokens": np.ones((n, self.context_slots), np.int32),
            "context_weights": np.ones((n, self.context_slots), np.float32),
        }


def save_model(
    weights: DcnWeights, item_slots: list[tuple[int, int]], inputs: Inputs, folder: Path
) -> None:
    """Write the SavedModel. Raises `ModelDiffers` unless it scores as our arrays do."""
    rows = np.arange(200)
    model = _model(weights, item_slots, inputs.of(rows))
    model.save(folder, inputs.of(rows[:2]))
    check_parity(saved_model(folder)(inputs.of(rows)), weights, item_slots, inputs.of(rows))


def saved_model(folder: Path) -> Score:
    """The SavedModel's signature, as TensorFlow Serving would call it."""
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures["serving_default"]

    def score(arrays: Arrays) -> Floats:
        answer = signature(**{name: tf.constant(one) for name, one in arrays.items()})
        return np.asarray(answer["outputs"])[:, 0]

    score.model = loaded  # type: ignore[attr-defined] # lives as long as its signature
    return score


def eager_model(weights: DcnWeights, item_slots: list[tuple[int, int]], example: Arrays) -> Score:
    """`model(x)` of Keras layers, one call a request."""
    model = _model(weights, item_slots, example)

    def score(arrays: Arrays) -> Floats:
        inputs = {name: tf.constant(one) for name, one in arrays.items()}
        return np.asarray(model(inputs))[:, 0]

    return score


class Network(tf.Module):
    """The layers of our training with our weights, from the network's input x0 on."""

    def __init__(self, weights: DcnWeights) -> None:
        super().__init__()
        model = _empty_model(weights, [])
        self._crosses, self._hidden, self._output = model.crosses, model.hidden, model.output
        self._stacked = weights.structure == "stacked"
        self(tf.zeros((1, weights.width)))  # makes the layers
        _assign(model, weights)

    def __call__(self, x0: tf.Tensor) -> tf.Tensor:
        """float32 [n, outputs]"""
        x = x0
        for cross in self._crosses:
            x = cross(x0, x)
        deep = x if self._stacked else x0
        for layer in self._hidden:
            deep = layer(deep)
        return self._output(deep if self._stacked else tf.concat([x, deep], axis=1))


def _model(weights: DcnWeights, item_slots: list[tuple[int, int]], example: Arrays) -> Dcn:
    model = _empty_model(weights, item_slots)
    model.item_table, model.user_table, model.context_table = map(
        tf.Variable, (weights.item_tokens, weights.user_tokens, weights.context_tokens)
    )
    model({name: tf.constant(one) for name, one in example.items()})  # makes the layers
    _assign(model, weights)
    return model


def _empty_model(weights: DcnWeights, item_slots: list[tuple[int, int]]) -> Dcn:
    """Of the same shape; its layers are made when it is called first."""
    config = DcnConfig(
        structure=weights.structure,
        cross_layers=len(weights.crosses),
        projection_dim=weights.crosses[0].kernels[0].shape[1],
        hidden=tuple(len(bias) for _, bias in weights.hidden),
    )
    tables = (weights.item_tokens, weights.user_tokens, weights.context_tokens)
    sizes = Sizes(
        vocabularies=(len(tables[0]), len(tables[1]), len(tables[2])),
        item_slots=item_slots,
        heads=weights.heads,
        loss_shares=np.ones(len(weights.heads)),
        has_value=False,
    )
    return Dcn(config, sizes, (weights.mean, weights.std))


def _assign(model: Dcn, weights: DcnWeights) -> None:
    for layer, cross in zip(model.crosses, weights.crosses, strict=True):
        kernels = [one for one in layer.trainable_variables if one.shape.rank == 2]
        (bias,) = (one for one in layer.trainable_variables if one.shape.rank == 1)
        for variable, array in zip(kernels, cross.kernels, strict=True):
            variable.assign(array)
        bias.assign(cross.bias)
    for layer, (kernel, bias) in zip(model.hidden, weights.hidden, strict=True):
        layer.set_weights([kernel, bias])
    model.output.set_weights([weights.output_kernel, weights.output_bias])


def check_parity(
    scores: Floats, weights: DcnWeights, item_slots: list[tuple[int, int]], arrays: Arrays
) -> None:
    """Raise `ModelDiffers` unless `scores` are those of the same sums in numpy."""
    x0 = _x0(weights, item_slots, arrays)
    x = x0
    for cross in weights.crosses:
        x = cross(x0, x)
    stacked = weights.structure == "stacked"
    deep = x if stacked else x0
    for kernel, bias in weights.hidden:
        deep = np.maximum(deep @ kernel + bias, 0)
    last = deep if stacked else np.concatenate([x, deep], axis=1)
    ours = (last @ weights.output_kernel + weights.output_bias)[:, 0]
    difference = float(np.abs(scores - ours).max())
    if difference > PARITY * max(1.0, float(np.abs(ours).max())):
        raise ModelDiffers(f"TensorFlow's scores differ from ours by {difference}")


def _x0(weights: DcnWeights, item_slots: list[tuple[int, int]], arrays: Arrays) -> Floats:
    def pooled(table: Floats, tokens: Any, shares: Any) -> Any:
        return np.einsum("nst,ns->nt", table[tokens], shares)

    tokens, shares = arrays["item_tokens"], arrays["item_weights"]
    parts = [np.clip((arrays["numeric"] - weights.mean) / weights.std, -4, 4)]
    parts += [
        pooled(weights.item_tokens, tokens[:, first:stop], shares[:, first:stop])
        for first, stop in item_slots
    ]
    for side, table in (("user", weights.user_tokens), ("context", weights.context_tokens)):
        parts.append(pooled(table, arrays[f"{side}_tokens"], arrays[f"{side}_weights"]))
    return np.concatenate(parts, axis=1, dtype=np.float32)
