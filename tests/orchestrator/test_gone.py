"""What was deleted, is hidden or has expired is on no page, whatever the shards propose.

The shards of these tests know nothing of the log: the orchestrator's own lock has to hold.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from orchestrator.gone import UnavailableItems
from shortlist.errors import ItemNotFound, TierUnavailable
from shortlist.ids import keys_of
from shortlist.live import CatalogItem
from shortlist.page import PageRequest, RankRequest, SimilarRequest
from shortlist.stores.memory import MemoryStore
from tests.orchestrator.live import BreakableStore, a_live_world
from tests.orchestrator.world import NOW_MS, World, a_world, item_ids, reasons

DOWN = TierUnavailable("connection refused")


async def withdraw(world: World, ids: list[str]) -> None:
    """A third of them deleted, hidden, and expired."""
    items = [
        CatalogItem(id=one, hidden=at % 3 == 1, expires_ms=NOW_MS if at % 3 == 2 else 0)
        for at, one in enumerate(ids)
        if at % 3
    ]
    if items:
        await world.recommender.upsert_items(items, wait_for_index=True)
    await world.recommender.delete_items(ids[::3], wait_for_index=True)


async def test_what_is_gone_is_on_no_page_of_any_listing() -> None:
    async with a_live_world() as (world, _):
        first = await world.page("ann")
        doomed = item_ids(await world.page("ann", page_size=60))[20:]
        await withdraw(world, doomed)
        token, seen = first.next_page_token, item_ids(first)
        while token:
            page = await world.page("ann", page_token=token)
            seen += item_ids(page)
            token = page.next_page_token
    assert not set(doomed) & set(seen)
    assert len(seen) == len(set(seen)) == 300 - 20 - len(doomed)


async def test_the_funnel_counts_what_is_gone() -> None:
    async with a_live_world() as (world, _):
        await withdraw(world, ["i50", "i51", "i52"])
        page = await world.page("ann", trace=True)
    assert page.trace is not None
    [filtering] = [one for one in page.trace.stages if one.stage == "filter"]
    assert filtering.dropped["gone"] == 3


async def test_what_is_gone_is_not_similar_to_anything_and_nothing_is_like_it() -> None:
    async with a_live_world() as (world, _):
        before = await world.recommender.similar(SimilarRequest(item_id="i9"))
        doomed = [item.id for item in before.items[:6]]
        await withdraw(world, doomed)
        after = await world.recommender.similar(SimilarRequest(item_id="i9", page_size=200))
        assert not set(doomed) & {item.id for item in after.items}
        for one in doomed:
            with pytest.raises(ItemNotFound, match=one):
                await world.recommender.similar(SimilarRequest(item_id=one))


async def test_a_ranking_counts_what_is_gone_as_unknown() -> None:
    async with a_live_world() as (world, _):
        await withdraw(world, ["i1", "i2", "i3"])
        ranking = await world.recommender.rank(RankRequest(item_ids=("i1", "i2", "i3", "i4", "x")))
    assert [item.id for item in ranking.items] == ["i4"]
    assert ranking.unknown_items == 4


async def test_the_cached_popular_items_are_filtered_too() -> None:
    async with a_live_world() as (world, _):
        for shard in world.shards:
            shard.fails = DOWN
        cached = item_ids(await world.page("stranger"))
        for shard in world.shards:
            shard.fails = None
        await withdraw(world, cached)
        for shard in world.shards:
            shard.fails = DOWN
        page = await world.page("stranger")
    assert "POPULARITY_FALLBACK" in reasons(page)
    assert len(page.items) == 20
    assert not set(cached) & set(item_ids(page))


async def test_cached_items_are_not_shown_before_the_log_was_read() -> None:
    store = BreakableStore()
    store.down = True
    async with a_world(store=store) as world:
        page = await world.page("ann")
        assert len(page.items) == 20
        assert reasons(page) == ["PROFILE_UNAVAILABLE"]
        for shard in world.shards:
            shard.fails = DOWN
        with pytest.raises(TierUnavailable, match="log"):
            await world.page("ann")
        store.down = False
        await until_known(world)
        assert reasons(await world.page("ann")) == [
            "SHARD_DOWN",
            "SHARD_DOWN",
            "POPULARITY_FALLBACK",
        ]


async def until_known(world: World) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                await world.page("ann")
                return
            except TierUnavailable:
                await asyncio.sleep(0.05)


async def test_an_item_that_comes_back_is_shown_again() -> None:
    async with a_live_world() as (world, _):
        [best] = item_ids(await world.page("ann", page_size=1))
        await world.recommender.delete_items([best], wait_for_index=True)
        assert best not in item_ids(await world.page("ann", page_size=200))
        await world.recommender.upsert_items([CatalogItem(id=best)], wait_for_index=True)
        assert item_ids(await world.page("ann", page_size=1)) == [best]


async def test_an_orchestrator_that_starts_later_knows_what_is_gone() -> None:
    store = MemoryStore()
    await store.delete_items(["i1", "i2"])
    async with a_world(store=store) as world:
        page = await world.page("stranger", page_size=200)
        ranking = await world.recommender.rank(RankRequest(item_ids=("i1", "i2", "i3")))
    assert not {"i1", "i2"} & set(item_ids(page))
    assert [item.id for item in ranking.items] == ["i3"]


async def test_an_item_expires_when_its_time_comes_and_not_before() -> None:
    now = 1000.0
    store = MemoryStore()
    await store.upsert_items([CatalogItem(id="a", expires_ms=1_000_500), CatalogItem(id="b")])
    gone = UnavailableItems(store, clock=lambda: now)
    await gone.start()
    keys = keys_of(["a", "b", "c"])
    assert gone.among(keys).tolist() == [False, False, False]
    now = 1000.5
    assert gone.among(keys).tolist() == [True, False, False]
    await gone.close()


async def test_the_state_is_that_of_the_newest_changes_in_any_order_of_changes() -> None:
    """The oracle keeps the newest state of each item in a dictionary."""
    rng = np.random.default_rng(3)
    store, newest = MemoryStore(), {}
    gone = UnavailableItems(store, clock=lambda: 1000.0)
    await gone.start()
    ids = [f"i{n}" for n in range(60)]
    for _ in range(40):
        chosen = [ids[n] for n in rng.choice(60, 7, replace=False)]
        if rng.random() < 0.3:
            await store.delete_items(chosen)
            newest.update(dict.fromkeys(chosen, True))
        else:
            items = [
                CatalogItem(
                    id=one,
                    hidden=bool(rng.random() < 0.3),
                    expires_ms=int(rng.choice([0, 999_999, 1_000_001])),
                )
                for one in chosen
            ]
            await store.upsert_items(items)
            newest.update({one.id: one.hidden or 0 < one.expires_ms <= 1_000_000 for one in items})
    async with asyncio.timeout(10):
        while gone.position.sequence < await store.head():
            await asyncio.sleep(0.01)
    assert gone.among(keys_of(ids)).tolist() == [newest.get(one, False) for one in ids]
    await gone.close()


async def test_a_page_says_which_part_of_the_log_it_knows_and_who_is_behind() -> None:
    async with a_live_world() as (world, _):
        await world.recommender.delete_items(["i1", "i2"], wait_for_index=True)
        page = await world.page("ann")
        assert (page.versions.log_sequence, page.versions.lag_ms) == (2, 0)
        assert page.degradations == ()
        world.shards[0].lag_ms, world.shards[1].log = 7000, None
        late = await world.page("ann")
    assert (late.versions.log_sequence, late.versions.lag_ms) == (0, 7000)
    assert [(one.reason, one.stage) for one in late.degradations] == [("BEHIND", "shard/0")]


async def test_similar_items_say_it_as_well() -> None:
    async with a_live_world() as (world, _):
        await world.recommender.delete_items(["i1"], wait_for_index=True)
        similar = await world.recommender.similar(SimilarRequest(item_id="i9"))
        assert similar.versions.log_sequence == 1
        assert (await world.recommender.recommend(PageRequest())).versions.log_sequence == 1
