from __future__ import annotations

import grpc
import pytest
from google.protobuf.message import DecodeError

from shortlist.v1 import orchestrator_pb2
from tests.faults.bare_server import serving, unary_methods

MALFORMED = {
    "no tag": b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    "length beyond the end": b"\x0a\x7fabc",
    "unfinished number": b"\x08\x80",
    "unfinished group": b"\x0b",
    "text": b"hello, is this a web server?",
}
PARSER_WORDS = ("parse", "proto", "decode", "wire", "utf", "upb")


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_bytes_are_an_invalid_argument_of_every_call(data: bytes) -> None:
    async with serving() as channel:
        for path, request in unary_methods():
            with pytest.raises(DecodeError):
                request.FromString(data)
            await assert_refused(channel, path, data)


async def test_text_that_is_no_utf8_is_an_invalid_argument() -> None:
    async with serving() as channel:
        await assert_refused(channel, "/shortlist.v1.Orchestrator/Recommend", b"\x0a\x02\xc3\x28")


async def test_every_cut_of_a_real_request_is_answered() -> None:
    whole = orchestrator_pb2.RecommendRequest(
        request_id="r-1", page_size=20, exclude_item_ids=["a", "b"]
    ).SerializeToString()
    async with serving() as channel:
        call = channel.unary_unary("/shortlist.v1.Orchestrator/Recommend")
        for length in range(len(whole)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(whole[:length], timeout=30)
            # Some cuts are messages themselves; nobody serves them here.
            assert caught.value.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.UNIMPLEMENTED,
            )


async def assert_refused(channel: grpc.aio.Channel, path: str, data: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path)(data, timeout=30)
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, path
    told = (error.details() or "").lower()
    assert told
    assert not [word for word in PARSER_WORDS if word in told]
