from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ranking_svc.features import FeatureBuilder, FeatureSpec
from shortlist.artifacts import ArtifactStore
from shortlist.config import Config, RankingConfig, RetrievalConfig, ServingConfig
from shortlist.staleness import believed_ms
from shortlist.tiers import Candidates
from tests.retrieval_svc.factory import Catalogue, publish
from tests.training.tiny import DAY_MS, random_dataset, tiny_dataset
from training.dataset import Dataset
from training.encoding import fit_encoders
from training.groups import Groups
from training.histories import user_attributes
from training.item_statistics import HalfLives, build_item_table
from training.lessons import (
    Moment,
    Proposer,
    lessons,
    moments,
    relevant_rows,
    user_at,
    with_strangers,
)
from training.rewards import Rewards
from training.windows import Window, backtest_window

ITEMS, SIZE = 60, 12


def config_with(*, candidates: int = 40, size: int = SIZE, history: int = 200) -> Config:
    return Config(
        retrieval=RetrievalConfig(
            candidates=candidates, quotas={"two_tower": candidates, "popular": candidates}
        ),
        ranking=RankingConfig(group_size=size),
        serving=ServingConfig(history_length=history),
    )


def all_moments(dataset: Dataset, window: Window, **options: object) -> list[Moment]:
    return moments(
        dataset, window, **{"limit": 10**6, "max_staleness_days": 7.0, "seed": 0} | options
    )


class Classroom:
    """Everything that lessons are made of, over a random retrieval artifact."""

    def __init__(self, folder: Path) -> None:
        self.dataset = random_dataset(rows=900, users=30, items=ITEMS)
        publish(ArtifactStore(folder), Catalogue.random(ITEMS), shards=2)
        self.window = backtest_window(self.dataset)
        encoders = fit_encoders(self.dataset, self.window.known)
        lives = HalfLives.of(self.dataset, self.window.known)
        self.table = build_item_table(
            self.dataset,
            self.window.known,
            self.window.as_of_ms,
            vectors=Catalogue.random(ITEMS).vectors,
            encoder=encoders.item,
            half_lives=lives,
        )
        self.builder = FeatureBuilder(
            FeatureSpec(
                sources=("two_tower", "popular"), statistics=lives.statistics, has_time=True
            ),
            self.table,
            encoders.item,
            encoders.user,
            encoders.context,
        )
        self.rewards = Rewards.of(self.dataset, self.window.known, RankingConfig())
        self.store = ArtifactStore(folder)
        self.todo = all_moments(self.dataset, self.window)

    def proposer(self, config: Config) -> Proposer:
        return Proposer.open(self.store, "retrieval", None, config)

    def lessons(self, config: Config, seed: int = 0) -> Groups:
        groups = lessons(
            self.dataset,
            self.todo,
            self.proposer(config),
            self.builder,
            config,
            self.rewards,
            seed=seed,
        )
        assert groups is not None
        return groups

    def answers(self, config: Config) -> list[tuple[Moment, Candidates, np.ndarray]]:
        """Moments with what is proposed for them and its labels, where something was liked."""
        proposer = self.proposer(config)
        attributes = user_attributes(self.dataset, [moment.user for moment in self.todo])
        found = []
        for moment, about in zip(self.todo, attributes, strict=True):
            candidates = proposer.propose(user_at(self.dataset, moment, about))
            labels, _ = self.rewards.labels(self.dataset, moment.next, candidates.keys)
            if labels.any():
                found.append((moment, candidates, labels @ self.rewards.weights))
        return found


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Classroom:
    return Classroom(tmp_path_factory.mktemp("classroom"))


# --- moments ---


def test_a_moment_splits_a_users_rows_into_what_is_known_and_what_comes() -> None:
    dataset = random_dataset(rows=900)
    window = backtest_window(dataset)
    for moment in all_moments(dataset, window):
        mine = np.flatnonzero(dataset.events.user == moment.user)
        known = np.intersect1d(mine, window.known)
        upcoming = np.intersect1d(mine, window.next)
        assert len(moment.next)
        cut = len(upcoming) - len(moment.next)
        np.testing.assert_array_equal(moment.known, np.concatenate([known, upcoming[:cut]]))
        np.testing.assert_array_equal(moment.next, upcoming[cut:])


def test_no_moment_looks_into_the_test_part() -> None:
    dataset = random_dataset(rows=900)
    held_out = dataset.rows_of_split("test")
    for moment in all_moments(dataset, backtest_window(dataset)):
        assert not np.isin(moment.known, held_out).any()
        assert not np.isin(moment.next, held_out).any()


def test_every_user_with_something_to_come_has_a_first_moment() -> None:
    dataset = random_dataset()
    window = backtest_window(dataset)
    todo = all_moments(dataset, window, first_only=True)
    assert [m.user for m in todo] == np.unique(dataset.events.user[window.next]).tolist()
    for moment in todo:
        assert not np.isin(moment.known, window.next).any()


def test_a_moment_is_when_the_next_thing_happens_but_no_later_than_serving_would_look() -> None:
    days = np.arange(20) * DAY_MS
    dataset = tiny_dataset([0] * 20, range(20), time_ms=days, split=["train"] + ["validation"] * 19)
    window = backtest_window(dataset)
    for first_only in (False, True):
        todo = all_moments(dataset, window, max_staleness_days=5.0, first_only=first_only)
        happens = [int(days[m.next[0]]) for m in todo]
        assert [m.time_ms for m in todo] == [believed_ms(one, 0, 5.0) for one in happens]
        assert max(m.time_ms for m in todo) <= 5 * DAY_MS < max(happens) or first_only


def test_users_with_much_to_come_have_later_moments_that_know_more() -> None:
    dataset = tiny_dataset(
        [0] * 20, range(20), time_ms=range(20), split=["train"] + ["validation"] * 19
    )
    known = [len(m.known) for m in all_moments(dataset, backtest_window(dataset))]
    assert len(known) > 1
    assert known[0] == 1
    assert known == sorted(set(known))


def test_users_with_little_to_come_and_data_without_times_have_one_moment() -> None:
    few = tiny_dataset([0] * 6, range(6), time_ms=range(6), split=["train"] + ["validation"] * 5)
    timeless = tiny_dataset([0] * 20, range(20), split=["train"] + ["validation"] * 19)
    for dataset in (few, timeless):
        assert len(all_moments(dataset, backtest_window(dataset))) == 1


def test_moments_are_limited_by_a_seeded_draw() -> None:
    dataset = random_dataset(rows=900)
    window = backtest_window(dataset)
    users = [
        [m.user for m in all_moments(dataset, window, limit=5, seed=seed)] for seed in (1, 1, 2)
    ]
    assert len(users[0]) == 5
    assert users[0] == users[1] != users[2]


def test_the_context_is_that_of_what_comes_next() -> None:
    dataset = tiny_dataset(
        [0, 0, 0],
        [0, 1, 2],
        time_ms=[0, 1, 2],
        split=["train", "validation", "validation"],
        context={"device": ["desk", "phone", None]},
    )
    (moment,) = all_moments(dataset, backtest_window(dataset))
    user = user_at(dataset, moment, {"city": "Lyon"})
    assert user.context == {"device": "phone"}
    assert user.attributes == {"city": "Lyon"}
    assert user.history.keys.tolist() == [dataset.item_keys[0]]
    assert user.user_key == dataset.user_keys[0]


# --- labels ---


def test_only_what_is_liked_and_new_to_the_user_is_relevant() -> None:
    dataset = tiny_dataset([0] * 5, [0, 1, 2, 0, 3], items=5, weight=[1.0, 2.0, 0.0, 1.0, 0.5])
    moment = Moment(user=0, known=np.array([0]), next=np.arange(1, 5), time_ms=0)
    assert relevant_rows(dataset, moment) == {1, 3}  # 2 was disliked, 0 was seen


# --- lessons ---


def test_nothing_that_the_user_has_seen_is_proposed(classroom: Classroom) -> None:
    for moment, candidates, _ in classroom.answers(config_with()):
        seen = classroom.dataset.item_keys[classroom.dataset.events.item[moment.known]]
        assert not np.isin(candidates.keys, seen).any()


def test_there_is_a_group_for_every_moment_with_a_liked_candidate(classroom: Classroom) -> None:
    config = config_with()
    answers, groups = classroom.answers(config), classroom.lessons(config)
    assert groups.user.tolist() == [moment.user for moment, _, _ in answers]
    assert 0 < len(groups) <= len(classroom.todo)
    assert (groups.labels.max(axis=1) > 0).all()


def test_groups_keep_every_liked_candidate_up_to_half_of_their_size(classroom: Classroom) -> None:
    config = config_with(size=6)
    groups = classroom.lessons(config)
    for place, (_, _, labels) in enumerate(classroom.answers(config)):
        liked = labels[labels > 0]
        kept = groups.labels[place][groups.labels[place] > 0]
        assert len(kept) == min(len(liked), 3)
        if len(liked) <= 3:
            assert sorted(kept) == sorted(liked)


def test_groups_are_filled_and_padded_to_their_size(classroom: Classroom) -> None:
    many, few = classroom.lessons(config_with()), classroom.lessons(config_with(size=100))
    assert many.labels.shape[1] == SIZE
    assert (many.mass > 0).all()
    padding = few.mass == 0
    assert padding.any()
    for name in ("labels", "head_labels", "numeric", "item_tokens", "item_weights"):
        assert not getattr(few, name)[padding].any()
    assert np.isnan(few.values[padding]).all()


def test_drawn_candidates_stand_for_all_proposed_ones(classroom: Classroom) -> None:
    config = config_with()
    groups = classroom.lessons(config)
    for place, (_, candidates, labels) in enumerate(classroom.answers(config)):
        liked, mass = groups.labels[place] > 0, groups.mass[place]
        assert mass[liked].sum() == pytest.approx((labels > 0).sum())
        assert mass.sum() == pytest.approx(len(candidates))
        assert (mass >= 1).all()


def test_training_builds_the_rows_that_serving_builds(classroom: Classroom) -> None:
    config = config_with(size=100, history=10)  # every candidate is drawn
    groups = classroom.lessons(config)
    for place, (moment, candidates, labels) in enumerate(classroom.answers(config)):
        user = user_at(classroom.dataset, moment, {})
        served = classroom.builder.build(
            type(user)(
                user_key=user.user_key,
                history=user.history.last(10),
                attributes=user.attributes,
                context=user.context,
                time_ms=user.time_ms,
            ),
            candidates,
        )
        n = len(candidates)
        np.testing.assert_allclose(groups.numeric[place, :n], served.numeric, atol=1e-5)
        np.testing.assert_allclose(groups.labels[place, :n], labels)
        np.testing.assert_array_equal(groups.head_labels[place, :n, 0], labels > 0)
        np.testing.assert_array_equal(
            groups.item_tokens[place, :n], classroom.table.tokens[served.items]
        )
        np.testing.assert_array_equal(groups.user_tokens[place], served.user.tokens[0])


def test_candidates_of_which_a_value_will_be_told_are_drawn_with_it(classroom: Classroom) -> None:
    config = config_with()
    groups = classroom.lessons(config)
    for place, (moment, candidates, _) in enumerate(classroom.answers(config)):
        _, values = classroom.rewards.labels(classroom.dataset, moment.next, candidates.keys)
        known = groups.values[place][~np.isnan(groups.values[place])]
        told = values[~np.isnan(values)]
        assert set(known) <= set(told)
        assert len(known) >= min(len(told), SIZE // 4)


def test_held_out_requests_are_those_of_some_users(classroom: Classroom) -> None:
    groups = classroom.lessons(config_with())
    held_out = groups.held_out(0)
    assert 0 < held_out.sum() < len(groups) / 2
    assert not set(groups.user[held_out]) & set(groups.user[~held_out])
    np.testing.assert_array_equal(held_out, groups.held_out(0))


def test_the_seed_decides_what_is_drawn(classroom: Classroom) -> None:
    first, same, other = (classroom.lessons(config_with(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.numeric, same.numeric)
    assert not np.array_equal(first.numeric, other.numeric)


def test_moments_without_a_liked_candidate_teach_nothing(classroom: Classroom) -> None:
    nothing_liked = [
        Moment(user=m.user, known=m.known, next=m.known[:1], time_ms=m.time_ms)
        for m in classroom.todo
        if len(m.known)
    ]
    config = config_with()
    assert (
        lessons(
            classroom.dataset,
            nothing_liked,
            classroom.proposer(config),
            classroom.builder,
            config,
            classroom.rewards,
            seed=0,
        )
        is None
    )


def test_groups_are_concatenated_and_taken_row_by_row(classroom: Classroom) -> None:
    groups = classroom.lessons(config_with())
    halves = [groups.take(np.arange(0, 3)), groups.take(np.arange(3, len(groups)))]
    whole = Groups.concatenate(halves)
    for name in Groups.__slots__:
        np.testing.assert_array_equal(getattr(whole, name), getattr(groups, name))


class TestStrangers:
    """Moments whose history is hidden, so that rankers meet people of whom nothing is known."""

    def test_there_are_as_many_as_wanted(self, tmp_path: Path) -> None:
        todo = [moment for moment in Classroom(tmp_path).todo if len(moment.known) > 5]
        more = with_strangers(todo, 0.25, seed=1)
        assert more[: len(todo)] == todo
        short = [moment for moment in more if len(moment.known) <= 5]
        assert len(short) == pytest.approx(0.25 * len(more), abs=1)
        kept = [len(moment.known) for moment in short]
        assert kept.count(0) > len(kept) / 4
        assert max(kept) > 0

    def test_what_they_know_and_what_is_hidden_is_the_history(self, tmp_path: Path) -> None:
        todo = Classroom(tmp_path).todo
        by_user = {(one.user, len(one.next)): one for one in todo}
        for moment in with_strangers(todo, 0.5, seed=1)[len(todo) :]:
            whole = by_user[moment.user, len(moment.next)]
            again = np.concatenate([moment.hidden, moment.known])
            assert again.tolist() == whole.known.tolist()
            assert moment.next is whole.next

    def test_data_that_has_them_needs_no_more(self, tmp_path: Path) -> None:
        todo = [replace(one, known=one.known[:3]) for one in Classroom(tmp_path).todo]
        assert with_strangers(todo, 0.9, seed=1) == todo
        assert with_strangers(todo, 0.0, seed=1) == todo

    def test_the_seed_decides_who(self, tmp_path: Path) -> None:
        todo = Classroom(tmp_path).todo
        one, same, other = (
            [(moment.user, len(moment.known)) for moment in with_strangers(todo, 0.5, seed=seed)]
            for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_hidden_items_are_not_proposed(self, tmp_path: Path) -> None:
        room = Classroom(tmp_path)
        proposer = room.proposer(config_with(candidates=ITEMS))
        strangers = with_strangers(room.todo, 0.5, seed=1)[len(room.todo) :]
        for moment in strangers:
            keys = room.dataset.item_keys[room.dataset.events.item[moment.hidden]]
            proposed = proposer.propose(user_at(room.dataset, moment, {}), keys)
            assert len(proposed) > 0
            assert not np.isin(proposed.keys, keys).any()

    def test_their_lessons_have_no_history(self, tmp_path: Path) -> None:
        room = Classroom(tmp_path)
        known = [moment for moment in room.todo if len(moment.known) > 5]
        place = room.builder.names.index("history:similarity_max")
        room.todo = known
        assert (room.lessons(config_with()).numeric[:, :, place] != 0).any(axis=1).all()
        strangers = with_strangers(known, 0.5, seed=1)[len(known) :]
        room.todo = [moment for moment in strangers if not len(moment.known)]
        assert (room.lessons(config_with()).numeric[:, :, place] == 0).all()
