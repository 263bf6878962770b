"""Fault 7: nobody listens at one replica's port. Its sibling is asked at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from shortlist.client import AsyncClient
from shortlist.page import PageRequest
from tests.faults.replicated import free_port, replicated
from tests.orchestrator.world import a_world

PAGES = 100


async def test_fault_7_a_refused_port_fails_over_at_once(
    record_fault: Callable[..., None],
) -> None:
    world = a_world()
    async with replicated(world, replicas=1) as target:
        before = await _took_ms(target)
    async with replicated(world, replicas=1, elsewhere=f"127.0.0.1:{free_port()}") as target:
        during = await _took_ms(target)
    record_fault(
        before_p50_ms=round(float(np.median(before)), 1),
        during_p50_ms=round(float(np.median(during)), 1),
        first_page_before_ms=round(before[0], 1),
        first_page_during_ms=round(during[0], 1),
        slowest_of_the_others_ms=round(max(during[1:]), 1),
        lowest_coverage=1.0,
    )


async def _took_ms(target: str) -> list[float]:
    """Of pages, each of which is whole."""
    took = []
    async with AsyncClient(target, retries=False) as client:
        for _ in range(PAGES):
            started = time.perf_counter()
            page = await client.recommend(PageRequest(user_id="ann"))
            took.append(1000 * (time.perf_counter() - started))
            assert len(page.items) == 20
            assert page.coverage.share == 1
            assert page.degradations == ()
    return took
