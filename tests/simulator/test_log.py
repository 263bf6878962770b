from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from simulator import World, WorldConfig
from simulator.config import MS_PER_DAY
from simulator.exposure import ConsumedPairs
from tests.simulator.conftest import SMALL


def _gini(counts):
    ordered = np.sort(counts).astype(float)
    ranks = np.arange(1, len(ordered) + 1)
    return 2 * (ranks * ordered).sum() / (len(ordered) * ordered.sum()) - 1 - 1 / len(ordered)


def _clicks(log):
    clicked = log.events.kind == 0
    return log.events.user[clicked], log.events.item[clicked], log.events.time_ms[clicked]


def test_equal_configurations_give_the_same_log():
    config = replace(SMALL, events=2_000, days=10)
    one, other = World(config), World(config)
    twice = [list(one.blocks()), list(one.blocks()), list(other.blocks())]
    for blocks in zip(*twice, strict=True):
        for field in fields(blocks[0]):
            columns = [getattr(block, field.name).tobytes() for block in blocks]
            assert columns[0] == columns[1] == columns[2]


def test_another_seed_gives_another_log():
    logs = [
        np.concatenate([b.item for b in World(replace(SMALL, events=500, days=2, seed=s)).blocks()])
        for s in (1, 2)
    ]
    assert len(logs[0]) != len(logs[1]) or (logs[0] != logs[1]).any()


def test_the_log_has_the_promised_number_of_events_in_the_order_of_time(log):
    assert SMALL.events <= len(log.events) < SMALL.events + 100
    assert (np.diff(log.events.time_ms) >= 0).all()
    assert log.events.time_ms[0] >= SMALL.start_ms
    assert log.events.time_ms[-1] < SMALL.end_ms


def test_blocks_follow_each_other_in_time_when_a_day_has_several():
    busy = WorldConfig(users=5_000, items=5_000, events=50_000, days=1, seed=1)
    blocks = [block.events().time_ms for block in World(busy).blocks()]
    assert len(blocks) >= 3
    for earlier, later in pairwise(blocks):
        assert earlier[-1] < later[0]


def test_a_session_is_one_user_on_one_device(log, world):
    block = next(world.blocks())
    for column in (block.user, block.device):
        pairs = np.unique(np.stack([block.session, column], axis=1), axis=0)
        assert len(pairs) == len(np.unique(block.session))
    per_session = np.bincount(block.session)
    assert per_session.max() > 1.5 * np.median(per_session[per_session > 0])


def test_a_page_has_no_holes_and_shows_nothing_twice(world):
    block = next(world.blocks())
    assert block.position.max() == SMALL.exposure.page_size - 1
    follows = block.position[1:] > 0
    assert (np.diff(block.position)[follows] == 1).all()
    page = np.cumsum(block.position == 0)
    assert len(np.unique(np.stack([page, block.item], axis=1), axis=0)) == len(block)


def test_nobody_clicks_before_joining_or_before_the_item_is_out(world, log):
    events = log.events
    assert (events.time_ms >= world.items(events.item).published_ms).all()
    # Joining times are known to a step, the time between two new users.
    step = 2 * SMALL.days * MS_PER_DAY / (SMALL.users * SMALL.new_user_fraction)
    assert (events.time_ms >= world.users(events.user).joined_ms - step).all()


def test_nobody_clicks_the_same_item_twice_and_likes_follow_clicks(log):
    users, items, _ = _clicks(log)
    clicked = set(zip(users.tolist(), items.tolist(), strict=True))
    assert len(clicked) == len(users)
    liked = log.events.kind == 1
    likes = list(zip(log.events.user[liked].tolist(), log.events.item[liked].tolist(), strict=True))
    assert set(likes) <= clicked
    assert 0.1 < len(likes) / len(clicked) < 0.6


def test_popularity_and_activity_are_skewed(log):
    per_item = np.bincount(log.events.item, minlength=SMALL.items)
    per_user = np.bincount(log.events.user, minlength=SMALL.users)
    # A small catalogue is used up by its users, which flattens the head: see the default world.
    assert 0.5 < _gini(per_item) < 0.85
    assert per_user.max() > 5 * per_user.mean()


@pytest.mark.slow
def test_the_default_world_is_as_skewed_as_public_data():
    config = WorldConfig()
    events = [block.events() for block in World(config).blocks()]
    per_item = np.bincount(np.concatenate([e.item for e in events]), minlength=config.items)
    per_user = np.bincount(np.concatenate([e.user for e in events]), minlength=config.users)
    assert 0.6 < _gini(per_item) < 0.85
    assert 20 < np.median(per_user[per_user > 0]) < 40


def test_fresh_items_are_over_represented_but_are_not_everything(world, log):
    _, items, times = _clicks(log)
    age = times - world.items(items).published_ms
    fresh_clicks = (age < 7 * MS_PER_DAY).mean()
    catalogue = world.items(np.arange(SMALL.items)).published_ms
    fresh_items = (catalogue > SMALL.end_ms - 7 * MS_PER_DAY).mean()
    assert 3 * fresh_items < fresh_clicks < 0.5


def test_some_users_and_items_of_the_last_tenth_are_new(log):
    users, items, times = _clicks(log)
    cut = np.quantile(times, 0.9)
    before, after = times < cut, times >= cut
    new_users = ~np.isin(np.unique(users[after]), users[before])
    assert 0.02 < new_users.mean() < 0.2
    new_items = ~np.isin(items[after], items[before])
    assert 0.05 < new_items.mean() < 0.4
    assert (np.bincount(items, minlength=SMALL.items) == 0).any()


def test_clicks_fall_with_the_position(log):
    shown = log.impressions
    counts = np.bincount(shown.position)
    rate = np.bincount(shown.position, shown.clicked) / counts
    assert rate[0] > 1.3 * rate[1] > 1.3 * rate[4]
    assert rate[4] > 1.5 * rate[10] > 0


def test_a_personalised_recommender_beats_popularity_on_the_last_tenth(log):
    users, items, times = _clicks(log)
    cut = np.quantile(times, 0.9)
    train, test = times < cut, times >= cut
    seen = np.zeros((SMALL.users, SMALL.items), dtype=np.float32)
    seen[users[train], items[train]] = 1
    wanted = np.zeros_like(seen)
    wanted[users[test], items[test]] = 1
    known = np.flatnonzero((wanted.sum(axis=1) > 0) & (seen.sum(axis=1) > 0))
    popularity = seen.sum(axis=0)
    cosine = (seen.T @ seen) / np.sqrt(np.outer(popularity + 5, popularity + 5))
    np.fill_diagonal(cosine, 0)
    scores = {
        "random": np.random.default_rng(1).random((len(known), SMALL.items)),
        "popular": np.tile(popularity, (len(known), 1)),
        "cosine": seen[known] @ cosine,
    }
    ndcg = {name: _ndcg(s, seen[known], wanted[known]) for name, s in scores.items()}
    assert ndcg["cosine"] > 1.5 * ndcg["popular"]
    assert ndcg["popular"] > 5 * ndcg["random"]


def _ndcg(scores, seen, wanted, k=20):
    top = np.argsort(-np.where(seen > 0, -np.inf, scores), axis=1)[:, :k]
    discount = 1 / np.log2(np.arange(2, k + 2))
    gain = (np.take_along_axis(wanted, top, axis=1) * discount).sum(axis=1)
    ideal = np.cumsum(discount)[np.minimum(wanted.sum(axis=1), k).astype(int) - 1]
    return (gain / ideal).mean()


def test_early_interests_tell_less_about_later_clicks_than_recent_ones(world, log):
    """Drift is in the log: users move away from the categories that they began with."""
    users, items, times = _clicks(log)
    category = world.items(items).category
    day = (times - SMALL.start_ms) // MS_PER_DAY
    first, before_last, last = (
        _profiles(users, category, (day >= start) & (day < start + 10)) for start in (0, 40, 50)
    )
    active = (first.sum(axis=1) > 3) & (before_last.sum(axis=1) > 3) & (last.sum(axis=1) > 3)
    assert active.sum() > 50
    recent = _cosines(before_last, last)[active].mean()
    early = _cosines(first, last)[active].mean()
    assert recent > early + 0.02


def _profiles(users, categories, chosen):
    counts = np.zeros((SMALL.users, SMALL.categories))
    np.add.at(counts, (users[chosen], categories[chosen]), 1)
    return counts


def _cosines(one, other):
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / np.maximum(lengths, 1)


def test_users_who_have_clicked_everything_end_the_log_early():
    tiny = WorldConfig(users=3, items=5, events=10_000, days=3, seed=1)
    events = sum(len(block.events()) for block in World(tiny).blocks())
    assert 0 < events <= 2 * 3 * 5


def test_a_world_without_events_has_empty_blocks():
    blocks = list(World(replace(SMALL, events=0)).blocks())
    assert len(blocks) == SMALL.days
    assert all(len(block) == len(block.events()) == 0 for block in blocks)


def test_consumed_pairs_are_never_forgotten_and_seldom_invented():
    rng = np.random.default_rng(1)
    consumed = ConsumedPairs(10_000, seed=7)
    users, items = rng.integers(1_000, size=10_000), rng.integers(100_000, size=10_000)
    consumed.add(users, items)
    assert consumed.contains(users, items).all()
    assert consumed.contains(users, items + 100_000).mean() < 0.01
