"""The public service over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from orchestrator.servicer import page_request_from_proto
from shortlist.client import AsyncClient
from shortlist.errors import InvalidRequest, TierUnavailable
from shortlist.page import PageRequest
from shortlist.remote import RemoteRetriever
from shortlist.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    common_pb2,
    events_pb2,
    events_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
)
from tests.orchestrator.wire import distributed, served
from tests.orchestrator.world import World, a_world, item_ids, reasons


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with a_world() as world:
        yield world


@pytest.fixture
async def channel(world: World) -> AsyncIterator[grpc.aio.Channel]:
    async with served(world.recommender) as target, grpc.aio.insecure_channel(target) as channel:
        yield channel


def fields_at_fault(error: grpc.aio.AioRpcError) -> list[str]:
    status: Any = rpc_status.from_call(error)  # type: ignore[arg-type]
    bad = error_details_pb2.BadRequest()
    for detail in status.details:
        if detail.Unpack(bad):
            return [one.field for one in bad.field_violations]
    return []


def test_unset_fields_have_the_defaults_of_the_contract() -> None:
    assert page_request_from_proto(orchestrator_pb2.RecommendRequest()) == PageRequest()


def test_fields_set_to_their_zero_are_told_from_unset_ones() -> None:
    message = orchestrator_pb2.RecommendRequest(
        exclude_seen=False,
        diversity=orchestrator_pb2.DiversityOptions(strength=0.0),
        user=common_pb2.User(recent_events=[common_pb2.UserEvent(item_id="a", value=0.0)]),
    )
    request = page_request_from_proto(message)
    assert request.exclude_seen is False
    assert request.diversity == 0.0
    assert request.recent_events[0].value == 0.0


async def test_every_field_at_fault_is_named_in_the_status_details(
    channel: grpc.aio.Channel,
) -> None:
    stub: Any = orchestrator_pb2_grpc.OrchestratorStub(channel)
    request = orchestrator_pb2.RecommendRequest(page_size=-1, time_ms=-1, min_coverage=2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Recommend(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fields_at_fault(refused.value) == ["time_ms", "page_size", "min_coverage"]


async def test_an_attribute_without_a_value_is_named(channel: grpc.aio.Channel) -> None:
    stub: Any = orchestrator_pb2_grpc.OrchestratorStub(channel)
    request = orchestrator_pb2.RecommendRequest(context={"device": common_pb2.AttributeValue()})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Recommend(request)
    assert fields_at_fault(refused.value) == ['context["device"]']


async def test_an_item_that_does_not_exist_is_not_found_with_its_field(
    channel: grpc.aio.Channel,
) -> None:
    stub: Any = orchestrator_pb2_grpc.OrchestratorStub(channel)
    assert len((await stub.Similar(orchestrator_pb2.SimilarRequest(item_id="i7"))).items) == 20
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Similar(orchestrator_pb2.SimilarRequest(item_id="nonsense"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert fields_at_fault(refused.value) == ["item_id"]


@pytest.mark.parametrize(
    ("stub", "method", "request_"),
    [
        (events_pb2_grpc.EventsStub, "RecordEvents", events_pb2.RecordEventsRequest()),
        (catalog_pb2_grpc.CatalogStub, "GetItems", catalog_pb2.GetItemsRequest(ids=["i1"])),
        (
            admin_pb2_grpc.AdminStub,
            "ActivateVersion",
            admin_pb2.ActivateVersionRequest(version="v2"),
        ),
    ],
)
async def test_what_needs_a_store_or_a_later_version_is_unimplemented(
    channel: grpc.aio.Channel, stub: Any, method: str, request_: Any
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(stub(channel), method)(request_)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_admin_service_says_what_the_shards_serve(channel: grpc.aio.Channel) -> None:
    stub: Any = admin_pb2_grpc.AdminStub(channel)
    status = await stub.GetStatus(admin_pb2.GetStatusRequest())
    assert status.tier == "orchestrator"
    assert [(one.version, one.active, one.items_total) for one in status.versions] == [
        ("v1", True, 300)
    ]


async def test_a_client_deadline_is_the_budget(world: World) -> None:
    world.shards[1].delay_s = 30
    async with served(world.recommender) as target, AsyncClient(target) as client:
        page = await client.recommend(PageRequest(user_id="ann"), timeout_s=0.5)
    assert reasons(page) == ["SHARD_TIMEOUT"]


async def test_local_and_remote_tiers_give_the_same_page() -> None:
    async with a_world(shards=3) as world, distributed(world) as remote:
        for request in (
            PageRequest(user_id="ann", page_size=50, return_attributes=("genre",)),
            PageRequest(user_id="stranger", diversity=0.5, caps={"genre": 3}, page_size=10),
            PageRequest(exclude_item_ids=("i1", "nonsense")),
        ):
            here = await world.recommender.recommend(replace(request, request_id="same"))
            there = await remote.recommend(replace(request, request_id="same"))
            assert there.items == here.items
            assert there.coverage == here.coverage
            assert there.versions == here.versions
            assert there.unknown_items == here.unknown_items
            assert there.degradations == here.degradations == ()
            assert there.attribution_token == here.attribution_token


async def test_remote_tiers_that_fail_are_missing_and_named() -> None:
    async with a_world(shards=2) as world, distributed(world) as remote:
        world.shards[0].fails = TierUnavailable("overload")
        world.rankers[0].fails = ZeroDivisionError("secret")
        page = await remote.recommend(PageRequest(user_id="ann"))
    assert reasons(page) == ["SHARD_DOWN", "RANKER_FALLBACK"]
    assert page.coverage.shards_answered == 1
    assert len(page.items) == 20
    assert not any("secret" in one.detail for one in page.degradations)


async def test_a_port_that_refuses_is_a_shard_down() -> None:
    async with a_world(shards=1) as world:
        retriever = RemoteRetriever("127.0.0.1:1")
        with pytest.raises(TierUnavailable):
            await retriever.describe(world.catalogue.keys[:1], (), None)
        await retriever.close()


async def test_pages_over_grpc_are_the_pages_of_the_recommender(world: World) -> None:
    async with served(world.recommender) as target, AsyncClient(target) as client:
        page = await client.recommend(PageRequest(user_id="ann"))
        following = await client.recommend(
            PageRequest(user_id="ann", page_token=page.next_page_token)
        )
        with pytest.raises(InvalidRequest, match="filter: at character 2"):
            await client.recommend(PageRequest(filter="x"))
    assert item_ids(page) == item_ids(await world.page("ann"))
    assert following.items[0].rank == 20
