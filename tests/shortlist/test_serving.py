from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

from shortlist import telemetry
from shortlist.errors import InvalidField, InvalidRequest, ShortlistError, VersionNotServed
from shortlist.serving import CannotListen, Server, ServerOptions, status_of
from shortlist.telemetry import CallWatch
from shortlist.v1 import (
    events_pb2,
    events_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
    ranking_pb2,
    ranking_pb2_grpc,
)

Handler = Callable[[ranking_pb2.ScoreRequest, Any], Awaitable[Any]]
Start = Callable[..., Awaitable["Served"]]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class RankingOf(ranking_pb2_grpc.RankingServicer):
    """Ranking whose Score is the function given."""

    def __init__(self, score: Handler) -> None:
        self._score = score

    async def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._score(request, context)


class Calls:
    """A `CallWatch` that remembers."""

    def __init__(self) -> None:
        self.running: dict[str, Callable[[], int]] = {}
        self.limits: dict[str, int] = {}
        self.adaptive: dict[str, Callable[[], int]] = {}
        self.ended: list[tuple[str, str, str]] = []
        self.seconds: list[float | None] = []
        self.refusals: list[str] = []

    def serves(self, service: str, running: Callable[[], int], limit: int) -> None:
        self.running[service], self.limits[service] = running, limit

    def adapts(self, service: str, limit: Callable[[], int]) -> None:
        self.adaptive[service] = limit

    def answered(self, service: str, method: str, status: str, seconds: float | None) -> None:
        self.ended.append((service, method, status))
        self.seconds.append(seconds)

    def refused(self, service: str) -> None:
        self.refusals.append(service)


class Served:
    """A running server and a channel to it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.port = server, port
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.ranking = ranking_pb2_grpc.RankingStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def score(self, **fields: Any) -> ranking_pb2.ScoreResponse:
        return await self.ranking.Score(ranking_pb2.ScoreRequest(**fields), timeout=30)

    async def check(self, service: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await self.health.Check(request, timeout=30)).status

    async def refused(self, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.score(**fields)
        return caught.value


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    running: list[Served] = []

    async def start(score: Handler, watch: CallWatch | None = None, **options: Any) -> Served:
        server = Server(ServerOptions(**{"drain_s": 0, **options}), watch)
        ranking_pb2_grpc.add_RankingServicer_to_server(RankingOf(score), server)
        events_pb2_grpc.add_EventsServicer_to_server(events_pb2_grpc.EventsServicer(), server)
        running.append(Served(server, await server.start()))
        return running[-1]

    yield start
    for served in running:
        await served.channel.close()
        await served.server.stop()


async def answer(request: ranking_pb2.ScoreRequest, context: Any) -> ranking_pb2.ScoreResponse:
    return ranking_pb2.ScoreResponse(model_version="v1")


def raises(error: BaseException) -> Handler:
    async def score(request: Any, context: Any) -> Any:
        raise error

    return score


def details_of(error: grpc.aio.AioRpcError, kind: type[Message]) -> list[Any]:
    status = rpc_status.from_call(error)
    assert status is not None
    found = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


class TestErrors:
    async def test_an_answer_is_an_answer(self, start: Start) -> None:
        assert (await (await start(answer)).score()).model_version == "v1"

    async def test_bad_fields_travel_as_details(self, start: Start) -> None:
        served = await start(raises(InvalidRequest([("keys", "is empty"), ("user.x", "no ☃")])))
        error = await served.refused(request_id="r-7")
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "keys: is empty; user.x: no ☃"
        (bad,) = details_of(error, error_details_pb2.BadRequest)
        assert [(v.field, v.description) for v in bad.field_violations] == [
            ("keys", "is empty"),
            ("user.x", "no ☃"),
        ]
        (info,) = details_of(error, error_details_pb2.RequestInfo)
        assert info.request_id == "r-7"

    async def test_our_own_error_brings_its_status_and_text(self, start: Start) -> None:
        error = await (await start(raises(VersionNotServed("v9 is not loaded")))).refused()
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "v9 is not loaded"

    async def test_an_enormous_error_still_arrives(self, start: Start) -> None:
        violations = [(f"{number}" * 1000, "☃" * 10_000) for number in range(1000)]
        error = await (await start(raises(InvalidRequest(violations)))).refused()
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(error, error_details_pb2.BadRequest)

    async def test_an_error_that_is_no_unicode_still_arrives(self, start: Start) -> None:
        error = await (await start(raises(VersionNotServed("file \udcff")))).refused()
        assert error.details() == "file ?"

    async def test_an_answer_of_the_wrong_type_is_internal(self, start: Start) -> None:
        async def score(request: Any, context: Any) -> str:
            return "not a message"

        error = await (await start(score)).refused(request_id="r-1")
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "internal error, request r-1"

    async def test_an_answer_over_the_limit_is_refused_and_not_sent(self, start: Start) -> None:
        async def score(request: Any, context: Any) -> Any:
            return ranking_pb2.ScoreResponse(scores=bytes(20_000))

        error = await (await start(score, max_message_bytes=10_000)).refused()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_a_request_over_the_limit_is_refused(self, start: Start) -> None:
        error = await (await start(answer, max_message_bytes=10_000)).refused(keys=bytes(20_000))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_every_error_of_ours_names_a_status_that_grpc_has(self) -> None:
        pending = [ShortlistError]
        while pending:
            kind = pending.pop()
            assert grpc.StatusCode[kind.status_name] is not grpc.StatusCode.OK, kind
            pending += kind.__subclasses__()

    def test_text_of_a_foreign_error_is_never_shown(self) -> None:
        status = status_of(KeyError("user 42, Baker Street"), "s/M", "r-1")
        assert b"Baker" not in status.SerializeToString()


class TestRequestIds:
    @pytest.mark.parametrize(
        ("in_request", "in_metadata", "expected"),
        [("r", "m", "r"), ("", "m", "m"), ("r", None, "r"), ("x" * 129, "m", "m")],
    )
    async def test_the_request_wins_over_the_metadata(
        self, start: Start, in_request: str, in_metadata: str | None, expected: str
    ) -> None:
        seen = []

        async def score(request: Any, context: Any) -> Any:
            seen.append(telemetry.request_id.get())
            return ranking_pb2.ScoreResponse()

        served = await start(score)
        metadata = (("x-request-id", in_metadata),) if in_metadata else ()
        await served.ranking.Score(
            ranking_pb2.ScoreRequest(request_id=in_request), metadata=metadata
        )
        assert seen == [expected]

    async def test_one_is_made_up_for_whoever_sends_none(self, start: Start) -> None:
        served = await start(raises(InvalidField("keys", "is empty")))
        ids = [
            details_of(await served.refused(), error_details_pb2.RequestInfo)[0].request_id
            for _ in range(2)
        ]
        assert all(len(one) == 32 for one in ids)
        assert ids[0] != ids[1]

    async def test_requests_at_the_same_time_keep_their_own(self, start: Start) -> None:
        seen = {}

        async def score(request: Any, context: Any) -> Any:
            await asyncio.sleep(0.01)
            seen[request.request_id] = telemetry.request_id.get()
            return ranking_pb2.ScoreResponse()

        served = await start(score)
        await asyncio.gather(*(served.score(request_id=f"r{n}") for n in range(20)))
        assert seen == {f"r{n}": f"r{n}" for n in range(20)}


class TestAdmission:
    async def test_the_excess_is_refused_while_the_others_run(self, start: Start) -> None:
        free = asyncio.Event()
        running = asyncio.Semaphore(0)

        async def score(request: Any, context: Any) -> Any:
            running.release()
            await free.wait()
            return ranking_pb2.ScoreResponse()

        served = await start(score, max_concurrency=2)
        admitted = [asyncio.ensure_future(served.score()) for _ in range(2)]
        for _ in admitted:
            await running.acquire()
        for _ in range(3):
            assert (await served.refused()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await served.check() == SERVING  # probes are always answered
        free.set()
        await asyncio.gather(*admitted)
        await served.score()

    async def test_a_request_that_fails_gives_its_place_back(self, start: Start) -> None:
        served = await start(raises(ZeroDivisionError()), max_concurrency=1)
        for _ in range(3):
            assert (await served.refused()).code() is grpc.StatusCode.INTERNAL

    async def test_a_request_that_its_caller_gives_up_gives_its_place_back(
        self, start: Start
    ) -> None:
        async def score(request: Any, context: Any) -> Any:
            if request.request_id == "slow":
                await asyncio.sleep(60)
            return ranking_pb2.ScoreResponse()

        served = await start(score, max_concurrency=1)
        with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE"):
            await served.ranking.Score(ranking_pb2.ScoreRequest(request_id="slow"), timeout=0.1)
        await asyncio.wait_for(self._until_admitted(served), 10)

    async def _until_admitted(self, served: Served) -> None:
        while True:
            try:
                await served.score()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                return


class TestAdaptiveAdmission:
    """Of the orchestrator, whose pages are alike."""

    @pytest.fixture
    def calls(self) -> Calls:
        return Calls()

    @pytest.mark.slow
    async def test_pages_have_it_and_batches_and_other_services_do_not(self, calls: Calls) -> None:
        gate = Gate()
        async with orchestrating(gate, calls, min_concurrency=1, max_concurrency=40) as stub:
            assert calls.limits == {ORCHESTRATOR: 40}
            assert calls.adaptive[ORCHESTRATOR]() == 40
            gate.open.set()
            for _ in range(80):  # longer than a window
                await asyncio.gather(*(stub.Recommend(A_PAGE, timeout=30) for _ in range(2)))
            gate.seconds = 0.3
            async with asyncio.timeout(60):
                while calls.adaptive[ORCHESTRATOR]() > 10:
                    answers = (stub.Recommend(A_PAGE, timeout=30) for _ in range(30))
                    await asyncio.gather(*answers, return_exceptions=True)
            gate.open.clear()
            waiting = [asyncio.ensure_future(stub.Recommend(A_PAGE)) for _ in range(20)]
            await until(lambda: len(calls.refusals) > 0)
            batch = orchestrator_pb2.BatchRecommendRequest()
            await stub.BatchRecommend(batch, timeout=30)
            gate.open.set()
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
        assert 0 < len(refused) < 20
        assert {one.code() for one in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert set(calls.refusals) == {ORCHESTRATOR}

    async def test_without_a_floor_the_limit_stays_where_it_is(self, calls: Calls) -> None:
        async with orchestrating(Gate(), calls):
            assert calls.adaptive == {}

    @pytest.mark.slow
    async def test_calls_that_fail_say_nothing_of_how_long_calls_take(self, calls: Calls) -> None:
        gate = Gate()
        gate.open.set()
        async with orchestrating(gate, calls, min_concurrency=1, max_concurrency=40) as stub:
            gate.error = InvalidField("user.id", "is odd")  # at once
            until_s = asyncio.get_running_loop().time() + 1.2  # some windows
            while asyncio.get_running_loop().time() < until_s:
                bad = (stub.Recommend(A_PAGE, timeout=30) for _ in range(20))
                await asyncio.gather(*bad, return_exceptions=True)
            gate.error, gate.seconds = None, 0.1
            for _ in range(12):
                await asyncio.gather(*(stub.Recommend(A_PAGE, timeout=30) for _ in range(20)))
        assert calls.adaptive[ORCHESTRATOR]() == 40
        assert calls.refusals == []


ORCHESTRATOR = "shortlist.v1.Orchestrator"
A_PAGE = orchestrator_pb2.RecommendRequest()


class Gate(orchestrator_pb2_grpc.OrchestratorServicer):
    """Pages take so long, and wait until it is open. Batches do not."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.seconds = 0.01
        self.error: Exception | None = None

    async def Recommend(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.error:
            raise self.error
        await asyncio.sleep(self.seconds)
        await self.open.wait()
        return orchestrator_pb2.RecommendResponse()

    async def BatchRecommend(self, request: Any, context: Any) -> Any:  # noqa: N802
        return orchestrator_pb2.BatchRecommendResponse()


@asynccontextmanager
async def orchestrating(
    servicer: Gate, watch: CallWatch, **options: Any
) -> AsyncIterator[orchestrator_pb2_grpc.OrchestratorStub]:
    server = Server(ServerOptions(**{"drain_s": 0, **options}), watch)
    orchestrator_pb2_grpc.add_OrchestratorServicer_to_server(servicer, server)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await server.start()}") as channel:
        yield orchestrator_pb2_grpc.OrchestratorStub(channel)
    await server.stop()


class TestWatching:
    async def test_every_call_is_heard_of_with_its_status_and_duration(self, start: Start) -> None:
        errors: list[Exception | None] = [None, InvalidField("k", "is 0"), ValueError("secret")]

        async def score(request: Any, context: Any) -> Any:
            if error := errors.pop(0):
                raise error
            return ranking_pb2.ScoreResponse()

        calls = Calls()
        served = await start(score, calls)
        await served.score()
        await served.refused()
        await served.refused()
        statuses = ["OK", "INVALID_ARGUMENT", "INTERNAL"]
        await until(lambda: len(calls.ended) == 3)
        assert calls.ended == [("shortlist.v1.Ranking", "Score", status) for status in statuses]
        assert all(seconds is not None and seconds > 0 for seconds in calls.seconds)

    async def test_running_and_refused_calls_are_told_by_service(self, start: Start) -> None:
        began, finish = asyncio.Event(), asyncio.Event()

        async def score(request: Any, context: Any) -> Any:
            began.set()
            await finish.wait()
            return ranking_pb2.ScoreResponse()

        calls = Calls()
        served = await start(score, calls, max_concurrency=1)
        first = asyncio.ensure_future(served.score())
        await began.wait()
        await served.refused()
        ranking = "shortlist.v1.Ranking"
        assert calls.running[ranking]() == 1
        assert calls.limits == {ranking: 1, "shortlist.v1.Events": 1}  # and not what is admitted
        assert calls.refusals == [ranking]
        await until(lambda: len(calls.ended) == 1)
        assert calls.ended == [(ranking, "Score", "RESOURCE_EXHAUSTED")]
        finish.set()
        await first
        await until(lambda: len(calls.ended) == 2)
        assert calls.running[ranking]() == 0

    async def test_a_caller_that_left_counts_as_cancelled(self, start: Start) -> None:
        began = asyncio.Event()

        async def score(request: Any, context: Any) -> Any:
            began.set()
            await asyncio.Event().wait()

        calls = Calls()
        served = await start(score, calls)
        leaving = asyncio.ensure_future(served.score())
        await began.wait()
        leaving.cancel()
        await until(lambda: bool(calls.ended))
        assert calls.ended == [("shortlist.v1.Ranking", "Score", "CANCELLED")]

    async def test_a_stream_is_heard_of_when_it_ends(self, start: Start) -> None:
        calls = Calls()
        served = await start(answer, calls)
        call = events_pb2_grpc.EventsStub(served.channel).StreamEvents(
            iter([events_pb2.StreamEventsRequest(sequence=1)])
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        await until(lambda: bool(calls.ended))
        assert calls.ended == [("shortlist.v1.Events", "StreamEvents", "UNIMPLEMENTED")]
        assert calls.seconds == [None]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.005)


class TestListening:
    async def test_a_port_in_use_is_refused(self, start: Start) -> None:
        first = await start(answer)
        with pytest.raises(CannotListen, match=str(first.port)):
            await start(answer, port=first.port)
        await first.score()

    async def test_a_port_that_something_else_uses_is_refused(self, start: Start) -> None:
        with closing(socket.socket()) as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            with pytest.raises(CannotListen, match=r"127\.0\.0\.1"):
                await start(answer, port=other.getsockname()[1])

    async def test_a_host_that_is_not_ours_is_refused(self, start: Start) -> None:
        with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
            await start(answer, host="192.0.2.1")


class TestHealthAndReflection:
    @pytest.mark.parametrize("service", ["", "shortlist.v1.Ranking", "shortlist.v1.Events"])
    async def test_every_service_is_reported(self, start: Start, service: str) -> None:
        assert await (await start(answer)).check(service) == SERVING

    async def test_a_service_that_is_not_here_is_not_found(self, start: Start) -> None:
        served = await start(answer)
        with pytest.raises(grpc.aio.AioRpcError, match="NOT_FOUND"):
            await served.check("shortlist.v1.Retrieval")

    async def test_every_service_is_listed(self, start: Start) -> None:
        served = await start(answer)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        (listed,) = [one async for one in stub.ServerReflectionInfo(iter([ask]))]
        names = {one.name for one in listed.list_services_response.service}
        assert {"shortlist.v1.Ranking", "shortlist.v1.Events", "grpc.health.v1.Health"} <= names

    @pytest.mark.parametrize(
        ("symbol", "file"),
        [
            ("shortlist.v1.Ranking", "shortlist/v1/ranking.proto"),
            ("shortlist.v1.Ranking.Score", "shortlist/v1/ranking.proto"),  # as ghz asks
            ("shortlist.v1.Ranking.Missing", ""),
            ("shortlist.v2.Ranking.Score", ""),
        ],
    )
    async def test_a_symbol_leads_to_its_file(self, start: Start, symbol: str, file: str) -> None:
        served = await start(answer)
        ask = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        (found,) = [one async for one in stub.ServerReflectionInfo(iter([ask]))]
        files = found.file_descriptor_response.file_descriptor_proto
        names = {FileDescriptorProto.FromString(one).name for one in files}
        assert (file in names) if file else found.HasField("error_response")

    async def test_a_generic_client_needs_no_proto_file(self, start: Start) -> None:
        served = await start(answer)
        assert await asyncio.to_thread(score_by_reflection, served.port) == "v1"


def score_by_reflection(port: int) -> str:
    """Call Score with nothing but what the server tells of itself; the version that answered."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName("shortlist.v1.Ranking").methods_by_name["Score"]
        request, response = map(GetMessageClass, (method.input_type, method.output_type))
        call = channel.unary_unary(
            "/shortlist.v1.Ranking/Score",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request(request_id="generic"), timeout=30).model_version


class TestStopping:
    async def test_a_running_request_is_answered_and_a_new_one_refused(self, start: Start) -> None:
        began, finish = asyncio.Event(), asyncio.Event()

        async def score(request: Any, context: Any) -> Any:
            began.set()
            await finish.wait()
            return ranking_pb2.ScoreResponse(model_version="late")

        served = await start(score, drain_s=30)
        running = asyncio.ensure_future(served.score())
        await began.wait()
        stopping = asyncio.ensure_future(served.server.stop())
        await asyncio.sleep(0.1)
        assert (await served.refused()).code() is grpc.StatusCode.UNAVAILABLE
        assert not stopping.done()
        finish.set()
        assert (await running).model_version == "late"
        await asyncio.wait_for(stopping, 10)

    async def test_a_request_that_never_ends_is_cut_off(self, start: Start) -> None:
        began = asyncio.Event()

        async def score(request: Any, context: Any) -> Any:
            began.set()
            await asyncio.Event().wait()

        served = await start(score, drain_s=0.1)
        running = asyncio.ensure_future(served.refused())
        await began.wait()
        await asyncio.wait_for(served.server.stop(), 10)
        assert (await running).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    async def test_a_health_watcher_hears_of_it_and_holds_nothing_up(self, start: Start) -> None:
        served = await start(answer, drain_s=60)
        watch = served.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        await asyncio.wait_for(served.server.stop(), 20)
        assert (await watch.read()).status == NOT_SERVING

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_a_signal_ends_serving(self, start: Start, number: signal.Signals) -> None:
        served = await start(answer)
        serving = asyncio.ensure_future(served.server.serve_until_stopped())
        await asyncio.sleep(0.05)
        assert not serving.done()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(serving, 10)
        assert (await served.refused()).code() is grpc.StatusCode.UNAVAILABLE

    async def test_stopping_what_never_started_is_nothing(self) -> None:
        await Server(ServerOptions()).stop()


class TestStreams:
    async def test_a_stream_that_this_version_does_not_serve_says_so(self, start: Start) -> None:
        served = await start(answer)
        call = events_pb2_grpc.EventsStub(served.channel).StreamEvents(
            iter([events_pb2.StreamEventsRequest(sequence=1)])
        )
        with pytest.raises(grpc.aio.AioRpcError, match="StreamEvents is not served") as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def a_record(**fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "shortlist.x", "levelname": "INFO", **fields})


class TestTelemetry:
    def test_a_line_is_one_json_object(self) -> None:
        line = telemetry.JsonLinesFormatter("retrieval-0").format(a_record(msg="a\nb %s", args="c"))
        assert "\n" not in line
        fields = json.loads(line)
        assert fields["message"] == "a\nb c"
        assert fields["process"] == "retrieval-0"
        assert fields["level"] == "INFO"
        assert "request_id" not in fields

    def test_a_line_carries_the_request_and_the_exception(self) -> None:
        token = telemetry.request_id.set("r-1")
        try:
            error = ValueError("boom")
            record = a_record(msg="failed", exc_info=(ValueError, error, None))
            fields = json.loads(telemetry.JsonLinesFormatter("p").format(record))
        finally:
            telemetry.request_id.reset(token)
        assert fields["request_id"] == "r-1"
        assert "boom" in fields["exception"]
