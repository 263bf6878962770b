"""Whether tastes point away from the catalogue's mean is the data's to say."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_svc.sources.content import ContentTaste
from shortlist.config import RetrievalConfig
from shortlist.tiers import History
from tests.training.tiny import DAY_MS, tiny_dataset
from training.dataset import Dataset
from training.sources.base import SourceLesson
from training.sources.contrast import choose_contrast, taste_with

USERS, OLD, NEW = 60, 200, 40


def world(*, rare_is_liked: bool, timed: bool = True, users: int = USERS) -> Dataset:
    """One item in ten is rare, the others are common; of old items everybody likes a few of both.

    Later everybody likes new items: the rare ones, or the common ones.
    """
    rng = np.random.default_rng(0)
    kinds = np.where(np.arange(OLD + NEW) % 10 == 0, "rare", "common")
    rare, common = (np.flatnonzero(kinds == kind) for kind in ("rare", "common"))
    user, item, time_ms = [], [], []
    for one in range(users):
        old = [*rng.choice(rare[rare < OLD], 4), *rng.choice(common[common < OLD], 12)]
        new = rng.choice((rare if rare_is_liked else common)[-4:], 1, replace=False)
        user += [one] * 17
        item += [*old, *new]
        time_ms += [*rng.integers(1, 80 * DAY_MS, 16), *rng.integers(90, 100, 1) * DAY_MS]
    order = np.argsort(time_ms, kind="stable")
    return tiny_dataset(
        np.array(user)[order],
        np.array(item)[order],
        items=OLD + NEW,
        time_ms=np.array(time_ms)[order] if timed else None,
        item_features={"kind": ("categorical", kinds.tolist())},
    )


def lesson_on(dataset: Dataset) -> SourceLesson:
    return SourceLesson(
        dataset=dataset,
        rows=np.arange(len(dataset.events)),
        as_of_ms=int(dataset.events.time_ms.max()),
        config=RetrievalConfig(),
        half_life_ms=10.0 * DAY_MS if dataset.has_time else None,
    )


def vectors_of(dataset: Dataset) -> np.ndarray:
    kinds = dataset.items["f_kind"].to_pylist()
    return np.array([[1, 0] if kind == "rare" else [0, 1] for kind in kinds], np.float32)


def chosen(dataset: Dataset) -> float:
    return choose_contrast(lesson_on(dataset), vectors_of(dataset))


def test_where_what_is_rare_gets_more_than_its_share_tastes_point_away_from_the_rest() -> None:
    assert chosen(world(rare_is_liked=True)) > 0.5


def test_where_new_items_are_liked_for_being_common_nothing_is_taken_off() -> None:
    assert chosen(world(rare_is_liked=False)) == 0


def test_without_times_items_are_held_out_at_random() -> None:
    assert chosen(world(rare_is_liked=True, timed=False)) > 0


def test_a_few_users_cannot_say() -> None:
    assert chosen(world(rare_is_liked=True, users=10)) == 0


def test_a_taste_is_the_mean_of_what_is_liked_less_a_share_of_the_catalogue() -> None:
    dataset = world(rare_is_liked=True, timed=False)
    vectors = vectors_of(dataset)
    plain, full = (taste_with(share, lesson_on(dataset), vectors) for share in (0.0, 1.0))
    history = history_of(dataset, rare=1, common=1)
    assert plain.of(history) == pytest.approx([np.sqrt(0.5)] * 2, abs=1e-6)
    expected = np.array([0.5 - 0.1, 0.5 - 0.9])
    assert full.of(history) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_of_whom_nothing_is_known_is_taken_to_like_what_gets_more_than_its_share() -> None:
    dataset = world(rare_is_liked=True)
    taste: ContentTaste = taste_with(1.0, lesson_on(dataset), vectors_of(dataset))
    nobody = History(
        keys=np.empty(0, np.uint64), times_ms=np.empty(0, np.int64), weights=np.empty(0, np.float32)
    )
    direction = taste.of(nobody)
    assert direction is not None
    assert direction[0] > 0 > direction[1]


def history_of(dataset: Dataset, *, rare: int, common: int) -> History:
    kinds = np.array(dataset.items["f_kind"].to_pylist())
    rows = [*np.flatnonzero(kinds == "rare")[:rare], *np.flatnonzero(kinds == "common")[:common]]
    return History(
        keys=dataset.item_keys[rows],
        times_ms=np.full(len(rows), DAY_MS),
        weights=np.ones(len(rows), np.float32),
    )
