"""The two-tower model in TensorFlow against its export in numpy, on data of a few hundred rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_svc.item_encoder import ItemEncoder
from shortlist.config import TwoTowerConfig
from shortlist.errors import ArtifactRefused
from shortlist.ids import keys_of
from shortlist.tiers import UserContext
from tests.training.tiny import DAY_MS, random_dataset, tiny_dataset, with_events
from training.dataset import Dataset
from training.encoding import entity_columns
from training.histories import history_of, user_histories
from training.metrics import recall

pytestmark = pytest.mark.slow  # TensorFlow takes seconds to import

SMALL = TwoTowerConfig(dim=16, history_length=6, epochs=3, batch_size=128)


@pytest.fixture(scope="module")
def train() -> Callable[..., Any]:
    from training.two_tower import train_two_tower

    def run(dataset: Dataset, config: TwoTowerConfig = SMALL, **options: Any) -> Any:
        rows = options.pop("rows", dataset.rows_of_split("train", "validation"))
        return train_two_tower(dataset, rows, config, **{"recency_half_life_ms": None} | options)

    return run


def rich_dataset(*, timed: bool = True) -> Dataset:
    """Random interactions with features on every side."""
    rng = np.random.default_rng(0)
    plain = random_dataset(rows=500, users=30, items=50, timed=timed)
    events = plain.events
    cities, devices = ["Lyon", "Linz", None], ["phone", "desk", None]
    return tiny_dataset(
        events.user,
        events.item,
        users=30,
        items=50,
        time_ms=events.time_ms if timed else None,
        weight=events.weight,
        item_features={
            "genre": ("multi_categorical", [["a", "b"][: 1 + n % 2] for n in range(50)]),
            "price": ("numeric", [None if n % 7 == 0 else float(n) for n in range(50)]),
        },
        user_features={
            "city": ("categorical", [cities[n % 3] for n in range(30)]),
            "age": ("numeric", [None if n % 5 == 0 else 20.0 + n for n in range(30)]),
        },
        context={"device": [devices[n] for n in rng.integers(3, size=500)]},
    )


def two_tastes(*, seed: int = 0) -> Dataset:
    """Users of even number like items of even number, the others the odd ones."""
    rng = np.random.default_rng(seed)
    user = rng.integers(60, size=2400)
    item = 2 * rng.integers(40, size=2400) + user % 2
    return tiny_dataset(
        user,
        item,
        users=60,
        items=82,  # the last two are never clicked
        time_ms=np.sort(rng.integers(0, 30 * DAY_MS, 2400)),
        item_features={"kind": ("categorical", [["even", "odd"][n % 2] for n in range(82)])},
        split=["train"] * 2000 + ["test"] * 400,
    )


# --- numpy equals TensorFlow ---


@pytest.fixture(params=[True, False], ids=["sequences", "sets"])
def trained(request: Any) -> tuple[Any, Any]:
    """Examples, and a model after one epoch of them."""
    import tensorflow as tf

    from training import two_tower

    dataset = rich_dataset(timed=request.param)
    rows = np.flatnonzero(dataset.events.weight > 0)
    tf.keras.utils.set_random_seed(3)
    examples = two_tower._Examples(dataset, rows, SMALL, None, 3)
    model = two_tower._TwoTowerModel(examples, SMALL, 3)
    model.compile(optimizer=tf.keras.optimizers.legacy.Adagrad(0.2))
    for batch in examples.batches(0):
        model.train_step(batch)
    return examples, model


def test_the_exported_tower_computes_what_the_trained_one_does(trained: tuple[Any, Any]) -> None:
    import tensorflow as tf

    examples, model = trained
    dataset = examples.dataset
    rows = np.flatnonzero(dataset.events.weight > 0)
    if dataset.has_time:
        batch = examples.sequences(np.arange(len(rows)), np.random.default_rng(0))
        vectors = model.items(tf.reshape(batch["history"], [-1]))
        vectors = tf.reshape(vectors, (len(rows), SMALL.history_length, SMALL.dim))
        pooled = model.pool_sequences(batch, vectors)
        asked = [(row, *_sequence(batch, place)) for place, row in enumerate(rows)]
    else:
        (batch,) = itertools.islice(examples._set_batches(np.random.default_rng(0)), 1)
        pooled = model.pool_sets(batch, model.items(batch["history"]))
        asked = [(rows[at], *_set(batch, place)) for place, at in enumerate(batch["example"])]
    constants = {name: tf.constant(array) for name, array in batch.items()}
    expected = model.users(constants, *pooled).numpy()
    encoder = model.export([]).encoder
    served = np.stack([encoder.encode(_user_of(dataset, *one)) for one in asked])
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert max(len(items) for _, items, _ in asked) >= SMALL.history_length
    if dataset.has_time:
        assert min(len(items) for _, items, _ in asked) == 0  # new users are among them


def test_the_exported_item_tower_computes_what_the_trained_one_does(
    trained: tuple[Any, Any], tmp_path: Path
) -> None:
    examples, model = trained
    dataset = examples.dataset
    expected = model.items(np.arange(dataset.n_items)).numpy()
    model.export([]).item_encoder.save(tmp_path)
    np.save(tmp_path / "keys.npy", dataset.item_keys)
    encoder = ItemEncoder.open(tmp_path, SMALL.dim)
    assert encoder is not None
    columns = entity_columns(dataset.items, dataset.schema.item_features)
    np.testing.assert_allclose(encoder.encode(dataset.item_keys, columns), expected, atol=1e-5)
    # A stranger with the same content has all but what clicks have taught.
    strangers = keys_of(f"stranger-{row}" for row in range(dataset.n_items))
    bare = encoder.encode(strangers, columns)
    never_clicked = examples.clicks == 0
    np.testing.assert_allclose(bare[never_clicked], expected[never_clicked], atol=1e-5)
    assert (np.abs(bare - expected).max(axis=1) > 1e-3)[~never_clicked].all()


def _sequence(batch: dict[str, np.ndarray], place: int) -> tuple[np.ndarray, np.ndarray]:
    present = batch["history_weight"][place] > 0
    return batch["history"][place][present], batch["history_weight"][place][present]


def _set(batch: dict[str, np.ndarray], place: int) -> tuple[np.ndarray, np.ndarray]:
    mine = batch["known"][:, 0] == place
    return batch["history"][batch["known"][mine, 1]], batch["strength"][mine]


def _user_of(dataset: Dataset, row: int, items: np.ndarray, weights: np.ndarray) -> UserContext:
    """The user of an interaction, as a request would describe them."""
    user = int(dataset.events.user[row])
    history = replace(
        history_of(dataset, np.arange(0)),
        keys=dataset.item_keys[items],
        times_ms=np.zeros(len(items), np.int64),
        weights=weights,
    )
    about = {name: dataset.users[f"f_{name}"][user].as_py() for name in ("city", "age")}
    device = dataset.events.context["device"][int(row)].as_py()
    return UserContext(
        user_key=int(dataset.user_keys[user]),
        history=history,
        attributes={name: value for name, value in about.items() if value is not None},
        context={} if device is None else {"device": device},
        time_ms=int(dataset.events.time_ms[row]),
    )


# --- training ---


def test_vectors_are_of_unit_length_aligned_with_items_and_the_loss_falls(train: Any) -> None:
    dataset = rich_dataset()
    model = train(dataset)
    assert model.item_vectors.shape == (dataset.n_items, SMALL.dim)
    assert model.item_vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(model.item_vectors, axis=1), 1, atol=1e-5)
    assert len(model.losses) == SMALL.epochs
    assert model.losses[-1] < model.losses[0]


def test_the_seed_decides_the_model(train: Any) -> None:
    dataset = rich_dataset()
    first, same, other = (train(dataset, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.item_vectors, same.item_vectors)
    user = UserContext(user_key=0, history=history_of(dataset, np.arange(3)), time_ms=DAY_MS)
    np.testing.assert_array_equal(first.encoder.encode(user), same.encoder.encode(user))
    assert not np.allclose(first.item_vectors, other.item_vectors)


def test_it_tells_two_tastes_apart_where_popularity_cannot(train: Any) -> None:
    dataset = two_tastes()
    model = train(dataset, replace_epochs(SMALL, 6))
    known, test = dataset.rows_of_split("train"), dataset.rows_of_split("test")
    popular = np.argsort(-np.bincount(dataset.events.item[known], minlength=82), kind="stable")
    ours, theirs = [], []
    for user, history in enumerate(user_histories(dataset, known, range(60))):
        relevant = set(dataset.events.item[test[dataset.events.user[test] == user]].tolist())
        if relevant:
            context = UserContext(user_key=0, history=history, time_ms=30 * DAY_MS)
            best = np.argsort(-(model.item_vectors @ model.encoder.encode(context)))
            ours.append(recall(best.tolist(), relevant, 40))
            theirs.append(recall(popular.tolist(), relevant, 40))
    assert np.mean(ours) > 0.9
    assert np.mean(ours) > np.mean(theirs) + 0.2


def test_items_that_nobody_clicked_lie_with_their_kind(train: Any) -> None:
    vectors = train(two_tastes(), replace_epochs(SMALL, 6)).item_vectors
    for item in (80, 81):
        own = vectors[item % 2 : 80 : 2] @ vectors[item]
        others = vectors[1 - item % 2 : 80 : 2] @ vectors[item]
        assert own.mean() > others.mean() + 0.3


def test_id_dropout_leaves_the_content_of_items_only() -> None:
    from training import two_tower

    dataset = two_tastes()
    rows = np.arange(len(dataset.events))
    config = SMALL.model_copy(update={"id_dropout": 0.7})
    examples = two_tower._Examples(dataset, rows, config, None, 0)
    model = two_tower._TwoTowerModel(examples, config, 0)
    items = np.arange(80)
    whole = model.items(items).numpy()
    content = model.items(np.array([80, 81])).numpy()[items % 2]
    seen = model.items(items, kept=model._draw_kept(len(items))).numpy()
    dropped = np.isclose(seen, content, atol=1e-5).all(axis=1)
    assert dropped.mean() == pytest.approx(0.7, abs=0.2)
    np.testing.assert_allclose(seen[~dropped], whole[~dropped], atol=1e-5)
    assert not np.isclose(whole, content, atol=1e-5).all(axis=1).any()


@pytest.mark.parametrize("timed", [True, False], ids=["sequences", "sets"])
def test_what_nobody_clicked_is_a_negative_as_often_as_content_counts_of_others(
    timed: bool,
) -> None:
    published = [0] * 20 + [0] * 400 + [5 * DAY_MS] * 400 + [11 * DAY_MS] * 400 + [None] * 400
    dataset = tiny_dataset(
        np.arange(1000) % 50,
        np.arange(1000) % 20,
        items=len(published),
        time_ms=np.linspace(0, 10 * DAY_MS, 1000).astype(int) if timed else None,
        published_ms=published,
    )
    drawn = begun(dataset)[0].drawn_from  # with an id dropout of 0.3
    clicked, *others = (
        np.isin(rows, drawn).mean()
        for rows in np.split(np.arange(len(published)), [20, 420, 820, 1220])
    )
    assert clicked == 1
    # There from the first day, half of the time, never, and nobody knows since when.
    share = [0.3, 0.15, 0, 0.3] if timed else [0.3] * 4
    assert others == pytest.approx(share, abs=0.08)
    assert others[2] == 0 or not timed


def test_a_word_that_only_new_items_have_says_nothing(train: Any) -> None:
    words = ["old"] * 80 + ["old", "old", "unheard", "unheard"]
    kinds = [["even", "odd"][n % 2] for n in range(84)]
    plain, spoken = (
        tiny_dataset(
            two_tastes().events.user,
            two_tastes().events.item,
            users=60,
            items=84,
            time_ms=two_tastes().events.time_ms,
            item_features={"kind": ("categorical", kinds), "word": ("categorical", column)},
        )
        for column in (["old"] * 80 + ["old", "old", None, None], words)
    )
    for dataset in (plain, spoken):
        model = train(dataset)
        columns = entity_columns(dataset.items, dataset.schema.item_features)
        keys = dataset.item_keys[82:]
        nothing = {name: values[82:] for name, values in columns.items()} | {"word": [None, None]}
        np.testing.assert_allclose(
            model.item_vectors[82:], model.item_encoder.encode(keys, nothing), atol=1e-6
        )


def test_progress_goes_from_nothing_to_all(train: Any) -> None:
    reports: list[tuple[int, int]] = []
    train(rich_dataset(), progress=lambda _, done, total: reports.append((done, total)))
    assert reports == sorted(reports)
    assert reports[0][0] == 0
    assert reports[-1][0] == reports[-1][1] > 0


def test_data_of_one_interaction_can_be_learned_from(train: Any) -> None:
    model = train(tiny_dataset([0], [1], items=3, time_ms=[5]))
    assert np.isfinite(model.item_vectors).all()


def test_data_without_features_and_times_can_be_learned_from(train: Any) -> None:
    model = train(random_dataset(timed=False))
    assert np.isfinite(model.item_vectors).all()


def test_old_interactions_weigh_less(train: Any) -> None:
    """Each user changed from one item to another; only what is new should draw them."""
    n = 64
    dataset = tiny_dataset(
        np.tile(np.arange(n), 2),
        np.repeat([0, 1], n),
        items=40,
        time_ms=np.repeat([0, 300 * DAY_MS], n),
    )
    margins = []
    for half_life in (None, DAY_MS):
        model = train(dataset, recency_half_life_ms=half_life)
        nobody = UserContext(
            user_key=0, history=history_of(dataset, np.arange(0)), time_ms=300 * DAY_MS
        )
        scores = model.item_vectors @ model.encoder.encode(nobody)
        margins.append(float(scores[1] - scores[0]))
    assert margins[1] > margins[0]


# --- what cannot be learned from ---


def test_no_positive_interaction_is_refused(train: Any) -> None:
    dataset = tiny_dataset([0, 1], [0, 1], weight=[0.0, 0.0])
    with pytest.raises(ArtifactRefused, match="no positive interaction"):
        train(dataset)


@pytest.mark.parametrize(
    ("column", "number"), [("weight", np.inf), ("weight", np.nan), ("value", -np.inf)]
)
def test_an_interaction_whose_numbers_are_not_finite_is_refused(
    train: Any, column: str, number: float
) -> None:
    dataset = random_dataset()
    numbers = getattr(dataset.events, column).copy()
    numbers[7] = number
    with pytest.raises(ArtifactRefused, match=rf"interactions\.{column}: 1 of 400 "):
        train(with_events(dataset, **{column: numbers}), rows=np.arange(len(numbers)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_numbers_of_items_and_users_that_are_not_finite_do_not_reach_the_vectors(
    train: Any, value: float
) -> None:
    numbers = [float(n) for n in range(20)]
    numbers[3] = value
    dataset = tiny_dataset(
        np.arange(200) % 20,
        np.arange(200) % 20,
        time_ms=range(200),
        item_features={"price": ("numeric", numbers)},
        user_features={"age": ("numeric", numbers)},
    )
    assert np.isfinite(train(dataset).item_vectors).all()


def test_training_that_diverges_is_refused(train: Any) -> None:
    config = SMALL.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(ArtifactRefused, match=r"diverged|NaN or Inf"):
        train(rich_dataset(), config)


def replace_epochs(config: TwoTowerConfig, epochs: int) -> TwoTowerConfig:
    return config.model_copy(update={"epochs": epochs})


def test_training_goes_on_from_the_parameters_of_another(train: Callable[..., Any]) -> None:
    dataset = rich_dataset(timed=False)
    first = train(dataset)
    second = train(dataset, begin_with=first.parameters)
    assert second.losses[0] < first.losses[-1] < first.losses[0]


def test_parameters_of_another_shape_are_begun_anew(train: Callable[..., Any]) -> None:
    dataset = rich_dataset(timed=False)
    wide = train(dataset, SMALL.model_copy(update={"dim": 32}))
    np.testing.assert_array_equal(
        train(dataset, begin_with={"ids": wide.parameters["ids"]}).item_vectors,
        train(dataset).item_vectors,
    )


# --- several workers ---


@dataclass
class Recorded:
    """Another worker's place in the sums: what it would add is written down, nothing is added."""

    rank: int
    workers: int
    parts: list[np.ndarray] = field(default_factory=list)

    def sum(self, part: np.ndarray) -> np.ndarray:
        self.parts.append(part)
        return part


@pytest.mark.parametrize("timed", [True, False], ids=["sequences", "sets"])
@pytest.mark.parametrize("workers", [2, 3])
def test_the_parts_of_a_step_add_up_to_the_gradients_and_the_loss_of_the_whole(
    timed: bool, workers: int
) -> None:
    def sent(rank: int, workers: int) -> np.ndarray:
        examples, model = begun(rich_dataset(timed=timed))
        share = Recorded(rank, workers)
        model.train_step_together(share, next(examples.batches(0)))
        (part,) = share.parts
        return part

    whole = sent(0, 1)
    parts = [sent(rank, workers) for rank in range(workers)]
    np.testing.assert_allclose(np.sum(parts, axis=0), whole, atol=1e-5)
    assert np.abs(whole).max() > 0.01
    assert all(np.abs(part - whole).max() > 0.01 for part in parts)


@pytest.mark.parametrize("timed", [True, False], ids=["sequences", "sets"])
def test_a_step_with_the_sum_of_all_parts_is_the_step_of_one_worker(timed: bool) -> None:
    (examples, one), (_, other) = (begun(rich_dataset(timed=timed)) for _ in range(2))
    for batch in itertools.islice(examples.batches(0), 3):
        loss = float(one.train_step(batch)["loss"])
        assert other.train_step_together(Recorded(0, 1), batch)["loss"] == pytest.approx(loss)
    theirs = other._parameters()
    for name, variable in one._parameters().items():
        np.testing.assert_allclose(theirs[name].numpy(), variable.numpy(), atol=1e-5, err_msg=name)


def test_of_a_table_only_the_rows_that_a_step_touches_are_sent() -> None:
    """A catalogue may be large, and a step of it small."""
    dataset = tiny_dataset(
        np.arange(40) % 7,
        np.arange(40) % 9,
        items=50_000,
        time_ms=range(40),
        item_features={"kind": ("categorical", [f"kind-{n}" for n in range(50_000)])},
    )
    examples, model = begun(dataset)
    share = Recorded(0, 2)
    model.train_step_together(share, next(examples.batches(0)))
    most = (9 + 2048) * 2 * SMALL.dim  # ids and tokens of clicked and of drawn items
    assert 0 < share.parts[0].size < most + 20_000
    assert model._ids.shape.num_elements() == 50_000 * SMALL.dim


def begun(dataset: Dataset) -> tuple[Any, Any]:
    """Examples, and a model before its first step."""
    import tensorflow as tf

    from training import two_tower

    rows = np.flatnonzero(dataset.events.weight > 0)
    tf.keras.utils.set_random_seed(0)
    config = SMALL.model_copy(update={"id_dropout": 0.3, "batch_size": 100})
    examples = two_tower._Examples(dataset, rows, config, None, 0)
    model = two_tower._TwoTowerModel(examples, config, 0)
    model.compile(optimizer=two_tower._optimizer(config, 10, ordered=dataset.has_time))
    return examples, model


# --- beginning with the spectrum ---


def spectral_start(dataset: Dataset) -> tuple[Any, np.ndarray]:
    """A model before any training, and the spectrum that it begins with."""
    from training import two_tower

    rows = np.flatnonzero(dataset.events.weight > 0)
    examples = two_tower._Examples(dataset, rows, SMALL, None, 0)
    model = two_tower._TwoTowerModel(examples, SMALL, 0)
    spectrum = examples.spectrum(SMALL.dim - 1)
    model.begin_with_spectrum(spectrum)
    return model.export([]), spectrum


def test_the_beginning_scores_as_the_spectrum_does_with_unit_vectors() -> None:
    dataset = random_dataset(timed=False, rows=400, users=30, items=40)
    model, spectrum = spectral_start(dataset)
    np.testing.assert_allclose(np.linalg.norm(model.item_vectors, axis=1), 1, atol=1e-5)
    history = user_histories(dataset, np.flatnonzero(dataset.events.weight > 0), [3])[0]
    vector = model.encoder.encode(UserContext(user_key=0, history=history, time_ms=0))
    rows = np.searchsorted(dataset.item_keys, history.keys)
    directions = spectrum[rows] / np.linalg.norm(spectrum[rows], axis=1, keepdims=True)
    taste = history.weights @ directions
    assert np.corrcoef(model.item_vectors @ vector, spectrum @ taste)[0, 1] > 0.99


def test_an_item_that_nobody_liked_scores_nothing_at_the_beginning() -> None:
    user, item = np.divmod(np.arange(40), 5)
    dataset = tiny_dataset(user, item, items=8)
    model, _ = spectral_start(dataset)
    history = user_histories(dataset, np.arange(40), [0])[0]
    scores = model.item_vectors @ model.encoder.encode(
        UserContext(user_key=0, history=history, time_ms=0)
    )
    assert scores[:5].min() > 0.1
    np.testing.assert_allclose(scores[5:], 0, atol=1e-5)


def test_a_beginning_that_no_epoch_makes_better_is_the_model(train: Any) -> None:
    dataset = random_dataset(timed=False)
    every = np.arange(len(dataset.events))
    scores = iter([2.0, 1.0])
    model = train(dataset, rows=every, judge=lambda _: next(scores))
    begun, _ = spectral_start(dataset)
    untrained = train(dataset, replace_epochs(SMALL, 0), rows=every)
    for one in (model, untrained):
        assert one.losses == ()
        np.testing.assert_allclose(one.item_vectors, begun.item_vectors, atol=1e-5)


def test_where_items_have_content_it_is_always_learned(train: Any) -> None:
    scores = iter([2.0, 1.0])
    model = train(rich_dataset(timed=False), judge=lambda _: next(scores))
    assert len(model.losses) == 1
