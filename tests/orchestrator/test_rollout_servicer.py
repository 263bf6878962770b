"""The service `Rollout` over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.pipeline import Recommender
from orchestrator.releases import Release
from shortlist.client import AsyncClient
from shortlist.config import ArmConfig, Config, RankingConfig
from shortlist.page import PageRequest
from shortlist.v1 import rollout_pb2, rollout_pb2_grpc
from tests.orchestrator.test_rollout import activate, prepare
from tests.orchestrator.wire import distributed, served
from tests.orchestrator.world import World, a_world
from tests.patience import PATIENT

V2 = rollout_pb2.Release(retrieval_version="v2", ranking_version="r2")


@asynccontextmanager
async def a_rollout(world: World) -> AsyncIterator[tuple[Any, Recommender]]:
    """A stub of the service, and the orchestrator; its tiers are behind gRPC, too."""
    async with (
        distributed(world, Config(serving=PATIENT)) as recommender,
        served(recommender) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        yield rollout_pb2_grpc.RolloutStub(channel), recommender  # type: ignore[no-untyped-call]


async def test_a_refresh_answers_the_pair_that_is_active_now() -> None:
    world = a_world()
    async with a_rollout(world) as (stub, _):
        before = await stub.GetRollout(rollout_pb2.GetRolloutRequest())
        assert before.stable == rollout_pb2.Release(retrieval_version="v1", ranking_version="r1")
        activate(world)
        after = await stub.Refresh(rollout_pb2.RefreshRequest())
        assert after.stable == rollout_pb2.Release(retrieval_version="v2", ranking_version="r2")
        assert (await stub.GetRollout(rollout_pb2.GetRolloutRequest())).stable == after.stable


async def test_a_canary_is_set_watched_and_ended() -> None:
    world = a_world()
    prepare(world)
    async with a_rollout(world) as (stub, recommender):
        request = rollout_pb2.SetCanaryRequest(
            release=V2, share=1.0, guards=rollout_pb2.Guards(max_p99_ratio=3.0)
        )
        begun = (await stub.SetCanary(request)).canary
        assert (begun.running, begun.share, begun.release) == (True, 1.0, V2)
        assert begun.guards == rollout_pb2.Guards(
            min_requests=200,
            max_error_rate_increase=0.01,
            max_degraded_rate_increase=0.02,
            max_p99_ratio=3.0,
            click_rate_alpha=0.05,
        )
        for user in ("ann", "bob", ""):
            page = await recommender.recommend(PageRequest(user_id=user))
            assert page.versions.ranking == "r2"
        seen = (await stub.GetRollout(rollout_pb2.GetRolloutRequest())).canary
        assert (seen.figures.requests, seen.figures.pages, seen.others.requests) == (3, 3, 0)
        assert 0 < seen.figures.p50_ms <= seen.figures.p99_ms
        ended = (await stub.SetCanary(rollout_pb2.SetCanaryRequest())).canary
        assert (ended.running, ended.share, ended.figures.requests) == (False, 0.0, 3)
        assert ended.rolled_back_because == ""
        page = await recommender.recommend(PageRequest(user_id="ann"))
        assert page.versions.ranking == "r1"


async def test_what_was_not_prepared_is_a_failed_precondition_naming_the_replica() -> None:
    world = a_world()
    for shard in world.shards:
        shard.also = ("v2",)
    async with a_rollout(world) as (stub, _):
        for call in (
            stub.SetCanary(rollout_pb2.SetCanaryRequest(release=V2, share=0.5)),
            stub.SetShadow(rollout_pb2.SetShadowRequest(release=V2, share=0.5)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "ranking version r2" in str(failed.value.details())
        state = await stub.GetRollout(rollout_pb2.GetRolloutRequest())
        assert not state.HasField("canary")
        assert not state.HasField("shadow")


async def test_a_share_beyond_1_is_an_invalid_argument() -> None:
    world = a_world()
    async with a_rollout(world) as (stub, _):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.SetCanary(rollout_pb2.SetCanaryRequest(release=V2, share=1.5))
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_shadow_reports_how_its_pages_differ() -> None:
    world = a_world()
    prepare(world)
    async with a_rollout(world) as (stub, recommender):
        await stub.SetShadow(rollout_pb2.SetShadowRequest(release=V2, share=1.0))
        page = await recommender.recommend(PageRequest(user_id="ann"))
        assert page.versions.ranking == "r1"
        await recommender.rollout.shadow.flush()
        seen = (await stub.GetRollout(rollout_pb2.GetRolloutRequest())).shadow
        assert (seen.requests, seen.failed, seen.skipped) == (1, 0, 0)
        assert (seen.overlap, seen.same_first) == (1.0, 1.0)
        assert seen.p50_ratio > 0
        assert seen.p99_ratio > 0
        ended = (await stub.SetShadow(rollout_pb2.SetShadowRequest())).shadow
        assert (ended.share, ended.requests, ended.release) == (0.0, 1, V2)


async def test_clients_see_arm_and_side_of_a_page() -> None:
    config = Config(ranking=RankingConfig(arms={"wide": ArmConfig(share=1.0, diversity=0.4)}))
    async with a_world(config=config) as world, served(world.recommender) as target:
        prepare(world)
        rollout = world.recommender.rollout
        canary = await rollout.set_canary(
            Release(retrieval="v2", ranking="r2"), 1.0, rollout.default_guards
        )
        assert canary is not None
        async with AsyncClient(target) as client:
            page = await client.recommend(PageRequest(user_id="ann"))
    assert (page.versions.arm, page.versions.release) == ("wide", canary.label(canary=True))
    assert (page.versions.retrieval, page.versions.ranking) == ("v2", "r2")
