"""Fault 36: an unknown user gets a cold-start page; unknown items are skipped and counted.

Events are another matter: one on an item that nobody knows yet is kept, as the item may come later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shortlist.client import AsyncClient
from shortlist.errors import ItemNotFound
from shortlist.page import PageRequest, RankRequest, RecentEvent, SimilarRequest
from tests.orchestrator.live import a_live_world, an_event
from tests.orchestrator.wire import distributed, served
from tests.orchestrator.world import a_world


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    async with (
        a_world(shards=3) as world,
        distributed(world) as recommender,
        served(recommender) as target,
        AsyncClient(target) as client,
    ):
        yield client


async def test_an_unknown_user_gets_a_full_cold_start_page(client: AsyncClient) -> None:
    page = await client.recommend(PageRequest(user_id="nobody-has-seen-me"))
    assert page.cold_start
    assert len(page.items) == 20
    assert page.degradations == ()
    assert not (await client.recommend(PageRequest(user_id="ann"))).cold_start


async def test_unknown_items_of_a_request_are_skipped_and_counted_once(client: AsyncClient) -> None:
    page = await client.recommend(
        PageRequest(
            user_id="ann",
            exclude_item_ids=("i1", "no-such-item", "nor-this"),
            recent_events=(RecentEvent(item_id="no-such-item"), RecentEvent(item_id="i7")),
        )
    )
    assert page.unknown_items == 2
    assert len(page.items) == 20
    assert page.degradations == ()


async def test_a_stranger_who_only_touched_unknown_items_still_gets_a_page(
    client: AsyncClient,
) -> None:
    page = await client.recommend(PageRequest(recent_events=(RecentEvent(item_id="no-such-item"),)))
    assert len(page.items) == 20
    assert page.unknown_items == 1


async def test_unknown_items_are_left_out_of_a_ranking_and_counted(client: AsyncClient) -> None:
    ranking = await client.rank(RankRequest(item_ids=("i1", "no-such-item", "i2")))
    assert sorted(item.id for item in ranking.items) == ["i1", "i2"]
    assert ranking.unknown_items == 1


async def test_nothing_is_like_an_unknown_item(client: AsyncClient) -> None:
    with pytest.raises(ItemNotFound, match="'no-such-item'") as refused:
        await client.similar(SimilarRequest(item_id="no-such-item"))
    assert refused.value.field == "item_id"
    excluded = SimilarRequest(item_id="i1", exclude_item_ids=("no-such-item",))
    assert len((await client.similar(excluded)).items) == 20


async def test_a_ranking_of_unknown_items_only_is_empty(client: AsyncClient) -> None:
    ranking = await client.rank(RankRequest(item_ids=("no-such-item",)))
    assert ranking.items == ()
    assert ranking.unknown_items == 1


async def test_fault_36_events_of_strangers_on_unknown_items_are_kept_and_harm_no_page() -> None:
    async with a_live_world() as (world, store):
        report = await world.recommender.record_events(
            [an_event("nobody-yet", "not-yet"), an_event("nobody-yet", "i7")]
        )
        page = await world.recommender.recommend(PageRequest(user_id="nobody-yet"))
        profile = await store.get("nobody-yet")
    assert (report.accepted, report.errors) == (2, ())
    assert profile is not None
    assert len(profile.history) == 2
    assert not page.cold_start
    assert len(page.items) == 20
    assert "i7" not in [item.id for item in page.items]
    assert page.unknown_items == 0  # only ids of the request are counted


async def test_fault_36_unknown_items_and_users_may_be_deleted_and_read() -> None:
    async with a_live_world() as (world, _):
        deleted = await world.recommender.delete_items(["no-such-item"], wait_for_index=True)
        forgotten = await world.recommender.delete_users(["nobody"])
        found = await world.recommender.get_items(["no-such-item"])
    assert (deleted.accepted, forgotten.accepted) == (1, 1)
    assert found.missing_ids == ("no-such-item",)
