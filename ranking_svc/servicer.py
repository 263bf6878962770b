# ruff: noqa: N802 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Ranking`: translate, ask the ranker, translate back."""

from __future__ import annotations

from typing import cast

import grpc

from shortlist import wire
from shortlist.admin import AdminServicer, VersionedTier
from shortlist.serving import Server, remaining_ms
from shortlist.tiers import Ranker
from shortlist.v1 import admin_pb2_grpc, ranking_pb2, ranking_pb2_grpc

__all__ = ["RankingServicer", "add_services"]


class RankingServicer(ranking_pb2_grpc.RankingServicer):
    """Serves one ranker."""

    def __init__(self, ranker: Ranker) -> None:
        self._ranker = ranker

    async def Score(
        self, request: ranking_pb2.ScoreRequest, context: grpc.aio.ServicerContext
    ) -> ranking_pb2.ScoreResponse:
        query = wire.score_query_from_proto(request, deadline_ms=remaining_ms(context))
        return wire.scores_to_proto(await self._ranker.score(query))


def add_services(server: Server, ranker: Ranker, versions: VersionedTier) -> None:
    """Everything that a ranker's process offers, before `server` starts."""
    registry = cast(grpc.aio.Server, server)  # it takes the place of one
    ranking_pb2_grpc.add_RankingServicer_to_server(RankingServicer(ranker), registry)
    admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(versions), registry)
