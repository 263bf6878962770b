"""DCN-V2 in TF-Recommenders, trained on groups of candidates, and its exports.

Each example is one request: the candidates that retrieval proposed for it, and what the user went
on to do with them. All heads share the network; the loss of each is that of `training.losses`, and
a squared error of the event's value joins them where the data has values. Several workers may share
the batches: see `training.data_parallel`.

A parallel network begins as the logistic regression of its inputs: its crosses pass them on as they
are, its deep layers say nothing, and both learn what is left to be learned. The linear part is what
is wide in Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016; learned first,
it leaves less to be learned by heart. docs/training.md has what that is worth.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before TensorFlow is imported anywhere
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import ray
import tensorflow as tf
import tensorflow_recommenders as tfrs

from ranking_svc.models.dcn import NUMBER_CLIP, CrossLayer, DcnWeights
from shortlist.config import DcnConfig
from shortlist.errors import ArtifactRefused
from training.data_parallel import Alone, Share, together
from training.groups import Groups

__all__ = ["LINEAR", "Dcn", "Sizes", "train_dcn", "train_dcn_together"]

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

# Logistic regression on the same inputs.
LINEAR = DcnConfig(cross_layers=0, hidden=(), learning_rate=0.01, weight_decay=0.0001)
TOKEN_DIM = 8
_VALUE_LOSS = 0.1  # weight of the value's squared error beside the heads
_FEWEST_STEPS = 40  # of an epoch; little data goes around several times in one
_PATIENCE = 3  # epochs without a better held-out loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the features and the events of a data set ask of a network."""

    vocabularies: tuple[int, int, int]  # of items, users and contexts
    item_slots: Sequence[tuple[int, int]]  # of the token features that get an embedding
    heads: tuple[str, ...]
    loss_shares: npt.NDArray[np.float64]  # [H], how much of the loss each head is
    has_value: bool


Origins = Sequence[tuple[tf.Variable, tf.Tensor]]


class Dcn(tf.Module):
    """The network. `score` is the SavedModel's signature."""

    def __init__(self, config: DcnConfig, sizes: Sizes, numbers: tuple[Floats, Floats]) -> None:
        """`numbers` are mean and standard deviation of the numeric columns."""
        super().__init__()
        self._mean, self._std = tf.constant(numbers[0]), tf.constant(numbers[1])
        self._structure, self._decay = config.structure, config.weight_decay
        self._heads, self._item_slots = tuple(sizes.heads), tuple(sizes.item_slots)
        small = tf.random_normal_initializer(stddev=0.05)
        self.item_table, self.user_table, self.context_table = (
            tf.Variable(small((size, TOKEN_DIM)), name=name)
            for size, name in zip(sizes.vocabularies, ("item", "user", "context"), strict=True)
        )
        low_rank = config.projection_dim or None
        self.crosses = [
            tfrs.layers.dcn.Cross(projection_dim=low_rank) for _ in range(config.cross_layers)
        ]
        self.hidden = [tf.keras.layers.Dense(n, activation="relu") for n in config.hidden]
        self.dropout = tf.keras.layers.Dropout(0.1)
        # Zero: training begins with no opinion instead of a random one.
        self.output = tf.keras.layers.Dense(
            len(self._heads) + sizes.has_value, kernel_initializer="zeros"
        )

    def begin_as(self, linear: Dcn) -> Origins:
        """Become this logistic regression, of the same inputs; where weight decay is to lead back
        to.

        All variables are made by now, and the outputs read what the crosses pass on.
        """
        wide = linear.output.kernel.numpy()
        nothing = np.zeros((self.output.kernel.shape[0] - len(wide), wide.shape[1]), np.float32)
        self.output.kernel.assign(np.concatenate([wide, nothing]))
        self.output.bias.assign(linear.output.bias)
        for mine, learned in zip(self._tables, linear._tables, strict=True):
            mine.assign(learned)
        for cross in self.crosses:
            # Of a low-rank layer only the second kernel: with two of zeros neither would learn.
            last = [one for one in cross.trainable_variables if one.shape.rank == 2][-1]
            last.assign(tf.zeros_like(last))
        begun = (self.output.kernel, *self._tables)
        return [(variable, tf.constant(variable.numpy())) for variable in begun]

    @property
    def _tables(self) -> tuple[tf.Variable, ...]:
        return self.item_table, self.user_table, self.context_table

    def __call__(self, inputs: dict[str, tf.Tensor], *, training: bool = False) -> tf.Tensor:
        """Outputs [n, H (+ 1)] of rows [n, ...]."""
        x0 = self._x0(inputs)
        x = x0
        for cross in self.crosses:
            x = cross(x0, x)
        stacked = self._structure == "stacked"
        deep = x if stacked else x0
        for layer in self.hidden:
            deep = self.dropout(layer(deep), training=training)
        if not self.hidden:
            return self.output(x)
        return self.output(deep if stacked else tf.concat([x, deep], axis=1))

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

    def predict(self, groups: Groups, size: int = 32) -> Floats:
        """Outputs float32 [R, g, H (+ 1)]."""
        parts = [
            np.asarray(_group_outputs(self, _tensors(part), training=False))
            for part in _slices(groups, size)
        ]
        return np.concatenate(parts)

    def penalty(self, origins: Origins) -> tf.Tensor:
        """Weight decay: the sum of squares of kernels and embeddings, from their origins or 0."""
        begun = {variable.ref(): origin for variable, origin in origins}
        matrices = [v for v in self.trainable_variables if v.shape.rank == 2]
        ways = [v - begun.get(v.ref(), 0.0) for v in matrices]
        return self._decay * tf.add_n([tf.reduce_sum(tf.square(way)) for way in ways])

    def weights(self) -> DcnWeights:
        """The network as arrays."""
        return DcnWeights(
            structure=self._structure,
            heads=self._heads,
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
            return {"outputs": self(inputs)}

        self.serve = score
        tf.saved_model.save(self, str(folder), signatures={"serving_default": score})


def _cross_arrays(cross: tfrs.layers.dcn.Cross) -> CrossLayer:
    """One kernel, or the two thin ones of a low-rank layer, in the order of their product."""
    arrays = [variable.numpy() for variable in cross.trainable_variables]
    (bias,) = (array for array in arrays if array.ndim == 1)
    return CrossLayer(kernels=tuple(array for array in arrays if array.ndim == 2), bias=bias)


def _pool(table: tf.Variable, tokens: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.gather(table, tokens) * weights[..., None], axis=1)


def train_dcn(
    groups: Groups,
    held_out: npt.NDArray[np.bool_],
    config: DcnConfig,
    sizes: Sizes,
    *,
    seed: int = 0,
    progress: Progress = lambda *_: None,
    share: Share | None = None,
) -> tuple[Dcn, int]:
    """Train until the held-out requests get no better orders; the network, and after how many
    epochs, 0 where nothing was better than the logistic regression that it began as.

    With a `share` this is one of several workers, which all get the same groups and end with the
    same network. Raises `ArtifactRefused` without a single liked candidate, or when training
    diverges.
    """
    if not (groups.head_labels > 0).any():
        raise ArtifactRefused("retrieval proposed none of the items that users went on to like")
    learn = groups.take(np.flatnonzero(~held_out))
    check = groups.take(np.flatnonzero(held_out)) if held_out.any() else learn
    return _train(learn, check, config, sizes, seed=seed, progress=progress, share=share or Alone())


def _train(
    learn: Groups,
    check: Groups,
    config: DcnConfig,
    sizes: Sizes,
    *,
    seed: int,
    share: Share,
    progress: Progress = lambda *_: None,
) -> tuple[Dcn, int]:
    tf.keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = _network(config, sizes, learn)
    best, best_loss, best_epoch = None, np.inf, 0
    origins: Origins = ()
    if _begins_linear(config):
        start = LINEAR.model_copy(update={"epochs": config.epochs})
        linear, _ = _train(learn, check, start, sizes, seed=seed, share=share)
        origins = model.begin_as(linear)
        best = _snapshot(model)
        best_loss = _mean_loss(model, check, sizes, config.batch_size, share)
    adam = tf.keras.optimizers.legacy.Adam(config.learning_rate)
    step = _make_step(model, sizes, adam, share, origins)
    steps = max(len(learn) // config.batch_size, _FEWEST_STEPS)
    for epoch in range(config.epochs):
        for rows in islice(_batches(len(learn), config.batch_size, rng), steps):
            step(_shared_batch(learn, rows, share))
        loss = _mean_loss(model, check, sizes, config.batch_size, share)
        if not np.isfinite(loss):
            raise ArtifactRefused(f"ranker training diverged in epoch {epoch}: loss {loss}")
        progress(epoch + 1, config.epochs)
        if loss < best_loss:
            best, best_loss, best_epoch = _snapshot(model), loss, epoch + 1
        elif epoch + 1 - best_epoch >= _PATIENCE:
            break
    assert best is not None  # the first epoch's loss is finite
    _restore(model, best)
    progress(config.epochs, config.epochs)
    return model, best_epoch


def train_dcn_together(
    workers: int,
    groups: Groups,
    groups_ref: ray.ObjectRef,
    config: DcnConfig,
    sizes: Sizes,
    *,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> tuple[Dcn, int]:
    """`train_dcn` by so many workers, which share each batch. `groups_ref` is where the groups lie
    in Ray's object store. Raises what `train_dcn` raises.
    """
    held_out = groups.held_out(seed)
    learn = groups.take(np.flatnonzero(~held_out))
    least = min(config.batch_size, len(learn))  # everybody has something of each batch
    member = partial(_train_member, config=config, sizes=sizes, seed=seed, progress=progress)
    trained = together(min(workers, least), member, groups_ref)
    assert trained is not None  # the first worker's
    variables, epochs = trained
    model = _network(config, sizes, learn)
    _restore(model, variables)
    return model, epochs


def _train_member(
    share: Share,
    groups: Groups,
    *,
    config: DcnConfig,
    sizes: Sizes,
    seed: int,
    progress: Progress,
) -> tuple[list[Floats], int] | None:
    """What one worker does; the first one returns the variables and how many epochs were good."""
    first = share.rank == 0
    tell: Progress = progress if first else lambda *_: None
    held_out = groups.held_out(seed)
    model, epochs = train_dcn(
        groups, held_out, config, sizes, seed=seed, progress=tell, share=share
    )
    return (_snapshot(model), epochs) if first else None


def _begins_linear(config: DcnConfig) -> bool:
    """Whether it is more than logistic regression, and its outputs read what crosses pass on."""
    more = config.cross_layers > 0 or len(config.hidden) > 0
    return more and (config.structure == "parallel" or not config.hidden)


def _network(config: DcnConfig, sizes: Sizes, learn: Groups) -> Dcn:
    """With all its variables."""
    model = Dcn(config, sizes, _number_scales(learn))
    _group_outputs(model, _tensors(learn.take(np.arange(1))), training=False)  # makes them
    return model


def _number_scales(groups: Groups) -> tuple[Floats, Floats]:
    rows = groups.numeric[groups.mass > 0].astype(np.float64)
    std = rows.std(axis=0)
    return rows.mean(axis=0).astype(np.float32), np.where(std < 1e-6, 1, std).astype(np.float32)


def _batches(requests: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Rows, endless, in a new random order each time around."""
    size = min(size, requests)
    while True:
        order = rng.permutation(requests)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def _shared_batch(
    groups: Groups, rows: npt.NDArray[np.int64], share: Share
) -> dict[str, tf.Tensor]:
    """This worker's part of a batch. What the loss is divided by is of the whole."""
    part = _tensors(groups.take(rows[share.rank :: share.workers]))
    return part | _counts(groups.mass[rows], groups.values[rows])


def _tensors(groups: Groups) -> dict[str, tf.Tensor]:
    names = set(Groups.__slots__) - {"user"}
    tensors = {name: tf.constant(getattr(groups, name)) for name in names}
    return tensors | _counts(groups.mass, groups.values)


def _counts(mass: Floats, values: Floats) -> dict[str, tf.Tensor]:
    """How many requests there are, and how many values are known."""
    return {
        "requests": tf.constant(len(mass), tf.float32),
        "valued": tf.constant(np.count_nonzero(np.isfinite(values)), tf.float32),
    }


def _slices(groups: Groups, size: int) -> Iterator[Groups]:
    for start in range(0, len(groups), size):
        yield groups.take(np.arange(start, min(start + size, len(groups))))


def _make_step(
    model: Dcn,
    sizes: Sizes,
    optimizer: tf.keras.optimizers.Optimizer,
    share: Share,
    origins: Origins,
) -> Callable[[dict[str, tf.Tensor]], None]:
    """Takes a step with this worker's part of a batch, and with those of the others."""

    def gradients(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = _group_outputs(model, batch, training=True)
            # The parts are added up, so each has its share of what is nobody's.
            loss = _loss(outputs, batch, sizes) + model.penalty(origins) / share.workers
        return tape.gradient(loss, model.trainable_variables)

    def apply(found: Sequence[tf.Tensor]) -> None:
        optimizer.apply_gradients(zip(found, model.trainable_variables, strict=True))

    @tf.function(reduce_retracing=True)
    def step_alone(batch: dict[str, tf.Tensor]) -> None:
        apply(gradients(batch))

    @tf.function(reduce_retracing=True)
    def flat_gradients(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        found = zip(gradients(batch), model.trainable_variables, strict=True)
        return tf.concat([tf.reshape(_dense(one, of), [-1]) for one, of in found], axis=0)

    @tf.function(reduce_retracing=True)
    def apply_flat(flat: tf.Tensor) -> None:
        shapes = [variable.shape for variable in model.trainable_variables]
        pieces = tf.split(flat, [shape.num_elements() for shape in shapes])
        apply([tf.reshape(one, shape) for one, shape in zip(pieces, shapes, strict=True)])

    def step_together(batch: dict[str, tf.Tensor]) -> None:
        apply_flat(tf.constant(share.sum(flat_gradients(batch).numpy())))

    return step_alone if share.workers == 1 else step_together


def _dense(gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> tf.Tensor:
    if isinstance(gradient, tf.IndexedSlices):
        rows = variable.shape[0]
        return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, rows)
    return gradient


def _loss(outputs: tf.Tensor, batch: dict[str, tf.Tensor], sizes: Sizes) -> tf.Tensor:
    """Mean over the requests of the heads' losses, and the value's.

    Of a part of a batch: its share of the mean over all of `batch["requests"]`.
    """
    losses = tf.add_n(
        [
            float(share)
            * _head_losses(outputs[..., head], batch["head_labels"][..., head], batch["mass"])
            for head, share in enumerate(sizes.loss_shares)
        ]
    )
    loss = tf.reduce_sum(losses) / batch["requests"]
    if sizes.has_value:
        errors = _value_errors(outputs[..., -1], batch["values"])
        loss += _VALUE_LOSS * tf.math.divide_no_nan(errors, batch["valued"])
    return loss


def _head_losses(scores: tf.Tensor, labels: tf.Tensor, mass: tf.Tensor) -> tf.Tensor:
    """`training.losses.ranking_loss` for TensorFlow to derive, [R]."""
    # Each drawn candidate stands for `mass` proposed ones (importance sampling).
    drawn = tf.where(mass > 0, tf.math.log(tf.maximum(mass, 1e-9)), -1e9)
    total = tf.reduce_logsumexp(scores + drawn, axis=1, keepdims=True)
    liked = labels * mass
    positives = tf.reduce_sum(liked, axis=1)
    listwise = tf.math.divide_no_nan(tf.reduce_sum(liked * (total - scores), axis=1), positives)
    pointwise = tf.nn.sigmoid_cross_entropy_with_logits(labels, scores) * mass
    log_loss = tf.reduce_sum(pointwise, axis=1) / tf.maximum(positives, 1)
    return listwise + log_loss


def _value_errors(predicted: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Sum of the squared errors where there is a value."""
    known = tf.math.is_finite(values)
    errors = tf.where(known, predicted - tf.where(known, values, 0.0), 0.0)
    return tf.reduce_sum(tf.square(errors))


def _group_outputs(model: Dcn, batch: dict[str, tf.Tensor], *, training: bool) -> tf.Tensor:
    """Outputs [R, g, H (+ 1)]."""
    shape = tf.shape(batch["mass"])
    rows: dict[str, tf.Tensor] = {}
    for name in ("numeric", "item_tokens", "item_weights"):
        rows[name] = tf.reshape(batch[name], (-1, batch[name].shape[-1]))
    for name in ("user_tokens", "user_weights", "context_tokens", "context_weights"):
        rows[name] = tf.repeat(batch[name], shape[1], axis=0)
    outputs = model(rows, training=training)
    return tf.reshape(outputs, (shape[0], shape[1], outputs.shape[-1]))


def _mean_loss(model: Dcn, groups: Groups, sizes: Sizes, size: int, share: Share) -> float:
    """Of all requests; each worker looks at some of the slices."""
    sums = np.zeros(2)
    for part in islice(_slices(groups, size), share.rank, None, share.workers):
        batch = _tensors(part)
        loss = float(_loss(_group_outputs(model, batch, training=False), batch, sizes))
        sums += loss * len(part), len(part)
    total, requests = share.sum(sums)
    return float(total / requests)


def _snapshot(model: Dcn) -> list[npt.NDArray[np.float32]]:
    return [variable.numpy() for variable in model.trainable_variables]


def _restore(model: Dcn, values: Sequence[Floats]) -> None:
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
