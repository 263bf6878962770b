"""DCN-V2 in TF-Recommenders, trained on groups of candidates, and its exports.

Each example is one request: the candidates that retrieval proposed for it, and which of them the
user went on to like. The loss adds a listwise softmax, which orders a page, to a log loss, which
keeps scores comparable over requests (after Bai et al., "Regression Compatible Listwise
Objectives", CIKM 2023).
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before TensorFlow is imported anywhere
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from ranking_svc.engine import NUMBER_CLIP, DcnWeights
from shortlist.config import RankingConfig
from shortlist.errors import ArtifactRefused
from training.groups import Groups

__all__ = ["Dcn", "train_dcn"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

TOKEN_DIM = 8
_LISTWISE = 1.0  # weight of the listwise loss beside the log loss
_FEWEST_STEPS = 40  # of an epoch; little data goes around several times in one
_HELD_OUT = 0.15  # share of the requests that decide when to stop
_PATIENCE = 3  # epochs without a better held-out loss


class Dcn(tf.Module):
    """The network. `score` is the SavedModel's signature."""

    def __init__(
        self,
        *,
        config: RankingConfig,
        numbers: tuple[Floats, Floats],
        vocabularies: tuple[int, int, int],
        item_slots: Sequence[tuple[int, int]],
    ) -> None:
        super().__init__()
        self._mean, self._std = tf.constant(numbers[0]), tf.constant(numbers[1])
        self._item_slots = tuple(item_slots)
        self._decay = config.weight_decay
        small = tf.random_normal_initializer(stddev=0.05)
        self.item_table, self.user_table, self.context_table = (
            tf.Variable(small((size, TOKEN_DIM)), name=name)
            for size, name in zip(vocabularies, ("item", "user", "context"), strict=True)
        )
        low_rank = config.projection_dim or None
        self.crosses = [
            tfrs.layers.dcn.Cross(projection_dim=low_rank) for _ in range(config.cross_layers)
        ]
        self.hidden = [tf.keras.layers.Dense(n, activation="relu") for n in config.hidden]
        self.dropout = tf.keras.layers.Dropout(0.1)
        # Zero: training begins with no opinion instead of a random one.
        self.output = tf.keras.layers.Dense(1, kernel_initializer="zeros")

    def __call__(self, inputs: dict[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """Scores [n] of rows [n, ...]."""
        x0 = self._x0(inputs)
        x = deep = x0
        for cross in self.crosses:
            x = cross(x0, x)
        for layer in self.hidden:
            deep = self.dropout(layer(deep), training=training)
        return self.output(tf.concat([x, deep], axis=1))[:, 0]

    def _x0(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        standard = (inputs["numeric"] - self._mean) / self._std
        parts = [tf.clip_by_value(standard, -NUMBER_CLIP, NUMBER_CLIP)]
        for first, stop in self._item_slots:
            parts.append(
                _pool(
                    self.item_table,
                    inputs["item_tokens"][:, first:stop],
                    inputs["item_weights"][:, first:stop],
                )
            )
        for side, table in (("user", self.user_table), ("context", self.context_table)):
            if table.shape[0] > 1:
                parts.append(_pool(table, inputs[f"{side}_tokens"], inputs[f"{side}_weights"]))
        return tf.concat(parts, axis=1)

    def penalty(self) -> tf.Tensor:
        """Weight decay: the sum of squares of kernels and embeddings."""
        matrices = [v for v in self.trainable_variables if v.shape.rank == 2]
        return self._decay * tf.add_n([tf.reduce_sum(tf.square(v)) for v in matrices])

    def weights(self) -> DcnWeights:
        """The network as arrays; low-rank crosses are multiplied out."""
        return DcnWeights(
            mean=self._mean.numpy(),
            std=self._std.numpy(),
            item_tokens=self.item_table.numpy(),
            user_tokens=self.user_table.numpy(),
            context_tokens=self.context_table.numpy(),
            crosses=tuple(_cross_arrays(cross) for cross in self.crosses),
            hidden=tuple((layer.kernel.numpy(), layer.bias.numpy()) for layer in self.hidden),
            output_kernel=self.output.kernel.numpy(),
            output_bias=self.output.bias.numpy(),
        )

    def save(self, folder: Path, example: dict[str, npt.NDArray[np.generic]]) -> None:
        """Write the SavedModel; `example` gives names, types and widths of its inputs."""
        specs = {
            name: tf.TensorSpec((None, *array.shape[1:]), array.dtype, name=name)
            for name, array in example.items()
        }

        @tf.function(input_signature=[specs])
        def score(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {"score": self(inputs)}

        self.serve = score
        tf.saved_model.save(self, str(folder), signatures={"serving_default": score})


def _cross_arrays(cross: tfrs.layers.dcn.Cross) -> tuple[Floats, Floats]:
    """(W, b) of a TFRS cross layer, with W = U V where it is low rank."""
    arrays = [variable.numpy() for variable in cross.trainable_variables]
    kernels = [array for array in arrays if array.ndim == 2]
    (bias,) = (array for array in arrays if array.ndim == 1)
    kernel = kernels[0] if len(kernels) == 1 else kernels[0] @ kernels[1]
    return kernel, bias


def _pool(table: tf.Variable, tokens: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.gather(table, tokens) * weights[..., None], axis=1)


def train_dcn(
    groups: Groups,
    config: RankingConfig,
    *,
    vocabularies: tuple[int, int, int],
    item_slots: Sequence[tuple[int, int]],
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> tuple[Dcn, dict[str, float]]:
    """Train until a held-out share of the users stops getting better orders.

    Raises `ArtifactRefused` without a single liked candidate, or when training diverges.
    """
    if not (groups.labels > 0).any():
        raise ArtifactRefused("retrieval proposed none of the items that users went on to like")
    tf.keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    held_out = _held_out(groups, rng)
    learn, check = groups.take(np.flatnonzero(~held_out)), groups.take(np.flatnonzero(held_out))
    model = Dcn(
        config=config,
        numbers=_number_scales(learn),
        vocabularies=vocabularies,
        item_slots=item_slots,
    )
    optimizer = tf.keras.optimizers.legacy.Adam(config.learning_rate)
    step = _make_step(model, optimizer)
    steps = max(len(learn) // config.batch_size, _FEWEST_STEPS)
    best, best_loss, worse = None, np.inf, 0
    for epoch in range(config.epochs):
        for batch in islice(_batches(learn, config.batch_size, rng), steps):
            step(batch)
        loss = _mean_loss(model, check if len(check) else learn, config.batch_size)
        if not np.isfinite(loss):
            raise ArtifactRefused(f"ranker training diverged in epoch {epoch}: loss {loss}")
        progress("dcn", epoch + 1, config.epochs)
        if loss < best_loss:
            best, best_loss, worse = _snapshot(model), loss, 0
        else:
            worse += 1
            if worse >= _PATIENCE:
                break
    assert best is not None  # the first epoch's loss is finite
    for variable, value in zip(model.trainable_variables, best, strict=True):
        variable.assign(value)
    progress("dcn", config.epochs, config.epochs)
    return model, {"held_out_loss": float(best_loss), "epochs": epoch + 1}


def _held_out(groups: Groups, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Requests of a random share of the users: no user is on both sides."""
    users = np.unique(groups.user)
    chosen = users[rng.random(len(users)) < _HELD_OUT]
    held_out = np.isin(groups.user, chosen)
    return held_out if not held_out.all() else np.zeros(len(groups), bool)


def _number_scales(groups: Groups) -> tuple[Floats, Floats]:
    rows = groups.numeric[groups.mass > 0].astype(np.float64)
    std = rows.std(axis=0)
    return rows.mean(axis=0).astype(np.float32), np.where(std < 1e-6, 1, std).astype(np.float32)


def _batches(groups: Groups, size: int, rng: np.random.Generator) -> Iterator[dict[str, tf.Tensor]]:
    """Endless, in a new random order each time around."""
    size = min(size, len(groups))
    while True:
        order = rng.permutation(len(groups))
        for start in range(0, len(order) - size + 1, size):
            yield _tensors(groups.take(order[start : start + size]))


def _tensors(groups: Groups) -> dict[str, tf.Tensor]:
    names = set(Groups.__slots__) - {"user"}
    return {name: tf.constant(getattr(groups, name)) for name in names}


def _make_step(
    model: Dcn, optimizer: tf.keras.optimizers.Optimizer
) -> Callable[[dict[str, tf.Tensor]], None]:
    @tf.function(reduce_retracing=True)
    def step(batch: dict[str, tf.Tensor]) -> None:
        with tf.GradientTape() as tape:
            loss = _loss(model, batch, training=True) + model.penalty()
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    return step


def _loss(model: Dcn, batch: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
    """Mean over the requests of listwise softmax and log loss."""
    scores = _group_scores(model, batch, training=training)
    labels, mass = batch["labels"], batch["mass"]
    # Each drawn candidate stands for `mass` proposed ones (importance sampling).
    drawn = tf.where(mass > 0, tf.math.log(tf.maximum(mass, 1e-9)), -1e9)
    total = tf.reduce_logsumexp(scores + drawn, axis=1, keepdims=True)
    weights = labels * mass
    listwise = tf.math.divide_no_nan(
        tf.reduce_sum(weights * (total - scores), axis=1), tf.reduce_sum(weights, axis=1)
    )
    clicked = tf.cast(labels > 0, tf.float32)
    pointwise = tf.nn.sigmoid_cross_entropy_with_logits(clicked, scores) * mass
    log_loss = tf.reduce_sum(pointwise, axis=1) / tf.maximum(tf.reduce_sum(mass, axis=1), 1)
    return tf.reduce_mean(_LISTWISE * listwise + log_loss)


def _group_scores(model: Dcn, batch: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
    """Scores [R, g]."""
    shape = tf.shape(batch["labels"])
    rows: dict[str, tf.Tensor] = {}
    for name in ("numeric", "item_tokens", "item_weights"):
        rows[name] = tf.reshape(batch[name], (-1, batch[name].shape[-1]))
    for name in ("user_tokens", "user_weights", "context_tokens", "context_weights"):
        rows[name] = tf.repeat(batch[name], shape[1], axis=0)
    return tf.reshape(model(rows, training=training), shape)


def _mean_loss(model: Dcn, groups: Groups, size: int) -> float:
    losses, counts = [], []
    for start in range(0, len(groups), size):
        part = groups.take(np.arange(start, min(start + size, len(groups))))
        losses.append(float(_loss(model, _tensors(part), training=False)))
        counts.append(len(part))
    return float(np.average(losses, weights=counts))


def _snapshot(model: Dcn) -> list[npt.NDArray[np.float32]]:
    return [variable.numpy() for variable in model.trainable_variables]
