"""While any stage can answer, the answer is OK and says what is missing (DESIGN, I4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist.config import Config, ServingConfig, SlateConfig
from shortlist.errors import CoverageTooLow, ShortlistError, TierUnavailable, VersionNotServed
from shortlist.ids import keys_of
from shortlist.page import PageRequest, RankRequest, RecentEvent
from shortlist.stores.sqlite import SqliteStore
from tests.orchestrator.world import World, a_world, item_ids, reasons

QUICK = Config(
    serving=ServingConfig(
        retrieval_budget_ms=100, ranking_budget_ms=100, describe_budget_ms=100, reserve_ms=1
    ),
    slate=SlateConfig(diversity=0.0),
)
DOWN = TierUnavailable("connection refused")


def all_down(world: World) -> None:
    for shard in world.shards:
        shard.fails = DOWN


async def test_one_dead_shard_costs_its_share_of_the_items() -> None:
    async with a_world(shards=2) as world:
        world.shards[1].fails = DOWN
        page = await world.page()
    assert len(page.items) == 20
    assert page.coverage.shards_answered == 1
    assert page.coverage.shards_total == 2
    assert page.coverage.share == len(world.shards[0].keys) / 300
    assert reasons(page) == ["SHARD_DOWN"]
    assert page.degradations[0].stage == "shard/1"
    assert set(keys_of(item_ids(page)).tolist()) <= set(world.shards[0].keys.tolist())


async def test_a_late_shard_never_fails_the_request() -> None:
    async with a_world(shards=2, config=QUICK) as world:
        world.shards[0].delay_s = 30
        page = await world.page()
    assert len(page.items) == 20
    assert reasons(page) == ["SHARD_TIMEOUT"]
    assert page.coverage.shards_answered == 1


async def test_a_failed_source_is_named_and_the_others_go_on() -> None:
    async with a_world() as world:
        world.shards[0].failing_source = "two_tower"
        page = await world.page()
    assert [(one.reason, one.stage) for one in page.degradations] == [
        ("SOURCE_FAILED", "source/two_tower")
    ]
    assert page.coverage.share == 1.0


@pytest.mark.parametrize(
    "failure",
    [DOWN, ZeroDivisionError("secret"), VersionNotServed("r1 is gone")],
    ids=["down", "bug", "version"],
)
async def test_without_the_ranker_the_blended_order_is_returned(failure: Exception) -> None:
    async with a_world(config=QUICK) as world:
        world.rankers[0].fails = failure
        page = await world.page()
        candidates = world.rankers[0].queries[-1].candidates
    assert reasons(page) == ["RANKER_FALLBACK"]
    assert "secret" not in page.degradations[0].detail
    assert keys_of(item_ids(page)).tolist() == candidates.keys[:20].tolist()
    assert page.versions.ranking == ""
    scores = [item.score for item in page.items]
    assert scores == sorted(scores, reverse=True)


async def test_a_slow_ranker_costs_its_own_budget_only() -> None:
    async with a_world(config=QUICK) as world:
        world.rankers[0].delay_s = 30
        page = await world.page()
    assert reasons(page) == ["RANKER_FALLBACK"]
    assert len(page.items) == 20


async def test_a_second_ranker_takes_over() -> None:
    async with a_world(rankers=2) as world:
        world.rankers[0].fails = DOWN
        for _ in range(3):
            assert (await world.page()).degradations == ()


async def test_with_all_shards_dead_cached_popular_items_are_shown() -> None:
    async with a_world(items=100) as world:
        all_down(world)
        page = await world.page("ann", exclude_item_ids=("i90",), page_size=60)
        everything = await world.page("ann", page_size=200)
    assert len(page.items) == 60
    assert page.coverage.share == 0.0
    assert page.coverage.shards_answered == 0
    assert reasons(page) == ["SHARD_DOWN", "SHARD_DOWN", "POPULARITY_FALLBACK"]
    assert {source for item in page.items for source in item.sources} == {"popular"}
    assert all(item.title for item in page.items)
    # Filters never fail open: seen and excluded items stay away.
    assert len(everything.items) == 80
    assert "i90" not in item_ids(page)
    assert not set(keys_of(item_ids(everything)).tolist()) & set(world.users["ann"].seen.tolist())


async def test_shards_that_die_between_retrieval_and_cards_are_as_dead_as_others() -> None:
    async with a_world() as world:
        for shard in world.shards:
            shard.fails_describe = DOWN
        page = await world.page()
    assert len(page.items) == 20
    assert "POPULARITY_FALLBACK" in reasons(page)
    assert page.coverage.share == 0.0


async def test_one_shard_that_dies_before_its_cards_loses_only_its_items() -> None:
    async with a_world() as world:
        world.shards[1].fails_describe = DOWN
        page = await world.page()
    assert len(page.items) == 20
    assert set(reasons(page)) == {"CARDS_INCOMPLETE"}
    assert len(page.degradations) == 1
    assert set(keys_of(item_ids(page)).tolist()) <= set(world.shards[0].keys.tolist())


async def test_without_shards_and_without_a_cache_there_is_no_answer() -> None:
    world = a_world(config=QUICK)
    all_down(world)
    async with world:
        with pytest.raises(TierUnavailable, match="no shard answers"):
            await world.page()
        for shard in world.shards:
            shard.fails = None
        assert (await world.page()).coverage.share == 1.0  # found as soon as it is there


async def test_without_the_profile_store_the_requests_own_exclusions_still_hold(
    tmp_path: Path,
) -> None:
    missing = SqliteStore(tmp_path / "store.sqlite")
    async with a_world(items=60, profiles=missing) as world:
        page = await world.page(
            "ann",
            page_size=200,
            exclude_item_ids=("i1",),
            recent_events=(RecentEvent(item_id="i2"),),
        )
        stranger = await world.page("ann")
    assert reasons(page) == ["PROFILE_UNAVAILABLE", "PAGE_UNDERFILLED"]
    assert len(page.items) == 58
    assert not {"i1", "i2"} & set(item_ids(page))
    assert not page.cold_start
    assert stranger.cold_start
    assert reasons(stranger) == ["PROFILE_UNAVAILABLE"]


async def test_min_coverage_turns_a_partial_answer_into_unavailable() -> None:
    async with a_world(shards=2) as world:
        world.shards[1].fails = DOWN
        assert (await world.page(min_coverage=0.3)).items
        with pytest.raises(CoverageTooLow, match="min_coverage") as refused:
            await world.page(min_coverage=0.9)
        assert refused.value.status_name == "UNAVAILABLE"
        world.shards[0].fails = DOWN
        with pytest.raises(CoverageTooLow):
            await world.page(min_coverage=0.01)


async def test_a_shard_in_mid_rollout_never_mixes_versions() -> None:
    async with a_world(shards=2) as world:
        world.shards[0].version = "v2"
        page = await world.page()
        assert page.versions.retrieval == "v1"
        assert reasons(page) == ["SHARD_VERSION"]
        world.shards[0].also = ("v1",)  # two generations loaded, as in a proper rollout
        assert (await world.page()).degradations == ()
        world.shards[1].version, world.shards[0].also = "v2", ()
        page = await world.page()
        assert page.versions.retrieval == "v2"
        assert page.degradations == ()


async def test_everything_down_but_the_rail_is_still_an_answer(tmp_path: Path) -> None:
    async with a_world(config=QUICK, profiles=SqliteStore(tmp_path / "none.sqlite")) as world:
        all_down(world)
        world.rankers[0].fails = DOWN
        page = await world.page()
        cached = world.catalogue.popularity[
            [world.catalogue.row(int(key)) for key in keys_of(item_ids(page))]
        ]
    assert len(page.items) == 20
    assert set(reasons(page)) == {
        "PROFILE_UNAVAILABLE",
        "SHARD_DOWN",
        "POPULARITY_FALLBACK",
        "RANKER_FALLBACK",
    }
    assert (np.diff(cached) <= 0).all()  # most popular first


async def test_cached_items_are_in_order_even_if_popularity_is_worth_nothing_in_a_blend() -> None:
    pages = []
    for weight in (1.0, 0.0):
        world = a_world(config=QUICK)
        world.rankers[0].fails = DOWN
        for shard in world.shards:
            shard.fusion = {"popular": (weight, 3.0)}
        async with world:
            all_down(world)
            pages.append(item_ids(await world.page()))
    assert pages[0] == pages[1]


async def test_ranking_goes_on_when_items_cannot_be_looked_up() -> None:
    async with a_world(shards=2) as world:
        world.shards[1].fails = DOWN
        ids = world.catalogue.ids[:30]
        ranking = await world.recommender.rank(RankRequest(item_ids=(*ids, "nonsense-1")))
        assert {item.id for item in ranking.items} >= set(ids)
        assert "CARDS_INCOMPLETE" in [str(one.reason) for one in ranking.degradations]
        world.rankers[0].fails = DOWN
        ranking = await world.recommender.rank(RankRequest(item_ids=ids))
    assert [item.id for item in ranking.items] == list(ids)  # the caller's order


async def test_chaos_never_repeats_an_item_and_never_shows_a_seen_one() -> None:
    rng = np.random.default_rng(3)
    async with a_world(items=150, shards=3, config=QUICK) as world:
        seen = set(world.users["ann"].seen.tolist())
        for _ in range(60):
            for shard in world.shards:
                shard.fails = DOWN if rng.random() < 0.4 else None
                shard.fails_describe = DOWN if rng.random() < 0.2 else None
            world.rankers[0].fails = DOWN if rng.random() < 0.3 else None
            outcome = await world.recommender.recommend_batch([PageRequest(user_id="ann")])
            [page] = outcome
            assert not isinstance(page, ShortlistError)
            ids = item_ids(page)
            assert len(set(ids)) == len(ids) == 20
            assert not set(keys_of(ids).tolist()) & seen
