"""Which sources a request asks, given configuration, index version and request."""

from __future__ import annotations

import pytest

from shortlist.config import Config, RetrievalConfig
from shortlist.errors import InvalidRequest, TierUnavailable
from shortlist.ids import shard_quota
from tests.orchestrator.world import World, a_world, reasons

QUOTAS = {"two_tower": 70, "popular": 50, "content": 30, "mf": 0}
CONFIG = Config(retrieval=RetrievalConfig(quotas=QUOTAS))


def a_world_of(*sources: str, config: Config = CONFIG, shards: int = 1) -> World:
    """One shard is asked for what all together are to find."""
    world = a_world(config=config, shards=shards)
    for shard in world.shards:
        shard.sources = sources
    return world


async def asked(world: World, **fields: object) -> dict[str, int]:
    await world.page(**fields)  # type: ignore[arg-type]
    return dict(world.shards[0].queries[-1].quotas)


async def test_only_configured_sources_that_the_index_offers_are_asked() -> None:
    async with a_world_of("popular", "two_tower", "mf", "astrology") as world:
        assert await asked(world) == {"two_tower": 70, "popular": 50}
        assert (await world.page()).degradations == ()


async def test_sources_are_asked_in_one_order_whatever_the_shards_say() -> None:
    async with a_world_of("content", "popular", "two_tower") as world:
        assert list(await asked(world)) == ["two_tower", "content", "popular"]


async def test_a_request_may_name_a_source_that_is_off_but_offered() -> None:
    async with a_world_of("popular", "two_tower", "mf") as world:
        assert await asked(world, sources=("mf",)) == {"mf": 1000}
        assert await asked(world, sources=("mf", "popular"), quotas={"mf": 7}) == {
            "mf": 7,
            "popular": 50,
        }
        assert await asked(world, quotas={"mf": 9, "popular": 4}) == {
            "two_tower": 70,
            "popular": 4,
            "mf": 9,
        }


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sources": ("popular", "content")}, "sources.only[1]"),
        ({"quotas": {"content": 5}}, 'sources.quotas["content"]'),
    ],
)
async def test_a_source_that_is_not_offered_is_an_invalid_argument(
    fields: dict[str, object], field: str
) -> None:
    async with a_world_of("popular", "two_tower") as world:
        with pytest.raises(InvalidRequest, match="known: popular, two_tower") as refused:
            await world.page(**fields)  # type: ignore[arg-type]
    assert [name for name, _ in refused.value.violations] == [field]


async def test_while_no_shard_was_reached_all_configured_sources_may_be_named() -> None:
    world = a_world_of("popular", "two_tower")
    for shard in world.shards:
        shard.fails = TierUnavailable("down")
    async with world:
        with pytest.raises(TierUnavailable):  # not an invalid argument
            await world.page(sources=("content",))
        with pytest.raises(InvalidRequest, match="psychic"):
            await world.page(sources=("psychic",))


async def test_one_shard_in_reach_tells_what_the_index_offers() -> None:
    world = a_world_of("popular", "two_tower", shards=2)
    world.shards[1].fails = TierUnavailable("down")
    async with world:
        shares = {"two_tower": shard_quota(70, 2), "popular": shard_quota(50, 2)}
        assert await asked(world) == shares
        assert reasons(await world.page()) == ["SHARD_DOWN"]


async def test_a_listing_asks_what_its_own_version_offers() -> None:
    async with a_world_of("popular", "two_tower") as world:
        first = await world.page()
        for shard in world.shards:
            shard.version, shard.also = "v2", ("v1",)
            shard.sources = ("popular", "two_tower", "content")
        await world.recommender._refresh()
        assert set(await asked(world, page_token=first.next_page_token)) == {
            "two_tower",
            "popular",
        }
        assert set(await asked(world)) == {"two_tower", "popular", "content"}


async def test_what_the_index_has_learned_of_its_sources_decides_the_blend() -> None:
    async with a_world_of("popular", "two_tower") as world:
        for shard in world.shards:
            shard.fusion = {"popular": (0.0, 0.0), "two_tower": (1.0, 5.0)}
        await world.page()
        candidates = world.rankers[0].queries[-1].candidates
    nearest = candidates.ranks[candidates.source_names.index("two_tower")]
    assert nearest[:70].tolist() == list(range(70))
    assert candidates.fused[0] == pytest.approx(1 / 6)
