"""Pages that are made a second time for nobody: off the path, bounded, counted."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from orchestrator import shadow as shadows
from orchestrator.releases import Release
from orchestrator.shadow import Shadow
from shortlist.config import Config, ShadowConfig
from shortlist.errors import TierUnavailable
from tests.orchestrator.live import a_live_world
from tests.orchestrator.test_rollout import prepare
from tests.orchestrator.world import World, a_world, item_ids

V2 = Release(retrieval="v2", ranking="r2")


async def a_shadow(world: World, share: float = 1.0, release: Release = V2) -> Shadow:
    prepare(world)
    return await world.recommender.rollout.set_shadow(release, share)


async def test_the_other_release_is_asked_the_same_and_nobody_sees_its_answer() -> None:
    async with a_world() as world:
        before = await world.page()
        shadow = await a_shadow(world)
        page = await world.page()
        await shadow.flush()
        served, unseen = world.rankers[0].queries[-2:]
    assert item_ids(page) == item_ids(before)
    assert (page.versions.retrieval, page.versions.ranking) == ("v1", "r1")
    assert (served.model_version, unseen.model_version) == ("r1", "r2")
    assert {shard.queries[-1].index_version for shard in world.shards} == {"v2"}
    np.testing.assert_array_equal(served.candidates.keys, unseen.candidates.keys)
    assert shadow.figures is not None
    assert (shadow.figures.requests, shadow.figures.overlap) == (1, 1.0)


async def test_differences_are_counted() -> None:
    async with a_world() as world:
        shadow = await a_shadow(world)
        world.rankers[0].upside_down_in = "r2"
        page = await world.page()
        await shadow.flush()
        assert shadow.figures is not None
        assert shadow.figures.overlap < 0.3
        assert shadow.figures.same_first == 0.0
        assert shadow.figures.time_ratio(0.5) > 0
    assert len(page.items) == 20


async def test_a_page_of_a_listing_is_made_again_with_what_was_shown_left_out() -> None:
    async with a_world() as world:
        first = await world.page()
        shadow = await a_shadow(world)
        second = await world.page(page_token=first.next_page_token)
        await shadow.flush()
        assert shadow.figures is not None
        assert (shadow.figures.requests, shadow.figures.overlap) == (1, 1.0)
    assert not {*item_ids(first)} & {*item_ids(second)}


async def test_its_pages_are_no_impressions() -> None:
    async with a_live_world() as (world, store):
        shadow = await a_shadow(world)
        page = await world.page("ann")
        await shadow.flush()
        await world.recommender.close()
        profile = await store.get("ann")
    assert profile is not None
    assert len(profile.impressions.keys) == len(page.items)


async def test_a_shadow_that_fails_is_counted_and_the_page_is_served() -> None:
    async with a_world() as world:
        shadow = await a_shadow(world)
        for shard in world.shards:
            shard.also = ()  # lost since
        assert len((await world.page()).items) == 20
        await shadow.flush()
        assert shadow.figures is not None
        assert (shadow.figures.requests, shadow.figures.failed) == (1, 1)


async def test_a_slow_shadow_delays_nobody_and_what_does_not_fit_is_skipped() -> None:
    config = Config(shadow=ShadowConfig(queue=2))
    async with a_world(config=config) as world:
        shadow = await a_shadow(world, release=Release(ranking="r2"))
        hangs = asyncio.Event()
        world.rankers[0].waits["r2"] = hangs
        async with asyncio.timeout(10):
            pages = [await world.page(f"u{n}") for n in range(6)]
        assert all(page.degradations == () for page in pages)
        assert shadow.figures is not None
        # One is being made, two wait.
        assert (shadow.figures.requests, shadow.figures.skipped) == (0, 3)
        hangs.set()
        await shadow.flush()
        assert (shadow.figures.requests, shadow.figures.skipped) == (3, 3)


async def test_what_has_waited_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadows, "_LONGEST_WAIT_S", -1.0)
    async with a_world() as world:
        shadow = await a_shadow(world)
        await world.page()
        await shadow.flush()
        assert shadow.figures is not None
        assert (shadow.figures.requests, shadow.figures.skipped) == (0, 1)


async def test_about_a_share_of_the_requests_is_made_again() -> None:
    async with a_world(config=Config(shadow=ShadowConfig(queue=100))) as world:
        shadow = await a_shadow(world, share=0.3)
        for n in range(60):
            await world.page(request_id=f"r{n}")
        await shadow.flush()
        assert shadow.figures is not None
        assert 8 < shadow.figures.requests < 30


async def test_ending_it_keeps_what_was_seen_and_asks_no_more() -> None:
    async with a_world() as world:
        shadow = await a_shadow(world)
        await world.page()
        await shadow.flush()
        await world.recommender.rollout.set_shadow(Release(), 0.0)
        await world.page()
        assert shadow.figures is not None
        assert (shadow.figures.requests, shadow.share, shadow.release) == (1, 0.0, V2)


async def test_pages_without_a_shadowed_tier_are_served_as_ever() -> None:
    async with a_world() as world:
        shadow = await a_shadow(world)
        for shard in world.shards:
            shard.fails = TierUnavailable("down")
        assert len((await world.page()).items) == 20  # cached popular items
        await shadow.flush()
        assert shadow.figures is not None
        assert shadow.figures.requests == 1
