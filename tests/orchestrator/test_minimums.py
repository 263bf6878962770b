"""Places that are kept for a source: in the slate's loop, and on whole pages."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.slate import Minimum, choose
from shortlist.config import Config, RetrievalConfig, SlateConfig
from shortlist.errors import InvalidRequest, TierUnavailable
from shortlist.page import Page, PageRequest
from shortlist.tiers import Floats
from tests.orchestrator.test_slate import cards, random_pool
from tests.orchestrator.wire import distributed
from tests.orchestrator.world import World, a_world, item_ids, reasons

SOURCES = ("two_tower", "popular", "fresh")


def rows(total: int, *chosen: int) -> np.typing.NDArray[np.bool_]:
    return np.isin(np.arange(total), chosen)


def pick(relevance: Floats, size: int, *minimums: Minimum) -> list[int]:
    pool = cards(np.eye(len(relevance), dtype=np.float32))
    return choose(relevance, pool, size, strength=0.0, caps={}, minimums=minimums)


def test_the_last_places_go_to_the_best_rows_of_a_source_that_earned_too_few() -> None:
    relevance = np.arange(10, 0, -1, dtype=np.float32)
    chosen = pick(relevance, 5, Minimum(least=2, rows=rows(10, 6, 7, 9)))
    assert chosen == [0, 1, 2, 6, 7]


def test_a_minimum_that_is_earned_changes_nothing() -> None:
    relevance = np.arange(10, 0, -1, dtype=np.float32)
    assert pick(relevance, 5, Minimum(least=2, rows=rows(10, 0, 4, 9))) == [0, 1, 2, 3, 4]


def test_one_row_may_serve_two_minimums() -> None:
    relevance = np.arange(10, 0, -1, dtype=np.float32)
    both = (Minimum(least=1, rows=rows(10, 8)), Minimum(least=1, rows=rows(10, 8, 9)))
    chosen = pick(relevance, 4, *both)
    assert 8 in chosen
    assert len(chosen) == 4


def test_more_minimums_than_places_fill_the_page_by_relevance() -> None:
    relevance = np.arange(10, 0, -1, dtype=np.float32)
    chosen = pick(
        relevance,
        3,
        Minimum(least=5, rows=rows(10, 5, 6, 7, 8, 9)),
        Minimum(least=5, rows=rows(10, 1, 2)),
    )
    assert chosen == [1, 2, 5]


def test_rows_that_do_not_exist_keep_no_place() -> None:
    relevance = np.arange(4, 0, -1, dtype=np.float32)
    assert pick(relevance, 3, Minimum(least=3, rows=rows(4, 3))) == [0, 1, 3]
    assert pick(relevance, 3, Minimum(least=3, rows=rows(4))) == [0, 1, 2]


def test_better_rows_do_not_use_up_the_caps_of_needed_ones() -> None:
    relevance = np.arange(6, 0, -1, dtype=np.float32)
    genres: list[tuple[str, ...]] = [("a",), ("b",), ("c",), ("a",), ("d",), ("e",)]
    pool = cards(np.eye(6, dtype=np.float32), genre=genres)
    fresh = Minimum(least=1, rows=rows(6, 3))  # of genre `a`, as the best row
    chosen = choose(relevance, pool, 3, strength=0.0, caps={"genre": 1}, minimums=[fresh])
    assert chosen == [1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_minimums_and_caps_hold_together_at_any_strength(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevance, vectors = random_pool(60, seed)
    genres: list[tuple[str, ...]] = [(f"g{n}",) for n in rng.integers(0, 12, 60)]
    fresh = rows(60, *rng.choice(60, 12, replace=False).tolist())
    chosen = choose(
        relevance,
        cards(vectors, genre=genres),
        20,
        strength=float(rng.random()),
        caps={"genre": 2},
        minimums=[Minimum(least=5, rows=fresh)],
    )
    values = [genres[row][0] for row in chosen]
    assert all(values.count(value) <= 2 for value in values)
    assert np.count_nonzero(fresh[chosen]) >= 5
    assert len(set(chosen)) == len(chosen) == 20


def test_rows_far_below_the_head_do_not_weaken_the_relevance() -> None:
    relevance, vectors = random_pool(60, seed=0)
    low = np.append(relevance, [-1000, -2000]).astype(np.float32)
    more = np.concatenate([vectors, vectors[:2]])
    page = choose(relevance, cards(vectors), 20, strength=0.3, caps={})
    assert choose(low, cards(more), 20, strength=0.3, caps={}, head=60) == page


# -- pages ----------------------------------------------------------------------------------------


def a_config(**slate: object) -> Config:
    quotas = {"two_tower": 200, "popular": 200, "fresh": 30}
    return Config(retrieval=RetrievalConfig(quotas=quotas), slate=SlateConfig.model_validate(slate))


def a_fresh_world(config: Config) -> World:
    world = a_world(config=config)
    for shard in world.shards:
        shard.sources = SOURCES
    return world


def of_source(page: Page, source: str) -> int:
    return sum(source in item.sources for item in page.items)


async def test_a_page_has_its_minimum_from_far_below_the_pool() -> None:
    async with a_fresh_world(a_config(pool=20, diversity=0.0)) as plain:
        without = await plain.page()
    config = a_config(pool=20, diversity=0.0, minimums={"fresh": 9})
    async with a_fresh_world(config) as world:
        page = await world.page(trace=True)
        second = await world.page(page_token=page.next_page_token)
    assert of_source(without, "fresh") < 9
    assert of_source(page, "fresh") == 9
    assert of_source(second, "fresh") >= 9
    assert len(page.items) == 20
    assert page.degradations == ()
    assert not set(item_ids(page)) & set(item_ids(second))
    assert item_ids(page)[:11] == item_ids(without)[:11]  # the head of the page is as it was


async def test_a_source_that_has_too_few_gives_what_it_has() -> None:
    config = a_config(minimums={"fresh": 50, "trending": 3})
    async with a_fresh_world(config) as world:
        page = await world.page(page_size=60)
    assert of_source(page, "fresh") == 30
    assert len(page.items) == 60
    assert page.degradations == ()


async def test_caps_are_stronger_than_minimums() -> None:
    config = a_config(minimums={"fresh": 10}, caps={"genre": 1})
    async with a_fresh_world(config) as world:
        page = await world.page(page_size=5)
    genres = [world.catalogue.genres[int(id[1:])][0] for id in item_ids(page)]
    assert len(set(genres)) == len(genres) == 5
    assert of_source(page, "fresh") == 5


async def test_minimums_of_unknown_sources_are_refused_at_the_start() -> None:
    world = a_world(config=Config(slate=SlateConfig(minimums={"fresh": 1, "psychic": 1})))
    with pytest.raises(InvalidRequest, match=r"unknown source 'psychic'; known: .*two_tower") as no:
        await world.recommender.start()
    await world.recommender.close()
    assert [field for field, _ in no.value.violations] == ["slate.minimums.psychic"]


async def test_the_cached_popular_items_need_no_minimum() -> None:
    async with a_fresh_world(a_config(minimums={"fresh": 5})) as world:
        for shard in world.shards:
            shard.fails = TierUnavailable("down")
        page = await world.page()
    assert "POPULARITY_FALLBACK" in reasons(page)
    assert len(page.items) == 20


async def test_minimums_are_the_same_over_remote_tiers() -> None:
    config = a_config(pool=20, minimums={"fresh": 7})
    async with a_fresh_world(config) as world, distributed(world, config) as remote:
        here = await world.page()
        there = await remote.recommend(PageRequest(user_id="ann"))
    assert there.items == here.items
    assert of_source(there, "fresh") >= 7
