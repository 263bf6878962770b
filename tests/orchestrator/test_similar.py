"""Items like one item, made of the same stages as a page."""

from __future__ import annotations

import numpy as np
import pytest

from shortlist.config import Config, RetrievalConfig, ServingConfig, SlateConfig
from shortlist.errors import (
    BudgetExceeded,
    InvalidRequest,
    ItemNotFound,
    NotImplementedYet,
    TierUnavailable,
)
from shortlist.page import SimilarItems, SimilarRequest
from tests.orchestrator.wire import distributed
from tests.orchestrator.world import World, a_world

DOWN = TierUnavailable("connection refused")
ALL = ("two_tower", "mf", "cooccurrence", "content", "popular", "fresh")


async def like(world: World, item_id: str = "i7", **fields: object) -> SimilarItems:
    request = SimilarRequest(item_id=item_id, **fields)  # type: ignore[arg-type]
    return await world.recommender.similar(request)


def ids_of(similar: SimilarItems) -> list[str]:
    return [item.id for item in similar.items]


async def test_the_nearest_items_come_first_and_never_the_item_itself() -> None:
    async with a_world() as world:
        similar = await like(world, return_attributes=("genre",))
        vectors = world.catalogue.vectors
    nearest = np.argsort(-(vectors @ (vectors[7] + 0.01)), kind="stable")
    assert ids_of(similar) == [f"i{row}" for row in nearest if row != 7][:20]
    assert [item.rank for item in similar.items] == list(range(20))
    assert similar.items[0].title == f"Title {similar.items[0].id}"
    assert similar.items[0].attributes["genre"]
    assert similar.items[0].sources == ("two_tower",)
    assert similar.degradations == ()
    assert similar.coverage.share == 1.0
    assert (similar.versions.retrieval, similar.versions.ranking) == ("v1", "")


async def test_the_question_is_about_somebody_whose_whole_history_is_the_item() -> None:
    async with a_world() as world:
        await like(world)
        query = world.shards[0].queries[-1]
        assert query.user.history.keys.tolist() == [int(world.catalogue.keys[7])]
        assert query.user.history.weights.tolist() == [1.0]
        assert query.user.user_key == 0
        assert world.rankers[0].queries == []


async def test_only_sources_that_start_from_items_are_asked_where_offered_and_on() -> None:
    retrieval = RetrievalConfig(quotas={"mf": 0})
    world = a_world(config=Config(retrieval=retrieval), shards=1)
    for shard in world.shards:
        shard.sources = ALL
    async with world:
        await like(world)
        assert world.shards[0].queries[-1].quotas == {
            "cooccurrence": 100,
            "content": 100,
            "two_tower": 100,
        }
        await like(world, page_size=150)
        assert set(world.shards[0].queries[-1].quotas.values()) == {750}


async def test_without_such_a_source_similar_is_unimplemented() -> None:
    world = a_world(config=Config(retrieval=RetrievalConfig(quotas={"two_tower": 0})))
    async with world:
        with pytest.raises(NotImplementedYet, match="two_tower"):
            await like(world)


async def test_an_item_that_does_not_exist_is_not_found() -> None:
    async with a_world(shards=3) as world:
        with pytest.raises(ItemNotFound, match="'nonsense'") as refused:
            await like(world, "nonsense")
        assert refused.value.status_name == "NOT_FOUND"
        assert refused.value.field == "item_id"
        assert (await like(world, exclude_item_ids=("no-such-item",))).items


async def test_excluded_items_are_left_out() -> None:
    async with a_world() as world:
        first = ids_of(await like(world))
        second = ids_of(await like(world, exclude_item_ids=tuple(first[:5])))
    assert second[:15] == first[5:]
    assert not set(first[:5]) & set(second)


async def test_configured_caps_and_minimums_are_for_pages_only() -> None:
    slate = SlateConfig(caps={"genre": 1}, minimums={"popular": 10}, diversity=0.9)
    async with a_world(config=Config(slate=slate)) as world, a_world() as plain:
        assert ids_of(await like(world)) == ids_of(await like(plain))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"item_id": ""}, "item_id"),
        ({"item_id": "x" * 513}, "item_id"),
        ({"page_size": -1}, "page_size"),
        ({"page_size": 201}, "page_size"),
        ({"exclude_item_ids": ("i1", "")}, "exclude_item_ids[1]"),
        ({"exclude_item_ids": ("i",) * 10_001}, "exclude_item_ids"),
        ({"return_attributes": ("a",) * 33}, "return_attributes"),
        ({"request_id": "x" * 129}, "request_id"),
    ],
)
async def test_a_field_out_of_range_is_named(fields: dict[str, object], field: str) -> None:
    async with a_world() as world:
        with pytest.raises(InvalidRequest) as refused:
            await like(world, **{"item_id": "i7", **fields})  # type: ignore[arg-type]
    assert refused.value.status_name == "INVALID_ARGUMENT"
    assert [name for name, _ in refused.value.violations] == [field]


async def test_a_dead_shard_costs_its_items_and_is_named() -> None:
    async with a_world(shards=2) as world:
        world.shards[1].fails = DOWN
        similar = await like(world)
    assert len(similar.items) == 20
    assert [str(one.reason) for one in similar.degradations] == ["SHARD_DOWN"]
    assert similar.coverage.shards_answered == 1


async def test_with_all_shards_dead_popular_items_are_shown_without_the_item() -> None:
    async with a_world(items=60) as world:
        for shard in world.shards:
            shard.fails = DOWN
        similar = await like(world, page_size=200)
    assert "POPULARITY_FALLBACK" in [str(one.reason) for one in similar.degradations]
    assert len(similar.items) == 59
    assert "i7" not in ids_of(similar)


async def test_an_item_of_a_catalogue_of_one_is_like_nothing() -> None:
    async with a_world(items=1, shards=1) as world:
        similar = await like(world, "i0")
    assert similar.items == ()
    assert [str(one.reason) for one in similar.degradations] == ["PAGE_UNDERFILLED"]


async def test_a_late_shard_is_skipped_when_the_budget_ends() -> None:
    serving = ServingConfig(retrieval_budget_ms=100)
    async with a_world(config=Config(serving=serving)) as world:
        world.shards[0].delay_s = 30
        similar = await like(world)
        assert [str(one.reason) for one in similar.degradations] == ["SHARD_TIMEOUT"]
        with pytest.raises(BudgetExceeded):
            await world.recommender.similar(SimilarRequest(item_id="i7"), deadline_ms=1)


async def test_the_funnel_is_told_when_asked_for() -> None:
    async with a_world() as world:
        assert (await like(world)).trace is None
        trace = (await like(world, trace=True)).trace
    assert trace is not None
    assert [one.stage for one in trace.stages] == [
        "profile", "retrieve", "item", "blend", "filter", "describe", "slate", "respond",
    ]  # fmt: skip


async def test_remote_tiers_give_the_same_items() -> None:
    async with a_world(shards=3) as world, distributed(world) as remote:
        for request in (SimilarRequest(item_id="i7"), SimilarRequest(item_id="i99", page_size=50)):
            here, there = await world.recommender.similar(request), await remote.similar(request)
            assert there.items == here.items
            assert there.coverage == here.coverage
            assert there.versions == here.versions
        with pytest.raises(ItemNotFound):
            await remote.similar(SimilarRequest(item_id="nonsense"))
