"""A shard behind real gRPC, and bare stubs to it: what a client sees, not what ours makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from retrieval_svc.servicer import add_services
from retrieval_svc.shard import LocalRetriever
from shortlist.artifacts import ArtifactStore
from shortlist.serving import Server, ServerOptions
from shortlist.v1 import admin_pb2_grpc, retrieval_pb2, retrieval_pb2_grpc


@dataclass(frozen=True, kw_only=True)
class Stubs:
    """Of one shard."""

    retrieval: Any
    admin: Any


@asynccontextmanager
async def serving(
    store: ArtifactStore, shard: int = 0, version: str | None = None
) -> AsyncIterator[Stubs]:
    """Serve a shard inside the block."""
    retriever = LocalRetriever.open(store, shard, version)
    server = Server(ServerOptions(drain_s=0))
    add_services(server, retriever, retriever.versions)
    target = f"127.0.0.1:{await server.start()}"
    async with grpc.aio.insecure_channel(target) as channel:
        yield Stubs(
            retrieval=retrieval_pb2_grpc.RetrievalStub(channel),
            admin=admin_pb2_grpc.AdminStub(channel),
        )
    await server.stop()
    await retriever.close()


def popular_request(version: str = "", **changes: Any) -> retrieval_pb2.RetrieveRequest:
    """Ask for the five most popular items."""
    fields: dict[str, Any] = {
        "index_version": version,
        "user": retrieval_pb2.UserState(),
        "quotas": [retrieval_pb2.SourceQuota(source="popular", k=5)],
    }
    return retrieval_pb2.RetrieveRequest(**(fields | changes))
