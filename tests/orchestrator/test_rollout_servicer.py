"""The service `Rollout` over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from shortlist.v1 import rollout_pb2, rollout_pb2_grpc
from tests.orchestrator.test_rollout import activate
from tests.orchestrator.wire import distributed, served
from tests.orchestrator.world import World, a_world


@asynccontextmanager
async def a_rollout(world: World) -> AsyncIterator[Any]:
    """A stub of the service of an orchestrator whose tiers are behind gRPC, too."""
    async with (
        distributed(world) as recommender,
        served(recommender) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        yield rollout_pb2_grpc.RolloutStub(channel)  # type: ignore[no-untyped-call]


async def test_a_refresh_answers_the_pair_that_is_active_now() -> None:
    world = a_world()
    async with a_rollout(world) as stub:
        before = await stub.GetRollout(rollout_pb2.GetRolloutRequest())
        assert before.stable == rollout_pb2.Release(retrieval_version="v1", ranking_version="r1")
        activate(world)
        after = await stub.Refresh(rollout_pb2.RefreshRequest())
        assert after.stable == rollout_pb2.Release(retrieval_version="v2", ranking_version="r2")
        assert (await stub.GetRollout(rollout_pb2.GetRolloutRequest())).stable == after.stable
