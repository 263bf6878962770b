# ruff: noqa: N802, ARG002 - gRPC decides the names and signatures of handlers
"""`shortlist.v1.Retrieval`: translate, ask the shard, translate back."""

from __future__ import annotations

from typing import cast

import grpc

from shortlist import wire
from shortlist.admin import AdminServicer, VersionedTier
from shortlist.serving import Server, remaining_ms
from shortlist.tiers import Retriever
from shortlist.v1 import admin_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc

__all__ = ["RetrievalServicer", "add_services"]


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServicer):
    """Serves one shard."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    async def Retrieve(
        self, request: retrieval_pb2.RetrieveRequest, context: grpc.aio.ServicerContext
    ) -> retrieval_pb2.RetrieveResponse:
        query = wire.retrieve_query_from_proto(request, deadline_ms=remaining_ms(context))
        return wire.retrieved_slice_to_proto(await self._retriever.retrieve(query))

    async def Describe(
        self, request: retrieval_pb2.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> retrieval_pb2.DescribeResponse:
        asked = wire.describe_request_from_proto(request)
        return wire.item_cards_to_proto(await self._retriever.describe(*asked))


def add_services(server: Server, retriever: Retriever, versions: VersionedTier) -> None:
    """Everything that a shard's process offers, before `server` starts."""
    registry = cast(grpc.aio.Server, server)  # it takes the place of one
    retrieval_pb2_grpc.add_RetrievalServicer_to_server(RetrievalServicer(retriever), registry)
    admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(versions), registry)
