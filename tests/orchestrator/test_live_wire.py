"""Events and Catalog over real gRPC, through the typed clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from shortlist.client import AsyncClient, Client
from shortlist.errors import BudgetExceeded, InvalidRequest, TierUnavailable
from shortlist.feed import EventBatch, RecordedEvent
from shortlist.live import CatalogItem
from shortlist.page import PageRequest
from shortlist.serving import Overloaded
from shortlist.v1 import catalog_pb2, catalog_pb2_grpc, common_pb2, events_pb2, events_pb2_grpc
from tests.orchestrator.live import BreakableStore, a_batch, a_live_world, an_event
from tests.orchestrator.wire import served
from tests.orchestrator.world import NOW_MS, World, item_ids

Served = tuple[World, BreakableStore, str]

EVERY_FIELD = RecordedEvent(
    event_id="e1",
    user_id="ann",
    item_id="i50",
    event_type="rating",
    time_ms=NOW_MS - 5,
    value=0.0,
    context={"device": "phone", "tags": ("a", "b"), "age": 3.0},
)
ITEM = CatalogItem(
    id="i300",
    title="A title",
    attributes={"genre": ("g1", "g2"), "price": 2.5, "maker": "m"},
    published_ms=5,
    expires_ms=NOW_MS + 1,
    hidden=True,
)


@pytest.fixture
async def system() -> AsyncIterator[Served]:
    async with a_live_world() as (world, store), served(world.recommender) as target:
        yield world, store, target


async def test_every_field_of_an_event_survives_the_wire(system: Served) -> None:
    world, store, target = system
    page = await world.page("ann")
    events = [
        EVERY_FIELD,
        an_event("ann", page.items[0].id, attribution_token=page.attribution_token),
        EVERY_FIELD,
        an_event("", "i1"),
        an_event(time_ms=NOW_MS + 1),
    ]
    async with AsyncClient(target) as client:
        report = await client.record_events(events)
    assert (report.accepted, report.duplicates, report.clamped) == (3, 1, (4,))
    assert [(one.index, one.field) for one in report.errors] == [(3, "events[3].user_id")]
    assert report.log_sequence == await store.head() == 3
    first, second, _ = [one.event async for one in store.events(0, 3)]
    assert (first.event_type, first.time_ms, first.value) == ("rating", NOW_MS - 5, 0.0)
    assert (first.weight, first.context) == (0.0, EVERY_FIELD.context)
    assert second.attribution["request_id"] == page.request_id
    assert second.value is None


async def test_items_survive_the_wire_in_both_directions(system: Served) -> None:
    _, store, target = system
    async with AsyncClient(target) as client:
        report = await client.upsert_items([ITEM, CatalogItem(id="")], wait_for_index=True)
        assert (report.accepted, [one.field for one in report.errors]) == (1, ["items[1].id"])
        found = await client.get_items(["i300", "nobody"])
        assert (found.items, found.missing_ids) == ((ITEM,), ("nobody",))
        listed = await client.list_items(page_size=1)
        assert (listed.items, listed.next_page_token) == ((ITEM,), "")
        deleted = await client.delete_items(["i300", ""], wait_for_index=True)
        assert (deleted.accepted, [one.field for one in deleted.errors]) == (1, ["ids[1]"])
        assert deleted.sequence > report.sequence
        forgotten = await client.delete_users(["ann"])
        assert forgotten.sequence == await store.head()
        assert (await client.recommend(PageRequest(user_id="ann"))).cold_start


async def test_the_blocking_client_does_the_same(system: Served) -> None:
    _, store, target = system

    def talk() -> None:
        with Client(target) as client:
            assert client.record_events([EVERY_FIELD]).accepted == 1
            batches = [a_batch(n, an_event("bob", f"i{n}")) for n in range(1, 4)]
            answers = list(client.stream_events(batches))
            assert answers[-1].acknowledged_sequence == 3
            assert sum(one.accepted for one in answers) == 3
            assert client.upsert_items([ITEM], wait_for_index=True).accepted == 1
            assert client.get_items(["i300"]).items == (ITEM,)
            assert client.list_items().items == (ITEM,)
            assert client.delete_items(["i300"]).accepted == 1
            assert client.delete_users(["bob"]).accepted == 1
            with pytest.raises(InvalidRequest):
                client.record_events([])
            with pytest.raises(InvalidRequest):
                list(client.stream_events([a_batch(0, EVERY_FIELD)]))

    await asyncio.to_thread(talk)
    assert await store.is_forgotten(["bob"]) == [True]


async def test_a_stream_goes_on_while_its_client_reads_what_was_acknowledged(
    system: Served,
) -> None:
    """Each batch is sent only when the one before is acknowledged, and on a page."""
    world, _, target = system
    acknowledged = asyncio.Queue[int]()

    async def one_by_one() -> AsyncIterator[EventBatch]:
        for number, item in enumerate(("i60", "i61", "i62"), start=1):
            yield a_batch(number, an_event("carl", item))
            assert await acknowledged.get() == number
            assert item not in item_ids(await world.page("carl", page_size=200))

    async with AsyncClient(target) as client:
        async for one in client.stream_events(one_by_one()):
            await acknowledged.put(one.acknowledged_sequence)


async def test_errors_of_the_store_are_the_clients_errors(system: Served) -> None:
    _, store, target = system
    async with AsyncClient(target) as client:
        store.full = True
        with pytest.raises(Overloaded, match="the disk is full"):
            await client.record_events([EVERY_FIELD])
        store.full, store.down = False, True
        with pytest.raises(TierUnavailable):
            await client.record_events([EVERY_FIELD])
        stream = client.stream_events(_once(a_batch(1, EVERY_FIELD)))
        with pytest.raises(TierUnavailable):
            await anext(stream)
        store.down = False
        assert (await client.record_events([EVERY_FIELD])).duplicates == 0


async def test_waiting_for_a_shard_ends_inside_the_clients_deadline(system: Served) -> None:
    world, _, target = system
    world.shards[0].log = None
    async with AsyncClient(target) as client:
        with pytest.raises(BudgetExceeded, match="durable, as number 1"):
            await client.delete_items(["i1"], wait_for_index=True, timeout_s=0.5)


async def test_an_attribute_without_a_value_refuses_its_event_or_item_only(
    system: Served,
) -> None:
    _, _, target = system
    nothing = common_pb2.AttributeValue()
    wrong = events_pb2.RecordedEvent(
        event_id="e2",
        user_id="ann",
        event=common_pb2.UserEvent(item_id="i1"),
        context={"device": nothing},
    )
    right = events_pb2.RecordedEvent(
        event_id="e3", user_id="ann", event=common_pb2.UserEvent(item_id="i1")
    )
    async with grpc.aio.insecure_channel(target) as channel:
        events: Any = events_pb2_grpc.EventsStub(channel)
        catalog: Any = catalog_pb2_grpc.CatalogStub(channel)
        report = await events.RecordEvents(events_pb2.RecordEventsRequest(events=[wrong, right]))
        answer = await catalog.UpsertItems(
            catalog_pb2.UpsertItemsRequest(
                items=[
                    catalog_pb2.CatalogItem(id="a", attributes={"price": nothing}),
                    catalog_pb2.CatalogItem(id="b"),
                ]
            )
        )
    assert report.accepted == 1
    assert [(one.index, one.field) for one in report.errors] == [(0, 'events[0].context["device"]')]
    assert answer.accepted == 1
    assert [one.field for one in answer.errors] == ['items[0].attributes["price"]']


async def _once(batch: EventBatch) -> AsyncIterator[EventBatch]:
    yield batch
