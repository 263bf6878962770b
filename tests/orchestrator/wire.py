"""Puts a `World` behind real gRPC: its tiers, its orchestrator, or both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from orchestrator.assemble import assemble
from orchestrator.pipeline import Recommender
from orchestrator.servicer import add_services as add_orchestrator
from ranking_svc.servicer import add_services as add_ranking
from retrieval_svc.servicer import add_services as add_retrieval
from shortlist.config import Config
from shortlist.remote import RemoteRanker, RemoteRetriever
from shortlist.serving import Server, ServerOptions
from shortlist.telemetry import CallWatch, Watches
from tests.orchestrator.world import NOW_MS, SCHEMA, FixedVersion, World
from tests.patience import PATIENT


@asynccontextmanager
async def served(
    recommender: Recommender,
    *,
    max_concurrency: int = 256,
    min_concurrency: int = 0,
    watch: CallWatch | None = None,
) -> AsyncIterator[str]:
    """The orchestrator at the address that is yielded. The recommender is the caller's to close."""
    options = ServerOptions(
        drain_s=1.0, max_concurrency=max_concurrency, min_concurrency=min_concurrency
    )
    server = Server(options, watch)
    add_orchestrator(server, recommender)
    async with running(server) as target:
        yield target


@asynccontextmanager
async def distributed(
    world: World, config: Config | None = None, *, watches: Watches | None = None
) -> AsyncIterator[Recommender]:
    """A recommender over the world's tiers, each behind a server of its own."""
    async with AsyncExitStack() as stack:
        shards, rankers = [], []
        for shard in world.shards:
            server = Server(ServerOptions(drain_s=0.1))
            add_retrieval(server, shard, FixedVersion(shard))
            shards.append([RemoteRetriever(await stack.enter_async_context(running(server)))])
        for ranker in world.rankers:
            server = Server(ServerOptions(drain_s=0.1))
            add_ranking(server, ranker, FixedVersion(ranker))
            rankers.append(RemoteRanker(await stack.enter_async_context(running(server))))
        recommender = assemble(
            config or Config(serving=PATIENT),
            shards,
            rankers,
            world.profiles,
            schema=SCHEMA,
            clock=lambda: NOW_MS / 1000,
            watches=watches,
        )
        yield await stack.enter_async_context(recommender)


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[str]:
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop()
