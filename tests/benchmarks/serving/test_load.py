from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from benchmarks.serving.load import LoadGenerator, Plan
from shortlist.launch import child_environment, module_command

METHOD = "/test.Echo/Echo"
PLAIN = [base64.b64encode(text).decode() for text in (b"a", b"b")]
KEPT = [base64.b64encode(b"keep").decode()]


class Echo:
    """Answers with what it got; refuses every `refuse_every`-th call."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.refuse_every = 0
        self.delay_s = 0.0

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.got.append(request)
        await asyncio.sleep(self.delay_s)
        if self.refuse_every and len(self.got) % self.refuse_every == 0:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return request


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, str]]:
    handler, server = Echo(), grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(handler.echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Echo", {"Echo": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
async def generator() -> AsyncIterator[LoadGenerator]:
    async with LoadGenerator(
        module_command("benchmarks.serving.load"), child_environment()
    ) as generator:
        yield generator


def a_plan(target: str, **changes: Any) -> Plan:
    fields = {"target": target, "method": METHOD, "requests": PLAIN, "rate": 100, "seconds": 0.5}
    return Plan(**fields | changes)


async def test_every_request_of_the_rate_is_sent_and_the_kept_answers_come_back(
    echo: tuple[Echo, str], generator: LoadGenerator
) -> None:
    handler, target = echo
    step = await generator.run(a_plan(target, kept=KEPT, keep_every=10))
    assert step.statuses == {"OK": 50}
    assert step.failed == 0
    assert sorted(set(handler.got)) == [b"a", b"b", b"keep"]
    assert [base64.b64decode(one) for one in step.answers] == [b"keep"] * 5
    assert 0 < step.latency_ms["p50"] <= step.latency_ms["p99"]


async def test_refused_requests_are_no_throughput(
    echo: tuple[Echo, str], generator: LoadGenerator
) -> None:
    handler, target = echo
    handler.refuse_every = 5
    step = await generator.run(a_plan(target))
    assert step.statuses == {"OK": 40, "RESOURCE_EXHAUSTED": 10}
    assert step.failed == 10
    assert step.ok_rps <= 80


async def test_a_slow_answer_holds_up_no_other_request(
    echo: tuple[Echo, str], generator: LoadGenerator
) -> None:
    handler, target = echo
    handler.delay_s = 0.3
    step = await generator.run(a_plan(target))
    assert len(handler.got) == 50  # one after the other, it would have sent two
    assert step.latency_ms["p50"] >= 300


async def test_a_process_serves_several_plans(
    echo: tuple[Echo, str], generator: LoadGenerator
) -> None:
    _, target = echo
    for seconds in (0.1, 0.2):
        step = await generator.run(a_plan(target, seconds=seconds))
        assert step.statuses == {"OK": round(100 * seconds)}
