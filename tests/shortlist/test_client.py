"""The typed client against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from shortlist.client import AsyncClient, Client
from shortlist.config import ArmConfig, Config, RankingConfig
from shortlist.errors import (
    BudgetExceeded,
    CoverageTooLow,
    InvalidRequest,
    ItemNotFound,
    TierUnavailable,
    VersionNotServed,
)
from shortlist.page import Page, PageRequest, RankRequest, RecentEvent, SimilarRequest
from tests.orchestrator.wire import served
from tests.orchestrator.world import NOW_MS, World, a_world

EVERY_FIELD = PageRequest(
    user_id="ann",
    page_size=13,
    exclude_item_ids=("i1", "nonsense"),
    exclude_seen=False,
    recent_events=(
        RecentEvent(item_id="i3", event_type="rating", time_ms=NOW_MS, value=2.5),
        RecentEvent(item_id="i4"),
    ),
    user_attributes={"age": 41.5, "country": "is", "tags": ("a", "b")},
    context={"device": "tv"},
    diversity=0.25,
    caps={"genre": 4},
    filter='NOT genre = "g4"',
    blocked={"genre": ("g3", "g9")},
    sources=("popular", "two_tower"),
    quotas={"popular": 77},
    time_ms=NOW_MS,
    return_attributes=("genre",),
    min_coverage=0.5,
    trace=True,
    request_id="req-1",
    session_id="s",
    surface="home",
    arm="trees",
)
CONFIG = Config(ranking=RankingConfig(arms={"trees": ArmConfig(ranker="upside_down")}))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world(config=CONFIG) as world:
        yield world


@pytest.fixture
async def target(world: World) -> AsyncIterator[str]:
    async with served(world.recommender) as target:
        yield target


async def test_every_field_of_a_request_and_an_answer_survives_the_wire(
    world: World, target: str
) -> None:
    expected = await world.recommender.recommend(EVERY_FIELD)
    async with AsyncClient(target) as client:
        page = await client.recommend(EVERY_FIELD)
    assert world.shards[0].queries[-1].user.attributes == {
        "age": 41.5,
        "country": "is",
        "tags": ("a", "b"),
    }
    sent = world.shards[0].queries[-1].filter
    assert sent == 'NOT genre = "g4" AND UNLESS genre IN ("g3", "g9")'
    assert page.items == expected.items
    assert page.coverage == expected.coverage
    assert page.degradations == expected.degradations
    assert page.versions == expected.versions
    assert (page.versions.ranker, page.versions.arm) == ("upside_down", "trees")
    assert page.attribution_token == expected.attribution_token
    assert page.unknown_items == expected.unknown_items == 1
    assert page.request_id == "req-1"
    assert page.trace is not None
    assert expected.trace is not None
    for left, right in zip(page.trace.stages, expected.trace.stages, strict=True):
        assert (left.stage, left.items_in, left.items_out) == (
            right.stage,
            right.items_in,
            right.items_out,
        )
        assert left.dropped == right.dropped
        assert left.by_source == right.by_source


async def test_degradations_arrive_with_their_reason(world: World, target: str) -> None:
    world.shards[0].fails = TierUnavailable("down")
    async with AsyncClient(target) as client:
        page = await client.recommend(PageRequest())
    assert [(one.reason, one.stage, one.detail) for one in page.degradations] == [
        ("SHARD_DOWN", "shard/0", "down")
    ]
    assert page.trace is None


async def test_errors_are_the_servers_errors_with_their_fields(world: World, target: str) -> None:
    async with AsyncClient(target) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.recommend(PageRequest(page_size=-1, sources=("psychic",)))
        assert [field for field, _ in refused.value.violations] == ["page_size", "sources.only[0]"]
        with pytest.raises(InvalidRequest, match="at character 2"):
            await client.recommend(PageRequest(filter="x"))
        token = (await client.recommend(PageRequest())).next_page_token
        for shard in world.shards:
            shard.version = "v2"
        with pytest.raises(VersionNotServed, match="start again"):
            await client.recommend(PageRequest(page_token=token))
        world.shards[0].fails = TierUnavailable("down")
        with pytest.raises(TierUnavailable, match="min_coverage"):
            await client.recommend(PageRequest(min_coverage=1.0))
        assert issubclass(CoverageTooLow, Exception)


async def test_a_deadline_that_passes_is_a_budget_exceeded(world: World, target: str) -> None:
    for shard in world.shards:
        shard.delay_s = 30
    async with AsyncClient(target, timeout_s=0.001) as client:
        with pytest.raises(BudgetExceeded):
            await client.recommend(PageRequest())


async def test_nobody_at_the_address_is_an_unavailable_tier() -> None:
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(TierUnavailable):
            await client.recommend(PageRequest())


async def test_a_batch_has_a_page_or_an_error_for_each_request(target: str) -> None:
    async with AsyncClient(target) as client:
        page, error = await client.recommend_batch(
            [PageRequest(user_id="ann"), PageRequest(page_size=-1)]
        )
        assert isinstance(page, Page)
        assert len(page.items) == 20
        assert isinstance(error, InvalidRequest)
        assert "page_size" in str(error)
        with pytest.raises(InvalidRequest, match="requests"):
            await client.recommend_batch([])


async def test_ranking_orders_given_items(target: str) -> None:
    request = RankRequest(
        item_ids=("i1", "i2", "nonsense"), user_id="ann", context={"device": "tv"}, trace=True
    )
    async with AsyncClient(target) as client:
        ranking = await client.rank(request)
    assert sorted(item.id for item in ranking.items) == ["i1", "i2"]
    assert ranking.unknown_items == 1
    assert ranking.trace is not None


async def test_similar_items_survive_the_wire(world: World, target: str) -> None:
    request = SimilarRequest(
        item_id="i7",
        page_size=5,
        exclude_item_ids=("i8",),
        return_attributes=("genre",),
        trace=True,
        request_id="req-2",
    )
    expected = await world.recommender.similar(request)
    async with AsyncClient(target) as client:
        similar = await client.similar(request)
        assert replace(similar, trace=None) == replace(expected, trace=None)
        assert similar.trace is not None
        assert (await client.similar(replace(request, trace=False))).trace is None


async def test_an_item_that_does_not_exist_keeps_its_field_over_the_wire(target: str) -> None:
    def ask() -> ItemNotFound:
        with Client(target) as client, pytest.raises(ItemNotFound, match="nonsense") as caught:
            client.similar(SimilarRequest(item_id="nonsense"))
        return caught.value

    async with AsyncClient(target) as client:
        with pytest.raises(ItemNotFound) as caught:
            await client.similar(SimilarRequest(item_id="nonsense"))
        with pytest.raises(InvalidRequest, match="page_size"):
            await client.similar(SimilarRequest(item_id="i7", page_size=-1))
    assert caught.value.field == (await asyncio.to_thread(ask)).field == "item_id"


async def test_the_synchronous_client_gives_the_same(target: str) -> None:
    def ask() -> tuple[Page, str, list[str]]:
        with Client(target) as client:
            page = client.recommend(EVERY_FIELD)
            try:
                client.recommend(PageRequest(page_size=-1))
            except InvalidRequest as error:
                field = error.violations[0][0]
            batch = client.recommend_batch([PageRequest(user_id="ann")])
            ranking = client.rank(RankRequest(item_ids=("i1",), arm="trees"))
            assert ranking.versions.arm == "trees"
            assert client.similar(SimilarRequest(item_id="i1")).items
            assert isinstance(batch[0], Page)
            return page, field, [item.id for item in ranking.items]

    page, field, ranked = await asyncio.to_thread(ask)
    async with AsyncClient(target) as client:
        assert page.items == (await client.recommend(EVERY_FIELD)).items
    assert field == "page_size"
    assert ranked == ["i1"]
