"""Fault 12: a tier answers every call with UNAVAILABLE. Retries must not multiply its load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from shortlist.client import AsyncClient
from shortlist.errors import TierUnavailable
from shortlist.page import Page, PageRequest
from tests.faults.replicated import replicated
from tests.orchestrator.world import ArrayShard, KeyRanker, World, a_world

REPLICAS = 2
ASKING = 8  # at once
WARM_UP, PAGES = 200, 400
MOST_ATTEMPTS = 1.1  # a request


@pytest.mark.slow  # takes seconds
@pytest.mark.parametrize(
    ("tier", "reason"), [("ranking", "RANKER_FALLBACK"), ("retrieval", "SHARD_DOWN")]
)
async def test_fault_12_a_tier_that_is_unavailable_is_not_asked_twice_for_every_page(
    tier: str, reason: str, record_fault: Callable[..., None]
) -> None:
    world = a_world(replicas=REPLICAS, rankers=REPLICAS)
    async with (
        replicated(world, replicas=REPLICAS) as target,
        AsyncClient(target, retries=False) as client,
    ):
        assert (await client.recommend(PageRequest(user_id="ann"))).degradations == ()
        failing = _parts(world, tier)
        for one in failing:
            one.fails = TierUnavailable("overloaded")
        await _ask(client, WARM_UP)  # what may be tried again before it is known that it is futile
        warm = _attempts(failing)
        pages = await _ask(client, PAGES)
        attempts = (_attempts(failing) - warm) / PAGES
    assert all(len(page.items) == 20 for page in pages)
    assert {str(one.reason) for page in pages for one in page.degradations} == {reason}
    assert all(page.degradations for page in pages)
    assert attempts <= MOST_ATTEMPTS
    record_fault(
        **{
            f"{tier}_attempts_a_page": round(attempts, 3),
            f"{tier}_attempts_a_page_at_first": round(warm / WARM_UP, 3),
            f"{tier}_lowest_coverage": min(page.coverage.share for page in pages),
        }
    )


def _parts(world: World, tier: str) -> Sequence[ArrayShard | KeyRanker]:
    """All replicas of the ranker, or of the first shard."""
    return world.rankers if tier == "ranking" else world.shards[:REPLICAS]


def _attempts(failing: Sequence[ArrayShard | KeyRanker]) -> int:
    return sum(len(one.queries) for one in failing)


async def _ask(client: AsyncClient, pages: int) -> list[Page]:
    numbers, answers = iter(range(pages)), []

    async def ask() -> None:
        for _ in numbers:
            answers.append(await client.recommend(PageRequest(user_id="ann")))

    await asyncio.gather(*(ask() for _ in range(ASKING)))
    return answers
