"""The two-tower model in TF-Recommenders, and its export to plain arrays.

The item tower (`retrieval_svc.item_encoder`) is a sum of a constant, an id embedding, the mean
token embedding of each feature, and a projection of the item's numbers; id dropout makes the
content carry an item alone, so an item that nobody clicked gets a useful vector, too (DropoutNet:
Volkovs et al., NeurIPS 2017). The user tower is `retrieval_svc.encoder`. Both are unit length; the
loss is a sampled softmax over in-batch and uniform negatives with log-Q correction (Yi et al.,
RecSys 2019; Yang et al., WWW 2020).

With times an interaction is predicted from what its user did before. Without them a random half of
a user's items is predicted from the other, all targets of a user in one softmax, as autoencoders do
(Liang et al., WWW 2018): the same users take a fifth of the time, and the result is better. That
training starts from the spectrum of who liked what (`training.spectrum`), not from chance.

Several workers may share the steps: see `training.data_parallel` and `training.tower_parts`.
"""

from __future__ import annotations

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # before TensorFlow is imported anywhere
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from retrieval_svc.encoder import (
    LEAST_REACH,
    TowerWeights,
    UserEncoder,
    moment_features,
    user_columns,
)
from retrieval_svc.item_encoder import ItemEncoder
from shortlist.config import TwoTowerConfig
from shortlist.errors import ArtifactRefused
from shortlist.features import Encoded
from training.data_parallel import Alone, Share
from training.dataset import UNKNOWN_TIME_MS, Dataset
from training.encoding import Encoders, context_columns, entity_columns, fit_encoders
from training.sequences import UserSequences
from training.spectrum import spectral_vectors
from training.tower_parts import part_of_sequences, part_of_sets, touched_rows
from training.user_sets import UserSets

__all__ = ["TwoTower", "train_two_tower"]

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[np.generic]]
Tensors = dict[str, tf.Tensor]
Progress = Callable[[str, int, int], None]
Step = Callable[[Tensors], Mapping[str, Any]]

_TOKEN_START = 0.25  # length of items' token embeddings in the beginning
_TOKEN_DIM = 16  # of user and context tokens
_UNIFORM_NEGATIVES = 2048
_NO_HISTORY = 0.1  # share of examples trained as if the user were new
_USERS_A_STEP = 256  # of sets
_TIMES_AROUND = 5  # how often an epoch of sets divides each user's items anew
_LAST_RATE = 0.1  # share of the learning rate of sets that is left in the end
_HIDDEN = 128
_LIKE_EVERYBODY = 0.05  # what a user is given of everybody's taste at first
# Adagrad's start. The loss is a mean, so gradients are small: with Keras's 0.1 rare items hardly
# move (book-crossing: Recall@1000 .318 after 6 epochs, against .398 after 3 with this).
_FIRST_SQUARE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoTower:
    """A trained model as arrays."""

    item_vectors: Floats  # float32 [n_items, dim], unit length, rows of Dataset.items
    encoder: UserEncoder
    item_encoder: ItemEncoder
    losses: tuple[float, ...]  # mean training loss of each epoch
    parameters: Arrays  # by name, as they were trained: another training may begin with them


def train_two_tower(
    dataset: Dataset,
    rows: npt.NDArray[np.int64],
    config: TwoTowerConfig,
    *,
    recency_half_life_ms: float | None,
    seed: int = 0,
    judge: Callable[[TwoTower], float] | None = None,
    begin_with: Mapping[str, npt.NDArray[np.generic]] | None = None,
    progress: Progress = lambda *_: None,
    share: Share | None = None,
) -> TwoTower:
    """Train on the positive interactions among `rows`.

    `recency_half_life_ms` halves an example's weight for each such span of age; None = all alike.
    `judge` is asked after each epoch how good the model is, and training ends with the last epoch
    that made it better; without one all epochs are run. Where the spectrum is a whole model, items
    without content and users without times, there may be no such epoch: `losses` then is empty.
    `begin_with` are the parameters of a model of the same items, users and configuration; those of
    another shape are begun anew.
    With a `share` this is one of several workers, which are all given the same and end with the
    same model; the first one judges, for all.
    Raises `ArtifactRefused` when there is nothing to learn from, when a weight or value is not
    finite, or when training diverged.
    """
    _refuse_not_finite(dataset, rows)
    rows = rows[dataset.events.weight[rows] > 0]
    if len(rows) == 0:
        raise ArtifactRefused("no positive interaction to train the two-tower model on")
    tf.keras.utils.set_random_seed(seed)
    share = share or Alone()
    examples = _Examples(dataset, rows, config, recency_half_life_ms, seed)
    model = _TwoTowerModel(examples, config, seed)
    if not dataset.has_time:
        model.begin_with_spectrum(_spectrum(examples, config.dim - 1, share))
    model.begin_with(begin_with or {})
    steps = config.epochs * examples.steps
    model.compile(optimizer=_optimizer(config, steps, ordered=dataset.has_time))
    step = model.train_step if share.workers == 1 else partial(model.train_step_together, share)
    losses: list[float] = []
    best: tuple[float, TwoTower] | None = None
    if judge is not None and begin_with is None and examples.begins_good:
        best = _judged(model, losses, judge, share)
    for epoch in range(config.epochs):
        losses.append(_run_epoch(step, examples, epoch, config.epochs, progress))
        if judge is not None:
            trained = _judged(model, losses, judge, share)
            if best is not None and trained[0] <= best[0]:
                break
            best = trained
    progress("two-tower", steps, steps)
    return best[1] if best else model.export(losses)


def _spectrum(examples: _Examples, dim: int, share: Share) -> Floats:
    """That of the first worker: a decomposition may differ between processors, in signs even."""
    found = np.zeros((examples.dataset.n_items, dim), np.float32)
    if share.rank == 0:
        found = examples.spectrum(dim)
    return share.sum(found)


def _judged(
    model: _TwoTowerModel, losses: list[float], judge: Callable[[TwoTower], float], share: Share
) -> tuple[float, TwoTower]:
    """How good the first worker finds the model, and the model."""
    exported = model.export(losses)
    score = judge(exported) if share.rank == 0 else 0.0
    return float(share.sum(np.array([score]))[0]), exported


def _optimizer(
    config: TwoTowerConfig, steps: int, *, ordered: bool
) -> tf.keras.optimizers.Optimizer:
    if not ordered:
        falling = tf.keras.optimizers.schedules.CosineDecay(
            config.set_learning_rate, max(steps, 1), alpha=_LAST_RATE
        )
        return tf.keras.optimizers.legacy.Adam(falling)
    return tf.keras.optimizers.legacy.Adagrad(
        config.learning_rate, initial_accumulator_value=_FIRST_SQUARE
    )


def _refuse_not_finite(dataset: Dataset, rows: npt.NDArray[np.int64]) -> None:
    weights, values = dataset.events.weight[rows], dataset.events.value[rows]
    # An interaction without a value has NaN there.
    for column, bad in (("weight", ~np.isfinite(weights)), ("value", np.isinf(values))):
        if count := int(np.count_nonzero(bad)):
            raise ArtifactRefused(
                f"interactions.{column}: {count} of {len(rows)} numbers are not finite"
            )


def _run_epoch(
    take: Step, examples: _Examples, epoch: int, epochs: int, progress: Progress
) -> float:
    losses = []
    for step, batch in enumerate(examples.batches(epoch)):
        losses.append(take(batch)["loss"])
        if step % 10 == 0:
            progress("two-tower", epoch * examples.steps + step, epochs * examples.steps)
    loss = float(np.mean([float(value) for value in losses]))
    if not np.isfinite(loss):
        raise ArtifactRefused(f"two-tower training diverged in epoch {epoch}: loss {loss}")
    progress("two-tower", (epoch + 1) * examples.steps, epochs * examples.steps)
    return loss


class _Examples:
    """Training rows and everything that is looked up for them."""

    def __init__(
        self,
        dataset: Dataset,
        rows: npt.NDArray[np.int64],
        config: TwoTowerConfig,
        recency_half_life_ms: float | None,
        seed: int,
    ) -> None:
        events = dataset.events
        self.dataset = dataset
        self.encoders: Encoders = fit_encoders(dataset, rows)
        self.items: Encoded = self.encoders.item.encode(
            entity_columns(dataset.items, dataset.schema.item_features), dataset.n_items
        )
        self._users = self.encoders.user.encode(
            entity_columns(dataset.users, dataset.schema.user_features), dataset.n_users
        )
        self._contexts = self.encoders.context.encode(context_columns(dataset, rows), len(rows))
        self._user, self._item = events.user[rows], events.item[rows]
        self._event_weight, self._time = events.weight[rows], events.time_ms[rows]
        self._example_weight = _recency(self._time, recency_half_life_ms) * self._event_weight
        self._example_weight /= self._example_weight.mean()
        self._batch = min(config.batch_size, len(rows))
        self._seed = seed
        self.clicks = np.bincount(self._item, minlength=dataset.n_items)
        self.drawn_from = self._draw_from(config.id_dropout)
        self.negatives = min(_UNIFORM_NEGATIVES, len(self.drawn_from))
        if dataset.has_time:
            self._sequences = UserSequences(self._user, length=config.history_length)
            self.steps = len(rows) // self._batch
        else:
            self._sets = UserSets(
                self._user,
                self._item,
                self._event_weight,
                items=dataset.n_items,
                drawn_from=self.drawn_from,
                users_a_step=_USERS_A_STEP,
                negatives=_UNIFORM_NEGATIVES,
            )
            self.steps = self._sets.steps * _TIMES_AROUND

    @property
    def begins_good(self) -> bool:
        """Whether the spectrum tells all there is of items: none has content to be learned."""
        described = bool(self.items.weights.any() or self.items.numeric.any())
        return not self.dataset.has_time and not described

    def spectrum(self, dim: int) -> Floats:
        """What `training.spectrum` makes of the interactions, float32 [items, dim]."""
        return spectral_vectors(
            self._user,
            self._item,
            self._event_weight,
            users=self.dataset.n_users,
            items=self.dataset.n_items,
            dim=dim,
            seed=self._seed,
        )

    def batches(self, epoch: int) -> Iterator[dict[str, tf.Tensor]]:
        """One epoch in random order; a last batch that is not full is left out."""
        rng = np.random.default_rng((self._seed, epoch))
        arrays = self._sequence_batches(rng) if self.dataset.has_time else self._set_batches(rng)
        for batch in arrays:
            yield _constants(batch)

    def _sequence_batches(self, rng: np.random.Generator) -> Iterator[Arrays]:
        order = rng.permutation(len(self._item))
        for step in range(self.steps):
            yield self.sequences(order[step * self._batch : (step + 1) * self._batch], rng)

    def sequences(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Arrays:
        """A batch of interactions with what their users did before."""
        before = self._sequences.before(chosen)
        before[rng.random(len(chosen)) < _NO_HISTORY] = -1
        present = before >= 0
        return {
            "history": np.where(present, self._item[before], 0).astype(np.int32),
            "history_weight": np.where(present, self._event_weight[before], 0).astype(np.float32),
            "item": self._item[chosen].astype(np.int32),
            "weight": self._example_weight[chosen].astype(np.float32),
            **self._about(chosen, present.sum(axis=1).astype(np.float32)),
        }

    def _set_batches(self, rng: np.random.Generator) -> Iterator[Arrays]:
        for _ in range(_TIMES_AROUND):
            for batch in self._sets.batches(rng):
                arrays = {name: getattr(batch, name) for name in batch.__slots__}
                yield arrays | self._about(batch.example, batch.size)

    def _about(self, chosen: npt.NDArray[np.int64], history_size: Floats) -> Arrays:
        """User, context and moment of interactions."""
        users = self._user[chosen]
        return {
            "user_tokens": self._users.tokens[users],
            "user_token_weights": self._users.weights[users],
            "context_tokens": self._contexts.tokens[chosen],
            "context_token_weights": self._contexts.weights[chosen],
            "numeric": np.concatenate(
                [
                    self._users.numeric[users],
                    self._contexts.numeric[chosen],
                    moment_features(self._time[chosen], self.dataset.has_time, history_size),
                ],
                axis=1,
            ),
        }

    def _draw_from(self, id_dropout: float) -> npt.NDArray[np.int32]:
        """The items that negatives are drawn from: all that were clicked, and some of the others.

        One that was never clicked is known by its content in every step, the others in a share of
        `id_dropout`; and it can be nothing but a negative. All of them would teach that content
        alone, which is what new items have, is wanted by nobody. So of these are as many as content
        counts of the others, and of those that came late as many as there was time to click them.
        """
        rng = np.random.default_rng(self._seed)
        chance = np.where(self.clicks > 0, 1.0, id_dropout * self._exposure())
        return np.flatnonzero(rng.random(len(chance)) < chance).astype(np.int32)

    def _exposure(self) -> npt.NDArray[np.float64]:
        """The share of what was learned that is of the time since each item was published."""
        published = self.dataset.published_ms
        if not self.dataset.has_time:
            return np.ones(len(published))
        order = np.argsort(self._time)
        before = np.append(0.0, np.cumsum(self._example_weight[order], dtype=np.float64))
        since = 1 - before[np.searchsorted(self._time[order], published)] / before[-1]
        return np.where(published == UNKNOWN_TIME_MS, 1.0, since)

    def sampling_probability(self) -> Floats:
        """How likely each item of `drawn_from` is among candidates, per drawn one."""
        in_batch = self.clicks / self.clicks.sum() * self._batch
        drawn = self.negatives / len(self.drawn_from)
        mixed = (in_batch + drawn) / (self._batch + self.negatives)
        return mixed.astype(np.float32)


def _recency(times_ms: npt.NDArray[np.int64], half_life_ms: float | None) -> Floats:
    if half_life_ms is None:
        return np.ones(len(times_ms), np.float32)
    age = (times_ms.max() - times_ms) / half_life_ms
    # Old examples keep a little weight, so that the items of long ago still have a place.
    return np.maximum(0.5**age, 0.02).astype(np.float32)


class _TwoTowerModel(tfrs.Model):
    """Both towers in TensorFlow; `users` computes what `UserEncoder.encode` computes."""

    def __init__(self, examples: _Examples, config: TwoTowerConfig, seed: int) -> None:
        super().__init__()
        self._examples, self._config = examples, config
        self._has_time = examples.dataset.has_time
        self._make_item_variables(examples, config.dim)
        self._make_user_variables(examples, config)
        self._random = tf.random.Generator.from_seed(seed)
        self._task = tfrs.tasks.Retrieval(
            loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"),
            temperature=config.temperature,
            remove_accidental_hits=True,
        )
        self._probability = tf.constant(examples.sampling_probability())
        self._drawn_from = tf.constant(examples.drawn_from)

    def _make_item_variables(self, examples: _Examples, dim: int) -> None:
        small = tf.random_normal_initializer(stddev=dim**-0.5)
        encoder, items = examples.encoders.item, examples.items
        self._ids = self.add_weight(
            name="ids", shape=(len(examples.clicks), dim), initializer=small
        )
        # Much shorter than ids: a word begins as noise, which rare ones never lose.
        quiet = tf.random_normal_initializer(stddev=_TOKEN_START * dim**-0.5)
        self._item_tokens = self.add_weight(
            name="item_tokens", shape=(encoder.vocabulary_size, dim), initializer=quiet
        )
        # And what no clicked item has says nothing: only new items have it.
        told = np.unique(items.tokens[examples.clicks > 0])
        known = np.isin(np.arange(encoder.vocabulary_size), told)[:, None]
        self._item_tokens.assign(self._item_tokens * known.astype(np.float32))
        self._item_numeric = self.add_weight(
            name="item_numeric", shape=(items.numeric.shape[1], dim), initializer="zeros"
        )
        # What any item has, so that one without clicks and content has a vector, too.
        self._any_item = self.add_weight(name="any_item", shape=(1, dim), initializer=small)
        self._tokens = tf.constant(items.tokens)
        self._token_weights = tf.constant(items.weights * known[items.tokens, 0])
        self._numbers = tf.constant(items.numeric)
        # Without content an id is all that an item has: it is never dropped.
        described = np.concatenate([items.tokens, items.numeric], axis=1) != 0
        self._described = tf.constant(described.any(axis=1, keepdims=True))
        # An item that was never clicked has no id embedding, only content.
        self._clicked = tf.constant((examples.clicks > 0).astype(np.float32)[:, None])

    def _make_user_variables(self, examples: _Examples, config: TwoTowerConfig) -> None:
        dim, encoders = config.dim, examples.encoders
        small = tf.random_normal_initializer(stddev=dim**-0.5)
        tiny = tf.random_normal_initializer(stddev=0.01)
        width = 2 * _TOKEN_DIM + user_columns(encoders.user, encoders.context)

        def weight(name: str, shape: tuple[int, ...], initializer: object) -> tf.Variable:
            return self.add_weight(name=name, shape=shape, initializer=initializer)

        # Without times a history has no order: every place counts the same.
        newest_first = np.linspace(-2 if self._has_time else 0, 0, config.history_length)
        self._user_weights = {
            "position": self.add_weight(
                name="position",
                shape=(config.history_length,),
                initializer=tf.constant_initializer(newest_first),
                trainable=self._has_time,
            ),
            "user_tokens": weight(
                "user_tokens", (encoders.user.vocabulary_size, _TOKEN_DIM), small
            ),
            "context_tokens": weight(
                "context_tokens", (encoders.context.vocabulary_size, _TOKEN_DIM), small
            ),
            "history_map": weight("history_map", (dim, dim), "identity"),
            "feature_map": weight("feature_map", (width, dim), tiny),
            "bias": weight("bias", (dim,), small),
            "hidden_map": weight("hidden_map", (2 * dim + width, _HIDDEN), "glorot_uniform"),
            "hidden_bias": weight("hidden_bias", (_HIDDEN,), "zeros"),
            "output_map": weight("output_map", (_HIDDEN, dim), tiny),
            "output_bias": weight("output_bias", (dim,), "zeros"),
        }

    def items(self, rows: tf.Tensor, *, kept: tf.Tensor | None = None) -> tf.Tensor:
        """Unit vectors [n, dim] of item rows [n].

        `kept`, bool [n, 1], is false where an item is known by its content alone, if it has any.
        """
        own = tf.gather(self._ids, rows) * tf.gather(self._clicked, rows)
        if kept is not None:
            own *= tf.cast(kept | ~tf.gather(self._described, rows), tf.float32)
        tokens = tf.gather(self._item_tokens, tf.gather(self._tokens, rows))
        content = tf.reduce_sum(tokens * tf.gather(self._token_weights, rows)[..., None], axis=1)
        numbers = tf.matmul(tf.gather(self._numbers, rows), self._item_numeric)
        return tf.nn.l2_normalize(self._any_item + own + content + numbers, axis=-1)

    def users(self, batch: dict[str, tf.Tensor], pooled: tf.Tensor, newest: tf.Tensor) -> tf.Tensor:
        """Unit vectors [n, dim] of users whose histories' mean and newest vectors are given."""
        w = self._user_weights
        x = tf.concat(
            [
                _embed(w["user_tokens"], batch["user_tokens"], batch["user_token_weights"]),
                _embed(
                    w["context_tokens"], batch["context_tokens"], batch["context_token_weights"]
                ),
                batch["numeric"],
            ],
            axis=1,
        )
        hidden = tf.nn.relu(
            tf.concat([pooled, newest, x], axis=1) @ w["hidden_map"] + w["hidden_bias"]
        )
        return tf.nn.l2_normalize(
            pooled @ w["history_map"]
            + x @ w["feature_map"]
            + w["bias"]
            + hidden @ w["output_map"]
            + w["output_bias"],
            axis=-1,
        )

    def compute_loss(self, inputs: Tensors, training: bool = True) -> tf.Tensor:  # noqa: ARG002
        """Mean weighted loss of a batch."""
        return self.loss_of(self.draw(inputs))

    def draw(self, inputs: Tensors) -> Tensors:
        """A batch with all that is drawn at random, and with what the mean is taken over."""
        return (self._draw_sequences if self._has_time else self._draw_sets)(inputs)

    def loss_of(self, step: Tensors) -> tf.Tensor:
        """Mean weighted loss of a drawn batch; of a part of one, its share of the whole's."""
        return (self._sequence_loss if self._has_time else self._set_loss)(step)

    def _draw_kept(self, count: tf.Tensor) -> tf.Tensor:
        return self._random.uniform((count, 1)) >= self._config.id_dropout

    def _draw_sequences(self, inputs: Tensors) -> Tensors:
        """`history` and `candidates` become places among `rows`: each item that the step needs goes
        through the tower once. The first candidates are to be found, the others are negatives.
        """
        shape, among = (self._examples.negatives,), len(self._examples.drawn_from)
        negatives = tf.gather(self._drawn_from, self._random.uniform(shape, 0, among, tf.int32))
        history, candidates = inputs["history"], tf.concat([inputs["item"], negatives], axis=0)
        rows, place = tf.unique(tf.concat([tf.reshape(history, [-1]), candidates], axis=0))
        in_history = tf.size(history)
        return inputs | {
            "rows": rows,
            "kept": self._draw_kept(tf.shape(rows)[0]),
            "history": tf.reshape(place[:in_history], tf.shape(history)),
            "candidates": place[in_history:],
            "whole": tf.cast(tf.shape(history)[0], tf.float32),
        }

    def _sequence_loss(self, step: Tensors) -> tf.Tensor:
        """Of the item that came next, against the items of the others and drawn ones."""
        history, candidates = step["history"], tf.gather(step["rows"], step["candidates"])
        place = tf.concat([tf.reshape(history, [-1]), step["candidates"]], axis=0)
        vectors = tf.gather(self.items(step["rows"], kept=step["kept"]), place)
        in_history = tf.size(history)
        shape = tf.concat([tf.shape(history), [self._config.dim]], axis=0)
        loss = self._task(
            self.users(step, *self.pool_sequences(step, tf.reshape(vectors[:in_history], shape))),
            vectors[in_history:],
            sample_weight=step["weight"],
            candidate_sampling_probability=tf.gather(self._probability, candidates),
            candidate_ids=candidates,
            compute_metrics=False,
        )
        return loss / step["whole"]

    def pool_sequences(
        self, batch: dict[str, tf.Tensor], vectors: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and newest of the histories' vectors [n, history_length, dim], newest last."""
        strength = tf.exp(self._user_weights["position"])[None] * batch["history_weight"]
        total = tf.reduce_sum(strength, axis=1, keepdims=True)
        pooled = tf.math.divide_no_nan(tf.reduce_sum(vectors * strength[..., None], axis=1), total)
        return pooled, vectors[:, -1] * tf.cast(batch["history_weight"][:, -1:] > 0, tf.float32)

    def _draw_sets(self, inputs: Tensors) -> Tensors:
        return inputs | {
            "history_kept": self._draw_kept(tf.shape(inputs["history"])[0]),
            "candidates_kept": self._draw_kept(tf.shape(inputs["candidates"])[0]),
            "whole": tf.reduce_sum(inputs["weight"]),
        }

    def _set_loss(self, step: Tensors) -> tf.Tensor:
        """Of a user's other items, against those of the other users and drawn ones."""
        history = self.items(step["history"], kept=step["history_kept"])
        users = self.users(step, *self.pool_sets(step, history))
        candidates = self.items(step["candidates"], kept=step["candidates_kept"])
        scores = tf.matmul(users, candidates, transpose_b=True) / self._config.temperature
        scores -= step["log_chance"]
        lowest = tf.fill([tf.shape(step["hidden"])[0]], scores.dtype.min / 2)
        total = tf.reduce_logsumexp(
            tf.tensor_scatter_nd_update(scores, step["hidden"], lowest), axis=1
        )
        targets, weight = step["targets"], step["weight"]
        losses = tf.gather(total, targets[:, 0]) - tf.gather_nd(scores, targets)
        return tf.reduce_sum(losses * weight) / step["whole"]

    def pool_sets(
        self, batch: dict[str, tf.Tensor], vectors: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Evened mean of the histories' vectors, whose different ones are given, and no newest."""
        users, place = tf.unstack(batch["known"], axis=1)
        count = tf.shape(batch["numeric"])[0]
        reach = tf.maximum(tf.norm(vectors[:, :-1], axis=1), LEAST_REACH)
        strength = batch["strength"] / tf.gather(reach, place)
        total = tf.math.unsorted_segment_sum(strength, users, count)
        pooled = tf.math.unsorted_segment_sum(
            tf.gather(vectors, place) * (strength / tf.gather(total, users))[:, None], users, count
        )
        return pooled, tf.zeros_like(pooled)

    @tf.function(reduce_retracing=True)
    def train_step(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One optimiser step; `tfrs.Model.train_step`, compiled."""
        return super().train_step(inputs)

    def train_step_together(self, share: Share, inputs: Tensors) -> dict[str, float]:
        """`train_step` with this worker's part of a batch, and with those of the others.

        Sent are the gradients of the rows that the whole step touches, not of whole tables.
        """
        step = {name: tensor.numpy() for name, tensor in self._draw(inputs).items()}
        touched = _constants(touched_rows(step, self._examples.items.tokens))
        part_of = part_of_sequences if self._has_time else part_of_sets
        part = _constants(part_of(step, share.rank, share.workers))
        total = share.sum(self._flat_gradients(part, touched).numpy())
        self._apply_flat(tf.constant(total[:-1]), touched)
        return {"loss": float(total[-1])}

    @tf.function(reduce_retracing=True)
    def _draw(self, inputs: Tensors) -> Tensors:
        return self.draw(inputs)

    @tf.function(reduce_retracing=True)
    def _flat_gradients(self, part: Tensors, touched: Tensors) -> tf.Tensor:
        """Gradients of the variables in their order, of tables those of the touched rows, and last
        the loss.
        """
        variables = self._trained()
        with tf.GradientTape() as tape:
            loss = self.loss_of(part)
        found = tape.gradient(loss, variables)
        for name, rows in touched.items():
            found[name] = _of_rows(found[name], rows)
        flat = [tf.reshape(found[name], [-1]) for name in variables]
        return tf.concat([*flat, [loss]], axis=0)

    @tf.function(reduce_retracing=True)
    def _apply_flat(self, flat: tf.Tensor, touched: Tensors) -> None:
        variables = self._trained()
        shapes = {name: tf.shape(variable) for name, variable in variables.items()}
        for name, rows in touched.items():
            shapes[name] = tf.concat([tf.shape(rows), shapes[name][1:]], axis=0)
        sizes = tf.stack([tf.reduce_prod(shape) for shape in shapes.values()])
        found = {
            name: tf.reshape(piece, shape)
            for (name, shape), piece in zip(
                shapes.items(), tf.split(flat, sizes, num=len(shapes)), strict=True
            )
        }
        for name, rows in touched.items():
            found[name] = tf.IndexedSlices(found[name], rows, tf.shape(variables[name]))
        self.optimizer.apply_gradients([(found[name], variables[name]) for name in variables])

    def _trained(self) -> dict[str, tf.Variable]:
        return {name: one for name, one in self._parameters().items() if one.trainable}

    def export(self, losses: list[float]) -> TwoTower:
        """Arrays of both towers. Raises `ArtifactRefused` when a number is not finite."""
        examples, count = self._examples, len(self._examples.clicks)
        blocks = [
            self.items(tf.range(start, min(start + 65_536, count))).numpy()
            for start in range(0, count, 65_536)
        ]
        vectors = np.concatenate(blocks)
        if not np.isfinite(vectors).all():
            raise ArtifactRefused("item vectors hold NaN or Inf after training")
        encoder = UserEncoder(
            keys=examples.dataset.item_keys,
            vectors=vectors,
            user=examples.encoders.user,
            context=examples.encoders.context,
            weights=TowerWeights(
                **{name: value.numpy() for name, value in self._user_weights.items()}
            ),
            has_time=examples.dataset.has_time,
            evened=not examples.dataset.has_time,
        )
        item_encoder = ItemEncoder(
            features=examples.encoders.item,
            keys=examples.dataset.item_keys,
            own=self._ids.numpy() * self._clicked.numpy(),
            tokens=self._item_tokens.numpy(),
            numeric=self._item_numeric.numpy(),
            any_item=self._any_item.numpy()[0],
        )
        return TwoTower(
            item_vectors=vectors,
            encoder=encoder,
            item_encoder=item_encoder,
            losses=tuple(losses),
            parameters={name: variable.numpy() for name, variable in self._parameters().items()},
        )

    def begin_with_spectrum(self, spectrum: Floats) -> None:
        """Begin where a user is the sum of the directions in `spectrum`, and all else is still.

        `spectrum` is float32 [items, dim - 1], rows at most 1 long. What a row lacks of length 1
        is its last number, which all items share and no user has: so unit vectors score as the
        shorter ones would (Bachrach et al., RecSys 2014).
        """
        shared = np.zeros((1, self._config.dim), np.float32)
        shared[0, -1] = 1
        lacking = np.sqrt(np.maximum(1 - np.square(spectrum).sum(axis=1, keepdims=True), 0))
        self._ids.assign(np.hstack([spectrum, lacking]) - shared)
        self._any_item.assign(shared)
        w = self._user_weights
        w["history_map"].assign(np.diag(1 - shared[0]))
        # Of whom nothing is known is a little like everybody.
        clicks = self._examples.clicks
        everybody = clicks @ spectrum / max(clicks.sum(), 1)
        w["bias"].assign(_LIKE_EVERYBODY * np.append(everybody, 0).astype(np.float32))
        for still in (self._item_tokens, w["feature_map"], w["output_map"]):
            still.assign(tf.zeros_like(still))

    def begin_with(self, parameters: Mapping[str, npt.NDArray[np.generic]]) -> None:
        for name, variable in self._parameters().items():
            if name in parameters and parameters[name].shape == tuple(variable.shape):
                variable.assign(parameters[name])

    def _parameters(self) -> dict[str, tf.Variable]:
        item = {
            "ids": self._ids,
            "item_tokens": self._item_tokens,
            "item_numeric": self._item_numeric,
            "any_item": self._any_item,
        }
        return item | self._user_weights


def _embed(table: tf.Tensor, tokens: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.gather(table, tokens) * weights[..., None], axis=1)


def _constants(arrays: Arrays) -> Tensors:
    return {name: tf.constant(array) for name, array in arrays.items()}


def _of_rows(gradient: tf.IndexedSlices, rows: tf.Tensor) -> tf.Tensor:
    """Those rows of a table's gradient; `rows` ascend, and are all that it has."""
    indices = tf.cast(gradient.indices, rows.dtype)
    # `tf.searchsorted` itself does not look among no rows.
    place = tf.raw_ops.LowerBound(sorted_inputs=rows[None], values=indices[None])[0]
    return tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
