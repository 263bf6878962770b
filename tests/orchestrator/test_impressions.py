"""What pages have shown is remembered, and never at a page's expense."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator import impressions
from shortlist.ids import keys_of
from shortlist.page import RankRequest, SimilarRequest
from shortlist.stores import Impressions
from tests.orchestrator.live import BreakableStore, a_live_world
from tests.orchestrator.world import NOW_MS, a_world, item_ids


async def shown_to(store: BreakableStore, user: str) -> Impressions:
    profile = await store.get(user)
    assert profile is not None
    return profile.impressions


async def test_a_page_becomes_impressions_of_its_user() -> None:
    async with a_live_world() as (world, store):
        page = await world.page("ann")
    shown = await shown_to(store, "ann")
    assert sorted(shown.keys.tolist()) == sorted(keys_of(item_ids(page)).tolist())
    assert set(shown.times_ms.tolist()) == {NOW_MS}


async def test_pages_for_nobody_rankings_and_similar_items_are_not_impressions() -> None:
    async with a_live_world() as (world, store):
        await world.page("")
        await world.recommender.rank(RankRequest(user_id="ann", item_ids=("i1",)))
        await world.recommender.similar(SimilarRequest(item_id="i1"))
    assert not len((await shown_to(store, "ann")).keys)


async def test_a_page_does_not_wait_for_a_store_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class HangingStore(BreakableStore):
        async def log_impressions(self, *arguments: object) -> None:
            await asyncio.Event().wait()

    store = HangingStore()
    async with a_world(store=store) as world:
        for _ in range(5):
            assert len((await world.page("ann")).items) == 20
        monkeypatch.setattr(impressions, "_FLUSH_S", 0.05)
    assert await store.get("ann") is None


async def test_impressions_that_cannot_be_written_are_counted() -> None:
    store = BreakableStore()
    log = impressions.ImpressionLog(store)
    async with a_world(store=store) as world:
        world.recommender._live._impressions = log
        await world.page("ann")
        await log.flush()
        assert log.lost == 0
        store.down = True
        await world.page("ann")
        await world.page("bob")
        await log.flush()
        assert log.lost == 2
        store.down = False
        await world.page("bob")
        await log.flush()
        assert log.lost == 2
    assert len((await shown_to(store, "bob")).keys) == 20


async def test_a_forgotten_user_gets_no_impressions() -> None:
    async with a_live_world() as (world, store):
        await world.recommender.delete_users(["ann"])
        await world.page("ann")
    assert await store.get("ann") is None
