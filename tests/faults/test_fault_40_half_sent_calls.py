"""Fault 40: callers that begin a call and never finish sending it take nobody's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import grpc
import numpy as np

from shortlist.client import AsyncClient
from shortlist.page import PageRequest
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world

PLACES = 4
HALF_SENT = 100
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4
METHOD = "/shortlist.v1.Orchestrator/Recommend"


async def test_fault_40_half_sent_calls_leave_all_places_to_the_others(
    record_fault: Callable[..., None],
) -> None:
    async with (
        a_world() as world,
        served(world.recommender, max_concurrency=PLACES) as target,
        AsyncClient(target, retries=False) as client,
    ):
        before = await _pages(client)
        async with grpc.aio.insecure_channel(target) as channel, _Dribble(target):
            # Headers are sent, the message never is.
            calls = [channel.stream_unary(METHOD)(_nothing()) for _ in range(HALF_SENT)]
            await asyncio.gather(*(call.wait_for_connection() for call in calls))
            during = await _pages(client)
            assert not any(call.done() for call in calls)
            for call in calls:
                call.cancel()
        after = await _pages(client)
    record_fault(
        half_sent=HALF_SENT,
        before_p50_ms=round(before, 1),
        during_p50_ms=round(during, 1),
        after_p50_ms=round(after, 1),
    )


class _Dribble:
    """Connections that stop in the middle of HTTP/2's first bytes."""

    def __init__(self, target: str) -> None:
        self._host, port = target.split(":")
        self._port = int(port)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        for number in range(HALF_SENT):
            _, writer = await asyncio.open_connection(self._host, self._port)
            self._stack.callback(writer.close)
            writer.write(PREFACE[: 1 + number % len(PREFACE)])
            await writer.drain()

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


async def _pages(client: AsyncClient) -> float:
    """The median of some, each complete, in milliseconds."""
    loop, took = asyncio.get_running_loop(), []
    for _ in range(15):
        started = loop.time()
        page = await client.recommend(PageRequest(user_id="ann"))
        took.append(1000 * (loop.time() - started))
        assert len(page.items) == 20
        assert page.degradations == ()
    return float(np.median(took))


async def _nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""
