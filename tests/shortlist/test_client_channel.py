"""Several orchestrators behind one client, and what it asks again; over real gRPC."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from shortlist.client import AsyncClient, Client
from shortlist.client_channel import channel_target
from shortlist.errors import BudgetExceeded, InvalidField, ShortlistError, TierUnavailable
from shortlist.feed import RecordedEvent
from shortlist.live import CatalogItem
from shortlist.page import PageRequest, RankRequest, SimilarRequest
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world

RESERVE = 50  # calls that may be repeated before any was answered


class Orchestrator(grpc.GenericRpcHandler):
    """Answers every call with an empty message, but each method's first calls with a status."""

    def __init__(self, failures: int, status: grpc.StatusCode) -> None:
        self.attempts: Counter[str] = Counter()  # by method
        self.failures = failures
        self._status = status

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]

        async def answer(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
            self.attempts[method] += 1
            if self.attempts[method] <= self.failures:
                await context.abort(self._status, "not now")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def failing(
    failures: int, status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
) -> AsyncIterator[tuple[Orchestrator, str]]:
    """It, and its address."""
    orchestrator = Orchestrator(failures, status)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)])
    server.add_generic_rpc_handlers((orchestrator,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield orchestrator, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.fixture
def refused() -> str:
    """An address at which nobody listens."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{port.getsockname()[1]}"


REPEATED: dict[str, Callable[[AsyncClient], Any]] = {
    "Recommend": lambda client: client.recommend(PageRequest()),
    "BatchRecommend": lambda client: client.recommend_batch([PageRequest()]),
    "Rank": lambda client: client.rank(RankRequest(item_ids=("i1",))),
    "Similar": lambda client: client.similar(SimilarRequest(item_id="i1")),
    "RecordEvents": lambda client: client.record_events(
        [RecordedEvent(event_id="e", user_id="u", item_id="i")]
    ),
    "GetItems": lambda client: client.get_items(["i1"]),
    "ListItems": lambda client: client.list_items(),
}
NOT_REPEATED: dict[str, Callable[[AsyncClient], Any]] = {
    "UpsertItems": lambda client: client.upsert_items([CatalogItem(id="i1")]),
    "DeleteItems": lambda client: client.delete_items(["i1"]),
    "DeleteUsers": lambda client: client.delete_users(["u1"]),
}


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "known"),
        [
            ("127.0.0.1:7700", "127.0.0.1:7700"),
            (" somewhere:7700, ", "somewhere:7700"),
            ("dns:///orchestrators:7700", "dns:///orchestrators:7700"),
            (["unix:///tmp/socket"], "unix:///tmp/socket"),
            ("127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
            (("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:2"), "ipv4:127.0.0.1:1,127.0.0.1:2"),
            ("ipv4:127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
            ("[::1]:1,127.0.0.1:2", "ipv6:[::1]:1,[::ffff:127.0.0.1]:2"),
        ],
    )
    def test_a_target_is_told_to_grpc(self, target: str | list[str], known: str) -> None:
        assert channel_target(target) == known

    @pytest.mark.parametrize("target", ["", ",", [], "127.0.0.1:1,127.0.0.1", "a:1,b:http"])
    def test_what_is_no_address_is_refused(self, target: str | list[str]) -> None:
        with pytest.raises(InvalidField) as refused:
            channel_target(target)
        assert refused.value.field == "target"

    async def test_calls_go_round_all_addresses(self) -> None:
        async with AsyncExitStack() as stack:
            several = [await stack.enter_async_context(failing(0)) for _ in range(3)]
            async with AsyncClient([target for _, target in several]) as client:
                async with asyncio.timeout(30):  # until the last one is connected
                    while not all(one.attempts for one, _ in several):
                        await client.recommend(PageRequest())
            assert {method for one, _ in several for method in one.attempts} == {"Recommend"}

    @pytest.mark.parametrize("first", [True, False])
    async def test_an_address_without_anybody_costs_no_call(
        self, first: bool, refused: str
    ) -> None:
        async with failing(0) as (orchestrator, target):
            targets = [refused, target] if first else [target, refused]
            async with AsyncClient(",".join(targets)) as client:
                for _ in range(50):
                    await client.recommend(PageRequest())
            assert orchestrator.attempts["Recommend"] == 50

    async def test_the_synchronous_client_knows_several_too(self, refused: str) -> None:
        async with failing(1) as (orchestrator, target):

            def ask() -> None:
                with Client([refused, target]) as client:
                    client.recommend(PageRequest())

            await asyncio.to_thread(ask)
            assert orchestrator.attempts["Recommend"] == 2


class TestRetries:
    @pytest.mark.parametrize("method", REPEATED)
    async def test_reads_and_events_are_asked_again(self, method: str) -> None:
        async with failing(2) as (orchestrator, target), AsyncClient(target) as client:
            await REPEATED[method](client)
            assert orchestrator.attempts[method] == 3

    @pytest.mark.parametrize("method", NOT_REPEATED)
    async def test_changes_of_the_catalogue_are_not(self, method: str) -> None:
        async with failing(1) as (orchestrator, target), AsyncClient(target) as client:
            with pytest.raises(TierUnavailable, match="not now"):
                await NOT_REPEATED[method](client)
            assert orchestrator.attempts[method] == 1

    @pytest.mark.parametrize("method", REPEATED)
    async def test_without_retries_a_call_is_one_attempt(self, method: str) -> None:
        async with (
            failing(1) as (orchestrator, target),
            AsyncClient(target, retries=False) as client,
        ):
            with pytest.raises(TierUnavailable, match="not now"):
                await REPEATED[method](client)
            assert orchestrator.attempts[method] == 1

    @pytest.mark.parametrize(
        "status",
        [status for status in grpc.StatusCode if status.name not in ("OK", "UNAVAILABLE")],
        ids=lambda status: status.name,
    )
    async def test_no_other_status_is_asked_again(self, status: grpc.StatusCode) -> None:
        async with failing(1, status) as (orchestrator, target), AsyncClient(target) as client:
            with pytest.raises(ShortlistError):
                await client.recommend(PageRequest())
            assert orchestrator.attempts["Recommend"] == 1

    async def test_a_large_batch_of_events_is_asked_again_too(self) -> None:
        events = [
            RecordedEvent(event_id=f"e{n}", user_id="u" * 500, item_id="i" * 500)
            for n in range(10_000)
        ]
        async with failing(1) as (orchestrator, target), AsyncClient(target) as client:
            await client.record_events(events, timeout_s=60)
            assert orchestrator.attempts["RecordEvents"] == 2

    async def test_it_gives_up_after_five_attempts(self) -> None:
        async with failing(100) as (orchestrator, target), AsyncClient(target) as client:
            with pytest.raises(TierUnavailable, match="not now"):
                await client.recommend(PageRequest())
            assert orchestrator.attempts["Recommend"] == 5

    async def test_it_gives_up_when_the_deadline_does_not_allow_another(self) -> None:
        async with failing(100) as (orchestrator, target), AsyncClient(target) as client:
            with pytest.raises((TierUnavailable, BudgetExceeded)):
                await client.recommend(PageRequest(), timeout_s=0.35)  # four waits are 1.2 s
            assert orchestrator.attempts["Recommend"] < 5

    async def test_coverage_below_what_was_asked_for_is_not_asked_again(self) -> None:
        async with (
            a_world() as world,
            served(world.recommender) as target,
            AsyncClient(target) as client,
        ):
            await client.recommend(PageRequest())
            world.shards[0].fails = TierUnavailable("down")
            asked = len(world.shards[1].queries)
            with pytest.raises(TierUnavailable, match="min_coverage"):
                await client.recommend(PageRequest(min_coverage=1.0))
            assert len(world.shards[1].queries) == asked + 1


class TestBudget:
    async def test_calls_that_all_fail_are_hardly_repeated(self) -> None:
        """Once the reserve is used up, a call is one attempt."""
        async with failing(10_000) as (orchestrator, target), AsyncClient(target) as client:
            await asyncio.gather(*(_fail(client) for _ in range(2 * RESERVE)))
            at_first = orchestrator.attempts["Recommend"]
            await asyncio.gather(*(_fail(client) for _ in range(200)))
            assert at_first <= 3 * RESERVE
            assert orchestrator.attempts["Recommend"] == at_first + 200

    async def test_answers_bring_a_tenth_of_the_budget_back(self) -> None:
        async with failing(10_000) as (orchestrator, target), AsyncClient(target) as client:
            await asyncio.gather(*(_fail(client) for _ in range(2 * RESERVE)))
            assert await _attempts_of_one(client, orchestrator) == 1
            orchestrator.failures = 0
            for _ in range(20 * RESERVE):
                await client.recommend(PageRequest())
            orchestrator.failures = 10_000
            assert await _attempts_of_one(client, orchestrator) == 5


async def _fail(client: AsyncClient) -> None:
    with pytest.raises(TierUnavailable):
        await client.recommend(PageRequest())


async def _attempts_of_one(client: AsyncClient, orchestrator: Orchestrator) -> int:
    before = orchestrator.attempts["Recommend"]
    await _fail(client)
    return orchestrator.attempts["Recommend"] - before
