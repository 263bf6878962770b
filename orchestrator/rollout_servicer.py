# ruff: noqa: N802, ARG002 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Rollout`: translate, hand over, translate back."""

from __future__ import annotations

import grpc

from orchestrator.releases import Release
from orchestrator.rollout import Rollout
from shortlist.errors import NotImplementedYet
from shortlist.v1 import rollout_pb2, rollout_pb2_grpc

__all__ = ["RolloutServicer"]


class RolloutServicer(rollout_pb2_grpc.RolloutServicer):
    """Says and changes which versions one orchestrator serves to whom."""

    def __init__(self, rollout: Rollout) -> None:
        self._rollout = rollout

    async def GetRollout(
        self, request: rollout_pb2.GetRolloutRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.GetRolloutResponse:
        return rollout_pb2.GetRolloutResponse(stable=_release_to_proto(self._rollout.stable))

    async def Refresh(
        self, request: rollout_pb2.RefreshRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.RefreshResponse:
        stable = await self._rollout.refresh()
        return rollout_pb2.RefreshResponse(stable=_release_to_proto(stable))

    async def SetCanary(
        self, request: rollout_pb2.SetCanaryRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.SetCanaryResponse:
        raise NotImplementedYet("canaries")

    async def SetShadow(
        self, request: rollout_pb2.SetShadowRequest, context: grpc.aio.ServicerContext
    ) -> rollout_pb2.SetShadowResponse:
        raise NotImplementedYet("shadows")


def _release_to_proto(release: Release) -> rollout_pb2.Release:
    return rollout_pb2.Release(retrieval_version=release.retrieval, ranking_version=release.ranking)
