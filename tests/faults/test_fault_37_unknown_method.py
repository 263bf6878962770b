from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from shortlist.v1 import events_pb2, events_pb2_grpc
from tests.faults.bare_server import serving, unary_methods


async def refused(channel: grpc.aio.Channel, path: str, data: bytes = b"") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path)(data, timeout=30)
    return caught.value


@pytest.mark.parametrize(
    "path",
    [
        "/shortlist.v1.Ranking/Divine",
        "/shortlist.v1.Astrology/Score",
        "/shortlist.v2.Ranking/Score",
        "/Score",
        "/",
    ],
)
async def test_a_method_that_nobody_knows_is_unimplemented(path: str) -> None:
    async with serving() as channel:
        assert (await refused(channel, path)).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_method_that_this_version_does_not_serve_says_which() -> None:
    async with serving() as channel:
        for path, _ in unary_methods():
            error = await refused(channel, path)
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED, path
            assert error.details() == f"{path[1:]} is not served by this version"


async def test_a_stream_that_this_version_does_not_serve_says_so() -> None:
    # What is being sent when the refusal comes ends grpc.aio's call with an INTERNAL of its own.
    async def nothing() -> AsyncIterator[events_pb2.StreamEventsRequest]:
        await asyncio.Event().wait()
        yield events_pb2.StreamEventsRequest()

    async with serving() as channel:
        call = events_pb2_grpc.EventsStub(channel).StreamEvents(nothing())
        with pytest.raises(grpc.aio.AioRpcError, match="StreamEvents is not served") as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
