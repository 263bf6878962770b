"""Fault 13: three times the capacity. The excess is refused at once, the rest goes on as before."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from benchmarks.serving.load import Plan, Step, run
from benchmarks.serving.wire import of_shortlist
from shortlist.config import Config
from shortlist.metrics import Metrics
from shortlist.tiers import ScoreQuery, Scores
from tests.orchestrator.wire import served
from tests.orchestrator.world import KeyRanker, a_world
from tests.shortlist.fleets import PATIENCE

PLACES = 4
RANKING_S = 0.1  # so that places are what there is too little of, and not the machine
CAPACITY = PLACES / RANKING_S
SECONDS = 3.0
REFUSALS = 100
FLOOR, CEILING = 8, 100  # of the adaptive limit
# A place is not given back because the ranker was waited for in vain.
PATIENT = Config.model_validate({"serving": PATIENCE})


class BusyRanker(KeyRanker):
    """Takes its time, and remembers how many it was asked for at once."""

    def __init__(self) -> None:
        super().__init__()
        self.running = self.most_running = 0

    async def score(self, query: ScoreQuery) -> Scores:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(RANKING_S)
            return await super().score(query)
        finally:
            self.running -= 1


class QueueingRanker(KeyRanker):
    """Does so many at once; the others wait their turn."""

    def __init__(self) -> None:
        super().__init__()
        self._places = asyncio.Semaphore(PLACES)

    async def score(self, query: ScoreQuery) -> Scores:
        async with self._places:
            await asyncio.sleep(RANKING_S)
        return await super().score(query)


@pytest.mark.slow
async def test_fault_13_the_excess_is_refused_and_the_admitted_are_answered(
    record_fault: Callable[..., None],
) -> None:
    metrics, ranker = Metrics("orchestrator"), BusyRanker()
    async with (
        a_world(scorers=[ranker], watches=metrics.watches) as world,
        served(world.recommender, max_concurrency=PLACES, watch=metrics.calls) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        quiet = await run(_plan(target, CAPACITY / 4), channel)
        flooded = await run(_plan(target, 3 * CAPACITY), channel)
    sent = round(3 * CAPACITY * SECONDS)
    assert quiet.statuses == {"OK": round(CAPACITY / 4 * SECONDS)}
    assert flooded.statuses.keys() == {"OK", "RESOURCE_EXHAUSTED"}
    assert sum(flooded.statuses.values()) == sent  # nothing is lost, nothing waits for ever
    assert ranker.most_running <= PLACES  # memory is bounded: no queue behind the places
    refused = metrics.registry.get_sample_value(
        "shortlist_calls_refused_total", {"service": "shortlist.v1.Orchestrator"}
    )
    assert refused == flooded.statuses["RESOURCE_EXHAUSTED"]
    record_fault(
        offered_rps=round(3 * CAPACITY),
        answered=flooded.statuses["OK"],
        refused=flooded.statuses["RESOURCE_EXHAUSTED"],
        quiet_p99_ms=_p99(quiet),
        admitted_p99_ms=_p99(flooded),
    )


async def test_fault_13_a_refusal_costs_no_stage(record_fault: Callable[..., None]) -> None:
    ranker, go = KeyRanker(), asyncio.Event()
    ranker.waits[ranker.version] = go
    async with (
        a_world(scorers=[ranker], config=PATIENT) as world,
        served(world.recommender, max_concurrency=PLACES) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        api = of_shortlist(["ann"])
        call, request = channel.unary_unary(api.method), base64.b64decode(api.plain[0])
        admitted = [asyncio.ensure_future(call(request, timeout=60)) for _ in range(PLACES)]
        async with asyncio.timeout(30):
            while len(ranker.queries) < PLACES:
                await asyncio.sleep(0.001)
        asked = len(world.shards[0].queries)
        refusals = [await _refused(call, request) for _ in range(REFUSALS)]
        assert len(world.shards[0].queries) == asked
        go.set()
        pages = [api.parse(answer) for answer in await asyncio.gather(*admitted)]
    assert all(page.complete for page in pages)
    record_fault(refusal_p99_ms=round(1000 * float(np.percentile(refusals, 99)), 2))


@pytest.mark.slow
async def test_fault_13_the_adaptive_limit_refuses_what_would_only_wait(
    record_fault: Callable[..., None],
) -> None:
    """The ranker does four pages at once, and whoever else was let in waits for it."""
    fixed, adaptive = await _flooded(0), await _flooded(FLOOR)
    assert fixed.quiet.statuses.keys() == adaptive.quiet.statuses.keys() == {"OK"}
    assert adaptive.flooded.statuses.keys() == {"OK", "RESOURCE_EXHAUSTED"}
    assert fixed.limit is None
    assert adaptive.limit is not None
    assert FLOOR <= adaptive.limit < CEILING / 2
    record_fault(
        quiet_refused=0,
        fixed_p50_ms=round(fixed.flooded.latency_ms["p50"], 1),
        adaptive_p50_ms=round(adaptive.flooded.latency_ms["p50"], 1),
        fixed_ok_rps=round(fixed.flooded.ok_rps, 1),
        adaptive_ok_rps=round(adaptive.flooded.ok_rps, 1),
        adaptive_limit=adaptive.limit,
    )


@dataclass(frozen=True, kw_only=True)
class Flooded:
    quiet: Step
    flooded: Step
    limit: float | None  # in the end


async def _flooded(min_concurrency: int) -> Flooded:
    metrics = Metrics("orchestrator")
    async with (
        a_world(scorers=[QueueingRanker()], config=PATIENT) as world,
        served(
            world.recommender,
            max_concurrency=CEILING,
            min_concurrency=min_concurrency,
            watch=metrics.calls,
        ) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        return Flooded(
            quiet=await run(_plan(target, CAPACITY / 2), channel),
            flooded=await run(_plan(target, 3 * CAPACITY), channel),
            limit=metrics.registry.get_sample_value(
                "shortlist_calls_adaptive_limit", {"service": "shortlist.v1.Orchestrator"}
            ),
        )


async def _refused(call: Callable[..., Awaitable[bytes]], request: bytes) -> float:
    """Seconds that it took."""
    started = time.perf_counter()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return time.perf_counter() - started


def _plan(target: str, rate: float) -> Plan:
    api = of_shortlist(["ann", "bob"])
    return Plan(target=target, method=api.method, requests=api.plain, rate=rate, seconds=SECONDS)


def _p99(step: Step) -> float:
    return round(step.latency_ms["p99"], 1)
