"""Which versions answer whom while a rollout is under way."""

from __future__ import annotations

import asyncio

from orchestrator.releases import Release
from shortlist.errors import TierUnavailable
from tests.orchestrator.world import World, a_world


def prepare(world: World, *, retrieval: str = "v2", ranking: str = "r2") -> None:
    """Every replica holds the versions beside the active ones."""
    for shard in world.shards:
        shard.also = (*shard.also, retrieval)
    for ranker in world.rankers:
        ranker.also = (*ranker.also, ranking)


def activate(world: World, *, retrieval: str = "v2", ranking: str = "r2") -> None:
    """Every replica answers with them now and keeps what it had."""
    for shard in world.shards:
        shard.version, shard.also = retrieval, (shard.version,)
    for ranker in world.rankers:
        ranker.version, ranker.also = ranking, (ranker.version,)


async def test_every_request_names_one_retrieval_and_one_ranking_version() -> None:
    async with a_world() as world:
        await world.page()
    assert {shard.queries[-1].index_version for shard in world.shards} == {"v1"}
    assert world.rankers[0].queries[-1].model_version == "r1"


async def test_a_refresh_names_what_is_active_from_then_on() -> None:
    async with a_world() as world:
        rollout = world.recommender.rollout
        assert rollout.stable == Release(retrieval="v1", ranking="r1")
        activate(world)
        assert await rollout.refresh() == Release(retrieval="v2", ranking="r2")
        page = await world.page()
    assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r2")


async def test_a_refresh_does_not_take_the_answer_of_questions_asked_before() -> None:
    async with a_world() as world:
        rollout = world.recommender.rollout
        for tier in (*world.shards, *world.rankers):
            tier.delay_s = 0.05
        before = asyncio.create_task(rollout.refresh())
        await asyncio.sleep(0.02)
        activate(world)
        assert await rollout.refresh() == Release(retrieval="v2", ranking="r2")
        await before


async def test_pages_stay_on_the_old_ranking_version_until_every_ranker_has_left_it() -> None:
    async with a_world(rankers=2) as world:
        prepare(world)
        world.rankers[0].version, world.rankers[0].also = "r2", ("r1",)
        await world.recommender.rollout.refresh()
        half = [await world.page() for _ in range(4)]
        world.rankers[1].version, world.rankers[1].also = "r2", ("r1",)
        await world.recommender.rollout.refresh()
        done = [await world.page() for _ in range(4)]
    assert {page.versions.ranking for page in half} == {"r1"}
    assert {page.versions.ranking for page in done} == {"r2"}


async def test_a_listing_keeps_its_ranking_version_while_others_move_on() -> None:
    async with a_world() as world:
        first = await world.page()
        activate(world)
        await world.recommender.rollout.refresh()
        second = await world.page(page_token=first.next_page_token)
        other = await world.page("bob")
    assert (second.versions.retrieval, second.versions.ranking) == ("v1", "r1")
    assert (other.versions.retrieval, other.versions.ranking) == ("v2", "r2")


async def test_rankers_that_moved_on_unnoticed_are_asked_again_by_their_new_version() -> None:
    async with a_world() as world:
        world.rankers[0].version = "r2"  # and it dropped r1
        page = await world.page()
    assert page.versions.ranking == "r2"
    assert page.degradations == ()


async def test_a_refresh_while_no_tier_answers_keeps_what_was_known() -> None:
    async with a_world() as world:
        for tier in (*world.shards, *world.rankers):
            tier.fails = TierUnavailable("down")
        assert await world.recommender.rollout.refresh() == Release(retrieval="v1", ranking="r1")
