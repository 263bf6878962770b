"""Fault 14: what blocks the orchestrator's event loop shows in its metrics, and little does."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving.systems import KINDS, running
from benchmarks.serving.world import WorldShape, prepare
from shortlist.client import AsyncClient
from shortlist.metrics import Metrics
from shortlist.page import PageRequest
from shortlist.tiers import ScoreQuery, Scores
from tests.orchestrator.wire import served
from tests.orchestrator.world import KeyRanker, a_world

BLOCK_S = 0.05
PAGES, IN_FLIGHT = 400, 8


class BlockingRanker(KeyRanker):
    """Holds the event loop up once: what nobody should do."""

    blocked = False

    async def score(self, query: ScoreQuery) -> Scores:
        if not self.blocked:
            self.blocked = True
            time.sleep(BLOCK_S)
        return await super().score(query)


async def test_fault_14_a_block_of_fifty_milliseconds_shows_in_the_metric(
    record_fault: Callable[..., None],
) -> None:
    metrics = Metrics("orchestrator")
    ranker = BlockingRanker()
    async with (
        a_world(scorers=[ranker], watches=metrics.watches) as world,
        served(world.recommender, watch=metrics.calls) as target,
        AsyncClient(target) as client,
    ):
        with metrics.served("127.0.0.1", 0) as port:
            await client.recommend(PageRequest(user_id="ann"))
            lag_s = (await _scraped(port))["shortlist_event_loop_lag_max_seconds"]
    assert ranker.blocked
    assert lag_s >= BLOCK_S
    record_fault(lag_of_a_50_ms_block_ms=round(1000 * lag_s, 1))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, but with a ranker of full size."""
    folder = tmp_path_factory.mktemp("world")
    prepare(folder, WorldShape(items=5000, users=PAGES), print)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_fault_14_pages_under_load_and_how_late_the_loop_gets(
    kind: str, world: Path, record_fault: Callable[..., None]
) -> None:
    async with running(world, kind, "fast", rankers=1) as system:
        async with AsyncClient(system.target, timeout_s=60, retries=False) as client:
            await _pages(client)
        assert system.orchestrator.metrics_port
        figures = await _scraped(system.orchestrator.metrics_port)
    assert figures["shortlist_event_loop_lag_seconds_count"] > 0
    # The load, the tiers and whatever else runs share the cores: shown, not asserted.
    lag_s, busy_s = (figures[f"shortlist_event_loop_{of}_max_seconds"] for of in ("lag", "busy"))
    record_fault(
        **{
            f"{kind}_lag_max_ms": round(1000 * lag_s, 1),
            f"{kind}_busy_max_ms": round(1000 * busy_s, 1),
        }
    )


async def _pages(client: AsyncClient) -> None:
    numbers = iter(range(PAGES))

    async def ask() -> None:
        for number in numbers:
            page = await client.recommend(PageRequest(user_id=f"user-{number:06d}", page_size=100))
            assert page.degradations == ()

    await asyncio.gather(*(ask() for _ in range(IN_FLIGHT)))


async def _scraped(port: int) -> dict[str, float]:
    """Samples without labels, by name."""
    text = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
