from __future__ import annotations

import json
import logging
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shortlist import telemetry
from shortlist.v1 import ranking_pb2, ranking_pb2_grpc
from tests.faults.bare_server import serving

SECRET = "user 42 lives in Baker Street"


class BrokenRanking(ranking_pb2_grpc.RankingServicer):
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_version == "fine":
            return ranking_pb2.ScoreResponse(model_version="fine")
        raise self._error


class JsonLines(logging.Handler):
    """What `setup_logging` would have written to stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(telemetry.JsonLinesFormatter("ranking"))
        self.lines: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def log() -> Any:
    handler = JsonLines()
    logging.getLogger("shortlist").addHandler(handler)
    yield handler.lines
    logging.getLogger("shortlist").removeHandler(handler)


@pytest.mark.parametrize(
    "error",
    [
        KeyError(SECRET),
        AssertionError(SECRET),
        OSError(13, SECRET),
        TimeoutError(SECRET),
        UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
        grpc.aio.UsageError(SECRET),
        ExceptionGroup(SECRET, [ValueError(SECRET)]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_the_caller_gets_an_id_and_the_log_gets_the_text(
    error: Exception, log: list[dict[str, str]]
) -> None:
    async with serving(Ranking=BrokenRanking(error)) as channel:
        stub = ranking_pb2_grpc.RankingStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Score(ranking_pb2.ScoreRequest(request_id="r-33"), timeout=30)
        # The process is none the worse for it.
        fine = await stub.Score(ranking_pb2.ScoreRequest(model_version="fine"), timeout=30)
    assert fine.model_version == "fine"
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "internal error, request r-33"
    status = rpc_status.from_call(caught.value)
    assert status is not None
    assert b"Baker" not in status.SerializeToString()
    (detail,) = status.details
    assert detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR)
    (line,) = log
    assert line["request_id"] == "r-33"
    assert line["level"] == "ERROR"
    assert SECRET in line["exception"]
