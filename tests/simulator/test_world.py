from __future__ import annotations

import tracemalloc
from dataclasses import fields, replace

import numpy as np
import pytest

from simulator import UnknownEntity, World, WorldConfig, catalogue
from simulator.config import MS_PER_DAY
from tests.simulator.conftest import SMALL

HUGE = WorldConfig(users=1_000_000, items=10_000_000, events=20_000)


def _assert_same(one, other):
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


def test_an_item_is_the_same_alone_and_in_any_block():
    world = World(HUGE)
    block = world.items(np.arange(5_000_000, 5_000_500))
    _assert_same(block.take(np.array([123])), world.items(np.array([5_000_123])))
    scattered = world.items(np.array([9_999_999, 5_000_123, 0]))
    _assert_same(block.take(np.array([123])), scattered.take(np.array([1])))


def test_kept_and_computed_items_are_the_same(world, monkeypatch):
    index = np.array([2_999, 0, 17, 17, 1_500])
    kept = world.items(index)
    monkeypatch.setattr(catalogue, "RESIDENT_ITEMS", 0)
    _assert_same(kept, World(SMALL).items(index))


def test_a_user_is_the_same_alone_and_in_any_block(world):
    block = world.users(np.arange(800))
    alone = world.users(np.array([42]))
    assert (block.taste[42] == alone.taste[0]).all()
    assert (block.favourite_creators[42] == alone.favourite_creators[0]).all()
    assert block.joined_ms[42] == alone.joined_ms[0]
    assert block.language[42] == alone.language[0]


def test_another_seed_is_another_world(world):
    other = World(replace(SMALL, seed=4))
    index = np.arange(100)
    assert (world.items(index).taste != other.items(index).taste).mean() > 0.99
    assert world.item_texts(index) != other.item_texts(index)


def test_scattered_items_of_ten_million_cost_little_memory():
    tracemalloc.start()
    try:
        world = World(HUGE)
        items = world.items(np.arange(0, HUGE.items, 9_973))
        texts = world.item_texts(np.array([0, 9_999_999]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(items.creator) == 1_003
    assert len({text.title for text in texts}) == 2
    # 10 M x 16 float32 would be 640 MB; only the table of the 50,000 creators is there.
    assert peak < 40_000_000


@pytest.mark.slow
def test_events_of_a_large_world_are_generated_in_bounded_memory():
    config = WorldConfig(users=100_000, items=1_000_000, events=20_000)
    tracemalloc.start()
    try:
        events = sum(len(block.events()) for block in World(config).blocks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 20_000 <= events < 20_100
    assert peak < 100_000_000


def test_items_and_users_are_numbered_in_the_order_of_their_arrival(world):
    published = world.items(np.arange(SMALL.items)).published_ms
    joined = world.users(np.arange(SMALL.users)).joined_ms
    assert (np.diff(published) >= 0).all()
    assert (np.diff(joined) >= 0).all()
    assert 0.3 < (published >= SMALL.start_ms).mean() < 0.4
    assert 0.4 < (joined >= SMALL.start_ms).mean() < 0.5
    assert published.max() < SMALL.end_ms


@pytest.mark.parametrize("day", [-400, -1, 0, 0.5, 30, 60, 90])
def test_published_by_counts_the_items_that_are_out(world, day):
    time_ms = SMALL.start_ms + int(day * MS_PER_DAY)
    published = world.items(np.arange(SMALL.items)).published_ms
    assert abs(world.published_by(time_ms) - (published <= time_ms).sum()) <= 1


def test_a_click_is_less_likely_further_down_by_the_position_bias(world):
    time_ms = SMALL.start_ms + 10 * MS_PER_DAY
    chances = world.click_probability(5, np.full(20, 100), time_ms, np.arange(20))
    np.testing.assert_allclose(chances / chances[0], (1.0 + np.arange(20)) ** -0.6)


def test_simulated_clicks_fall_with_the_position_and_follow_their_probability(world):
    rng = np.random.default_rng(1)
    time_ms = SMALL.end_ms
    page = world.best_items(5, time_ms, 1).repeat(20)
    runs = [world.simulate_clicks(rng, 5, page, time_ms) for _ in range(200)]
    rate = np.mean([run.clicked for run in runs], axis=0)
    expected = world.click_probability(5, page, time_ms, np.arange(20))
    assert rate[0] > 2 * rate[9] > 2 * rate[19]
    np.testing.assert_allclose(rate, expected, atol=0.12)


def test_only_clicked_items_are_liked(world):
    rng = np.random.default_rng(1)
    page = world.best_items(5, SMALL.end_ms, 20)
    runs = [world.simulate_clicks(rng, 5, page, SMALL.end_ms) for _ in range(50)]
    liked = np.concatenate([run.liked for run in runs])
    clicked = np.concatenate([run.clicked for run in runs])
    assert not (liked & ~clicked).any()
    assert 0 < liked.sum() < clicked.sum()


def test_an_empty_page_gets_no_feedback(world):
    nothing = np.empty(0, dtype=np.int64)
    feedback = world.simulate_clicks(np.random.default_rng(1), 5, nothing, SMALL.end_ms)
    assert len(feedback.clicked) == len(feedback.liked) == 0


def test_nothing_is_clicked_before_it_is_published(world):
    published = world.items(np.array([2_500])).published_ms[0]
    around = np.array([published - 1, published])
    before, after = world.click_probability(5, 2_500, around)
    assert before == 0
    assert after > 0


def test_an_item_loses_its_appeal_as_it_gets_older():
    still = World(replace(SMALL, drift_degrees_per_day=0.0, mood_strength=0.0))
    published = still.items(np.array([2_000])).published_ms[0]
    days = published + np.array([0, 3, 10, 30]) * MS_PER_DAY
    chances = still.click_probability(5, 2_000, days)
    assert (np.diff(chances) < 0).all()


def test_tastes_drift_with_time_and_stand_still_without_drift(world):
    still = World(replace(SMALL, drift_degrees_per_day=0.0, mood_strength=0.0))
    moving = World(replace(SMALL, mood_strength=0.0))
    # Both moments after the period, so that no item is new in either.
    early, late = SMALL.end_ms + 100 * MS_PER_DAY, SMALL.end_ms + 160 * MS_PER_DAY

    def kept(any_world, user):
        top = [set(any_world.best_items(user, t, 20).tolist()) for t in (early, late)]
        return len(top[0] & top[1]) / 20

    assert np.mean([kept(still, user) for user in range(0, 100, 10)]) > 0.99
    assert np.mean([kept(moving, user) for user in range(0, 100, 10)]) < 0.9


def test_a_mood_lasts_for_a_session_and_changes_between_them(world):
    morning = SMALL.start_ms + 30 * MS_PER_DAY
    users = np.arange(200)
    item = np.full(200, 100)

    def chances(minutes):
        return world.click_probability(users, item, morning + minutes * 60_000)

    # Drift alone moves the probabilities by less than this within hours.
    assert abs(np.log(chances(10) / chances(0))).max() < 0.01
    assert abs(np.log(chances(7 * 60) / chances(0))).max() > 0.1


def test_the_best_items_are_the_top_of_the_whole_catalogue_whatever_the_block(world, monkeypatch):
    time_ms = SMALL.start_ms + 20 * MS_PER_DAY
    chances = world.click_probability(7, np.arange(SMALL.items), time_ms)
    best = world.best_items(7, time_ms, 50)
    assert len(set(best.tolist())) == 50
    np.testing.assert_allclose(chances[best], np.sort(chances)[::-1][:50])
    monkeypatch.setattr("simulator.world._SCAN_BLOCK", 37)
    assert (world.best_items(7, time_ms, 50) == best).all()


def test_the_oracle_beats_popularity_and_popularity_beats_chance(world, log):
    time_ms = SMALL.end_ms
    popular = np.argsort(-np.bincount(log.events.item, minlength=SMALL.items))[:20]
    rng = np.random.default_rng(1)
    places = np.arange(20)
    clicks = {"oracle": 0.0, "popular": 0.0, "chance": 0.0}
    for user in range(0, SMALL.users, 8):
        pages = {
            "oracle": world.best_items(user, time_ms, 20),
            "popular": popular,
            "chance": rng.integers(SMALL.items, size=20),
        }
        for name, page in pages.items():
            clicks[name] += world.click_probability(user, page, time_ms, places).sum()
    assert clicks["oracle"] > 1.5 * clicks["popular"]
    assert clicks["popular"] > 2 * clicks["chance"]


def test_ids_are_readable_and_lead_back_to_their_index(world):
    index = np.array([0, 123, 799])
    assert world.item_ids(index) == ["item-000000", "item-000123", "item-000799"]
    assert world.user_ids(np.array([42])) == ["user-000042"]
    assert (world.item_indices(world.item_ids(index)) == index).all()
    assert (world.user_indices(world.user_ids(index)) == index).all()
    assert World(HUGE).item_ids(np.array([1])) == ["item-0000001"]


@pytest.mark.parametrize("name", ["item-003000", "user-000001", "item-", "item--1", "7", "item-²"])
def test_an_id_of_no_item_is_refused_with_the_id(world, name):
    with pytest.raises(UnknownEntity, match=name):
        world.item_indices([name])


def test_an_index_out_of_range_is_refused_with_the_index(world):
    with pytest.raises(UnknownEntity, match="3000"):
        world.items(np.array([0, 3_000]))
    with pytest.raises(UnknownEntity, match="-1"):
        world.users(np.array([-1]))
    with pytest.raises(UnknownEntity, match="800"):
        world.click_probability(800, 0, SMALL.end_ms)
    with pytest.raises(UnknownEntity, match="100"):
        world.creator_names(np.array([100]))


def test_texts_resemble_the_category_and_the_creator_of_an_item(world):
    index = np.arange(SMALL.items)
    items, texts = world.items(index), world.item_texts(index)
    names = world.creator_names(items.creator)
    assert all(name in text.description for name, text in zip(names, texts, strict=True))
    moods = {}
    for creator, text in zip(items.creator.tolist(), texts, strict=True):
        moods.setdefault(creator, set()).add(text.title.split()[0])
    assert max(len(words) for words in moods.values()) <= 5
    assert len(set(names)) == SMALL.creator_count
