"""A `World` whose replicas are behind real gRPC, some of them at ports where nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from orchestrator.assemble import assemble
from ranking_svc.servicer import add_services as add_ranking
from retrieval_svc.servicer import add_services as add_retrieval
from shortlist.config import Config
from shortlist.remote import RemoteRanker, RemoteRetriever
from shortlist.serving import Server, ServerOptions
from tests.orchestrator.wire import running, served
from tests.orchestrator.world import NOW_MS, SCHEMA, FixedVersion, World

__all__ = ["BUDGETS", "USERS", "black_hole", "free_port", "replicated"]

USERS = ("ann", "bob")
# A stage may lose its budget on a busy machine, and a page has to come all the same.
BUDGETS = Config.model_validate(
    {
        "serving": {
            "retrieval_budget_ms": 1000,
            "ranking_budget_ms": 4000,
            "describe_budget_ms": 1000,
            "request_budget_ms": 8000,
        }
    }
)


@asynccontextmanager
async def replicated(
    world: World, *, replicas: int, elsewhere: str = "", config: Config = BUDGETS
) -> AsyncIterator[str]:
    """The address of an orchestrator over the world's tiers, each in a server of its own.

    `elsewhere` is one more replica of the first shard, the first in its list.
    """
    async with AsyncExitStack() as stack:
        groups: list[list[str]] = []
        for at, shard in enumerate(world.shards):
            server = Server(ServerOptions(drain_s=0.1))
            add_retrieval(server, shard, FixedVersion(shard))
            if at % replicas == 0:
                groups.append([])
            groups[-1].append(await stack.enter_async_context(running(server)))
        if elsewhere:
            groups[0].insert(0, elsewhere)
        rankers = []
        for ranker in world.rankers:
            server = Server(ServerOptions(drain_s=0.1))
            add_ranking(server, ranker, FixedVersion(ranker))
            rankers.append(await stack.enter_async_context(running(server)))
        recommender = assemble(
            config,
            [[RemoteRetriever(target) for target in group] for group in groups],
            [RemoteRanker(target) for target in rankers],
            world.profiles,
            schema=SCHEMA,
            clock=lambda: NOW_MS / 1000,
        )
        await stack.enter_async_context(recommender)
        yield await stack.enter_async_context(served(recommender))


@asynccontextmanager
async def black_hole(kind: str) -> AsyncIterator[str]:
    """An address that takes time and gives nothing.

    `full` completes no connection: the queue of those that wait to be accepted is full. `mute`
    accepts, reads, and never says a word, not even in HTTP/2's handshake.
    """
    if kind == "mute":
        async with _mute() as target:
            yield target
        return
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(socket.socket())
        port.bind(("127.0.0.1", 0))
        port.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(port.getsockname())
        yield f"127.0.0.1:{port.getsockname()[1]}"


@asynccontextmanager
async def _mute() -> AsyncIterator[str]:
    talkers: list[asyncio.StreamWriter] = []

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talkers.append(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass

    server = await asyncio.start_server(read, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in talkers:
            writer.close()
        closed = (writer.wait_closed() for writer in talkers)
        await asyncio.gather(*closed, return_exceptions=True)


def free_port() -> int:
    """Of this machine, at which nobody listens."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return int(port.getsockname()[1])
