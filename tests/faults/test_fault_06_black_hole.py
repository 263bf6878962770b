"""Fault 6: one replica's port is a black hole. It must not eat the budget of a page."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shortlist.client import AsyncClient
from tests.faults.replicated import BUDGETS, USERS, black_hole, replicated
from tests.faults.watched import PAGES, Watcher, figures, recovery
from tests.orchestrator.world import a_world

RATE = 20.0  # pages a second


@pytest.mark.slow  # takes seconds: connecting to a black hole does
@pytest.mark.parametrize("kind", ["full", "mute"])
async def test_fault_6_a_port_that_answers_nothing_costs_no_page_its_budget(
    kind: str, record_fault: Callable[..., None]
) -> None:
    budget_ms = BUDGETS.serving.request_budget_ms
    world = a_world()
    async with (
        replicated(world, replicas=1) as target,
        AsyncClient(target, retries=False) as client,
    ):
        watcher = Watcher(client, users=USERS, rate=RATE)
        async with watcher.watching():
            before = await watcher.stretch()
    async with (
        black_hole(kind) as nobody,
        replicated(world, replicas=1, elsewhere=nobody) as target,
        AsyncClient(target, retries=False) as client,
    ):
        watcher = Watcher(client, users=USERS, rate=RATE)
        async with watcher.watching():
            moment = watcher.moment()
            await watcher.answered(5 * PAGES)
            during = watcher.since(moment)
    assert before.lowest_coverage == 1.0
    assert during.slowest_ms < budget_ms
    # The sibling is asked when the black hole has not answered in time, and then instead of it.
    assert during.last(PAGES).lowest_coverage == 1.0
    assert during.last(PAGES).reasons == set()
    told = {**figures(before, during), **recovery(moment, before, during)}
    record_fault(**{f"{kind}_{name}": value for name, value in told.items()})
