from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import grpc
import numpy as np
import pytest

from shortlist import telemetry
from shortlist.admin import AdminServicer, TierStatus
from shortlist.errors import (
    BudgetExceeded,
    InvalidField,
    InvalidRequest,
    NotImplementedYet,
    ShortlistError,
    TierUnavailable,
)
from shortlist.remote import ERRORS, RemoteRanker, RemoteRetriever, error_from_rpc
from shortlist.serving import Overloaded, Server, ServerOptions
from shortlist.tiers import Ranker, Retriever
from shortlist.v1 import admin_pb2_grpc, ranking_pb2, ranking_pb2_grpc, retrieval_pb2_grpc
from tests.contracts.ranker import RankerContract, candidates_of
from tests.contracts.ranker import a_query as a_score_query
from tests.contracts.retriever import RetrieverContract, a_query, assert_same_answer, known_keys
from tests.shortlist.array_tiers import (
    ArrayRanker,
    ArrayRankingServicer,
    ArrayRetrievalServicer,
    ArrayRetriever,
    FixedTier,
)

Serve = Callable[[Any, TierStatus], Awaitable[str]]
KEYS = candidates_of(np.arange(1, 6, dtype=np.uint64)).keys


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve a Retrieval or Ranking servicer; returns its target."""
    servers = []

    async def start(servicer: Any, status: TierStatus) -> str:
        server = Server(ServerOptions(drain_s=0))
        if isinstance(servicer, retrieval_pb2_grpc.RetrievalServicer):
            retrieval_pb2_grpc.add_RetrievalServicer_to_server(servicer, server)
        else:
            ranking_pb2_grpc.add_RankingServicer_to_server(servicer, server)
        admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(FixedTier(status)), server)
        servers.append(server)
        return f"127.0.0.1:{await server.start()}"

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
async def remote_ranker(serve: Serve) -> AsyncIterator[Callable[[Any], Awaitable[RemoteRanker]]]:
    """A client of a server whose Score does what the test says."""
    clients = []

    async def connect(score: Callable[[ranking_pb2.ScoreRequest], Awaitable[Any]]) -> RemoteRanker:
        class Servicer(ranking_pb2_grpc.RankingServicer):
            async def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
                return await score(request)

        clients.append(RemoteRanker(await serve(Servicer(), ArrayRanker().tier_status())))
        return clients[-1]

    yield connect
    for client in clients:
        await client.close()


class TestArrayRetriever(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> ArrayRetriever:
        return ArrayRetriever()


class TestRemoteRetriever(RetrieverContract):
    @pytest.fixture
    async def retriever(self, serve: Serve) -> AsyncIterator[RemoteRetriever]:
        local = ArrayRetriever()
        remote = RemoteRetriever(await serve(ArrayRetrievalServicer(local), local.tier_status()))
        yield remote
        await remote.close()

    async def test_it_answers_what_the_local_one_answers(self, retriever: Retriever) -> None:
        local = ArrayRetriever()
        exclude = (await known_keys(local))[:4]
        query = await a_query(local, exclude=exclude, check=exclude)
        here, there = await local.retrieve(query), await retriever.retrieve(query)
        assert_same_answer(here, there)
        assert there.dropped == here.dropped
        assert there.duration_us == here.duration_us
        assert await retriever.status() == await local.status()

    async def test_it_describes_as_the_local_one_does(self, retriever: Retriever) -> None:
        local = ArrayRetriever()
        keys = await known_keys(local)
        here = await local.describe(keys, ("price", "year"), None)
        there = await retriever.describe(keys, ("price", "year"), None)
        assert (there.ids, there.titles) == (here.ids, here.titles)
        assert there.groups == here.groups
        assert there.attributes == here.attributes
        np.testing.assert_array_equal(there.vectors, here.vectors)


class TestArrayRanker(RankerContract):
    @pytest.fixture
    def ranker(self) -> ArrayRanker:
        return ArrayRanker()


class TestRemoteRanker(RankerContract):
    @pytest.fixture
    async def ranker(self, serve: Serve) -> AsyncIterator[RemoteRanker]:
        local = ArrayRanker()
        remote = RemoteRanker(await serve(ArrayRankingServicer(local), local.tier_status()))
        yield remote
        await remote.close()

    async def test_it_answers_what_the_local_one_answers(
        self, ranker: Ranker, known_keys: Any
    ) -> None:
        for model in ("", "shifted"):
            query = a_score_query(known_keys, model=model)
            here, there = await ArrayRanker().score(query), await ranker.score(query)
            np.testing.assert_array_equal(there.scores, here.scores)
            assert there.model == here.model
        assert await ranker.status() == await ArrayRanker().status()

    async def test_a_model_that_it_lacks_is_named(self, ranker: Ranker, known_keys: Any) -> None:
        with pytest.raises(InvalidRequest, match="known: by_number, shifted") as refused:
            await ranker.score(a_score_query(known_keys, model="oracle"))
        assert [field for field, _ in refused.value.violations] == ["model"]


def test_every_status_but_ok_has_an_error() -> None:
    assert set(ERRORS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", sorted(ERRORS, key=lambda code: code.name))
def test_every_error_of_the_table_can_be_raised(code: grpc.StatusCode) -> None:
    metadata = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(code, metadata, metadata, details="the reason")
    raised = error_from_rpc(error, "10.0.0.7:7001")
    assert type(raised) is ERRORS[code]
    assert "10.0.0.7:7001" in str(raised)
    assert "the reason" in str(raised)


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (InvalidField("keys", "is empty"), InvalidRequest),
        (Overloaded("too much"), Overloaded),
        (TierUnavailable("not now"), TierUnavailable),
        (BudgetExceeded("too late"), BudgetExceeded),
        (ZeroDivisionError("a bug"), TierUnavailable),
        (NotImplementedYet("one day"), NotImplementedYet),
    ],
)
async def test_an_error_over_there_is_one_of_ours_here(
    remote_ranker: Any, raised: Exception, arrives: type[ShortlistError]
) -> None:
    async def score(request: Any) -> Any:
        raise raised

    ranker = await remote_ranker(score)
    with pytest.raises(arrives) as caught:
        await ranker.score(a_score_query(KEYS))
    assert type(caught.value) is arrives
    assert "a bug" not in str(caught.value)


async def test_the_fields_at_fault_travel_back(remote_ranker: Any) -> None:
    async def score(request: Any) -> Any:
        raise InvalidRequest([("user.time_ms", "is negative"), ("keys", "is empty")])

    ranker = await remote_ranker(score)
    with pytest.raises(InvalidRequest) as caught:
        await ranker.score(a_score_query(KEYS))
    assert caught.value.violations == (("user.time_ms", "is negative"), ("keys", "is empty"))


async def test_an_answer_that_is_nonsense_is_an_unavailable_tier(remote_ranker: Any) -> None:
    async def score(request: Any) -> Any:
        return ranking_pb2.ScoreResponse(scores=np.array([np.nan] * 5, "<f4").tobytes())

    ranker = await remote_ranker(score)
    with pytest.raises(TierUnavailable, match="scores: holds NaN"):
        await ranker.score(a_score_query(KEYS))


async def test_an_answer_that_is_too_short_is_an_unavailable_tier(remote_ranker: Any) -> None:
    async def score(request: Any) -> Any:
        return ranking_pb2.ScoreResponse(scores=np.zeros(4, "<f4").tobytes())

    ranker = await remote_ranker(score)
    with pytest.raises(TierUnavailable, match="4 values instead of 5"):
        await ranker.score(a_score_query(KEYS))


async def test_the_budget_ends_a_call(remote_ranker: Any) -> None:
    cancelled = asyncio.Event()

    async def score(request: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    ranker = await remote_ranker(score)
    with pytest.raises(BudgetExceeded):
        await ranker.score(a_score_query(KEYS, deadline_ms=50.0))
    await asyncio.wait_for(cancelled.wait(), 10)  # the server stops working on it, too


async def test_without_time_left_nobody_is_asked(remote_ranker: Any) -> None:
    async def score(request: Any) -> Any:
        raise AssertionError("asked")

    ranker = await remote_ranker(score)
    with pytest.raises(BudgetExceeded, match="no time left"):
        await ranker.score(a_score_query(KEYS, deadline_ms=0.0))


async def test_the_deadline_and_the_request_id_reach_the_server(serve: Serve) -> None:
    seen: dict[str, Any] = {}

    class Servicer(ArrayRankingServicer):
        async def Score(self, request: Any, context: Any) -> Any:  # noqa: N802
            seen.update(seconds=context.time_remaining(), id=telemetry.request_id.get())
            return await super().Score(request, context)

    local = ArrayRanker()
    remote = RemoteRanker(await serve(Servicer(local), local.tier_status()))
    await remote.score(a_score_query(KEYS, deadline_ms=30_000.0))
    await remote.close()
    assert 0 < seen["seconds"] <= 30.1
    assert seen["id"] == "contract"


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port of ours that nobody listens on: bound, never listening."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


async def test_a_refused_port_is_unavailable_at_once_even_without_a_deadline(
    refused_port: int,
) -> None:
    remote = RemoteRanker(f"127.0.0.1:{refused_port}")
    with pytest.raises(TierUnavailable, match=str(refused_port)):
        await asyncio.wait_for(remote.score(a_score_query(KEYS)), 10)
    await remote.close()


async def test_a_tier_that_comes_back_is_found_again(serve: Serve) -> None:
    local = ArrayRanker()
    servers = []

    async def start(port: int) -> int:
        server = Server(ServerOptions(port=port, drain_s=0))
        ranking_pb2_grpc.add_RankingServicer_to_server(ArrayRankingServicer(local), server)
        servers.append(server)
        return await server.start()

    port = await start(0)
    remote = RemoteRanker(f"127.0.0.1:{port}")
    await remote.score(a_score_query(KEYS))
    await servers[0].stop()
    with pytest.raises(TierUnavailable):
        await remote.score(a_score_query(KEYS))
    await start(port)

    async def until_it_answers() -> None:
        while True:
            try:
                await remote.score(a_score_query(KEYS))
            except TierUnavailable:
                await asyncio.sleep(0.02)
            else:
                return

    await asyncio.wait_for(until_it_answers(), 20)
    await remote.close()
    await servers[1].stop()


async def test_a_process_without_an_active_version_is_unavailable(serve: Serve) -> None:
    empty = TierStatus(tier="ranking", versions=(), capabilities=())
    remote = RemoteRanker(await serve(ArrayRankingServicer(ArrayRanker()), empty))
    with pytest.raises(TierUnavailable, match="no active version"):
        await remote.status()
    await remote.close()
