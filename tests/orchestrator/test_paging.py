from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.tokens import PageToken
from shortlist.config import ArmConfig, Config, RankingConfig
from shortlist.errors import InvalidRequest, TierUnavailable, VersionNotServed
from shortlist.ids import keys_of
from shortlist.page import Page, PageRequest, RecentEvent
from tests.orchestrator.world import World, a_world, item_ids, reasons


async def walk(world: World, request: PageRequest, most: int = 1000) -> list[Page]:
    pages = [await world.recommender.recommend(request)]
    while pages[-1].next_page_token and len(pages) < most:
        token = pages[-1].next_page_token
        pages.append(await world.recommender.recommend(replace(request, page_token=token)))
    return pages


@pytest.mark.parametrize("diversity", [0.0, 0.3])
async def test_pages_never_repeat_an_item_and_in_the_end_show_all(diversity: float) -> None:
    async with a_world(items=130) as world:
        pages = await walk(world, PageRequest(user_id="ann", page_size=17, diversity=diversity))
    ids = [id for page in pages for id in item_ids(page)]
    assert len(ids) == len(set(ids)) == 110
    assert [item.rank for page in pages for item in page.items] == list(range(110))
    assert [len(page.items) for page in pages] == [17] * 6 + [8]


async def test_a_listing_that_ends_with_a_full_page_has_no_further_token() -> None:
    async with a_world(items=60) as world:
        pages = await walk(world, PageRequest(page_size=20))
    assert [len(page.items) for page in pages] == [20, 20, 20]
    assert all(not reasons(page) for page in pages)


async def test_without_diversity_pages_are_the_ranking_cut_into_pieces() -> None:
    async with a_world(items=100) as world:
        whole = await world.page("bob", page_size=98, diversity=0.0)
        pages = await walk(world, PageRequest(user_id="bob", page_size=14, diversity=0.0))
    assert [id for page in pages for id in item_ids(page)] == item_ids(whole)


async def test_the_same_token_gives_the_same_page() -> None:
    async with a_world() as world:
        token = (await world.page("ann")).next_page_token
        first, second = [await world.page("ann", page_token=token) for _ in range(2)]
    assert first.items == second.items
    assert first.next_page_token == second.next_page_token


async def test_a_token_pins_versions_and_the_moment() -> None:
    async with a_world(shards=2) as world:
        page = await world.page("ann")
        for shard in world.shards:
            shard.version, shard.also = "v2", ("v1",)
        old = await world.page("ann", page_token=page.next_page_token)
        assert old.versions.retrieval == "v1"
        queries = world.shards[0].queries
        assert queries[-1].user.time_ms == queries[-2].user.time_ms
        assert world.rankers[0].queries[-1].model_version == "r1"


async def test_a_token_of_a_version_that_is_gone_says_to_start_again() -> None:
    async with a_world() as world:
        token = (await world.page("ann")).next_page_token
        for shard in world.shards:
            shard.version = "v2"
        with pytest.raises(VersionNotServed, match="start again without page_token"):
            await world.page("ann", page_token=token)
        assert (await world.page("ann")).versions.retrieval == "v2"


async def test_a_token_of_a_ranker_that_is_gone_says_to_start_again() -> None:
    async with a_world() as world:
        token = (await world.page("ann")).next_page_token
        world.rankers[0].version = "r2"
        with pytest.raises(VersionNotServed, match="start again without page_token"):
            await world.page("ann", page_token=token)


@pytest.mark.parametrize(
    "change",
    [
        {"user_id": "bob"},
        {"surface": "home"},
        {"exclude_item_ids": ("i1",)},
        {"exclude_seen": False},
        {"context": {"device": "tv"}},
        {"user_attributes": {"age": 3.0}},
        {"diversity": 0.9},
        {"caps": {"genre": 3}},
        {"sources": ("popular",)},
        {"quotas": {"popular": 7}},
        {"time_ms": 5},
        {"arm": "plain"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_token_belongs_to_its_request(change: dict[str, object]) -> None:
    arms = RankingConfig(arms={"plain": ArmConfig(ranker="none")})
    async with a_world(config=Config(ranking=arms)) as world:
        token = (await world.page("ann")).next_page_token
        with pytest.raises(InvalidRequest) as refused:
            await world.page(**{"user_id": "ann", "page_token": token, **change})  # type: ignore[arg-type]
    assert [field for field, _ in refused.value.violations] == ["page_token"]


@pytest.mark.parametrize(
    "change",
    [
        {"page_size": 5},
        {"trace": True},
        {"request_id": "another"},
        {"return_attributes": ("genre",)},
        {"recent_events": (RecentEvent(item_id="i299"),)},
        {"min_coverage": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_what_concerns_one_page_only_may_change(change: dict[str, object]) -> None:
    async with a_world() as world:
        first = await world.page("ann")
        second = await world.page("ann", page_token=first.next_page_token, **change)
    assert not set(item_ids(first)) & set(item_ids(second))


async def test_the_order_in_which_sets_are_written_does_not_matter() -> None:
    async with a_world() as world:
        token = (await world.page(exclude_item_ids=("i1", "i2"))).next_page_token
        assert (await world.page(exclude_item_ids=("i2", "i1"), page_token=token)).items


@pytest.mark.parametrize("token", ["nonsense", "AAAA", "é", "A" * 10_000])
async def test_a_made_up_token_is_an_invalid_argument(token: str) -> None:
    async with a_world() as world:
        with pytest.raises(InvalidRequest) as refused:
            await world.page(page_token=token)
    assert [field for field, _ in refused.value.violations] == ["page_token"]


async def test_a_listing_goes_on_over_the_death_of_all_shards_and_keeps_its_pin() -> None:
    async with a_world(items=100) as world:
        first = await world.page("ann")
        for shard in world.shards:
            shard.fails = TierUnavailable("down")
        second = await world.page("ann", page_token=first.next_page_token)
        assert "POPULARITY_FALLBACK" in reasons(second)
        for shard in world.shards:
            shard.fails = None
        third = await world.page("ann", page_token=second.next_page_token)
    shown = [*item_ids(first), *item_ids(second), *item_ids(third)]
    assert len(set(shown)) == 60
    assert PageToken.decode(third.next_page_token).listing.retrieval_version == "v1"
    assert PageToken.decode(third.next_page_token).listing.shown.tolist() == keys_of(shown).tolist()
