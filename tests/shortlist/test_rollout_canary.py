"""A rollout that shows the new version to a share of the users first, while they ask for pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shortlist.page import Page
from shortlist.rollout import Outcome, RolloutStopped
from shortlist.rollout_client import Guards
from tests.shortlist.fleets import System, publish_all, running, whole

USERS = [f"user-{number}" for number in range(30)]
SHARE = 0.3


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    publish_all(tmp_path)
    async with running(tmp_path) as system:
        yield system


@contextlib.asynccontextmanager
async def asking(system: System) -> AsyncIterator[list[tuple[str, Page]]]:
    """Everybody in turn, without a pause; who asked, and what came."""
    pages: list[tuple[str, Page]] = []

    async def ask() -> None:
        while True:
            for user in USERS:
                pages.append((user, await system.page(user_id=user, page_size=10)))

    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask())
        try:
            yield pages
        finally:
            task.cancel()


async def deploy(
    system: System, tier: str, version: str, guards: Guards, watch_s: float
) -> Outcome:
    async with system.redeploy(tier) as redeploy:
        return await redeploy.deploy(version, canary=SHARE, watch_s=watch_s, guards=guards)


@pytest.mark.parametrize(
    ("tier", "old", "new"), [("retrieval", "v1", "v2"), ("ranking", "r1", "r2")]
)
async def test_some_users_get_the_new_version_and_then_everybody(
    tier: str, old: str, new: str, system: System
) -> None:
    calm = Guards(max_p99_ratio=1000.0, click_rate_alpha=0.01)
    async with asking(system) as pages:
        outcome = await deploy(system, tier, new, calm, watch_s=2.0)
        during = len(pages)
        while len(pages) < during + 2 * len(USERS):
            await asyncio.sleep(0.01)
    assert all(whole(page) for _, page in pages)
    seen = defaultdict(set)
    for user, page in pages[:during]:
        seen[user].add(getattr(page.versions, tier))
    kept_old = [user for user, versions in seen.items() if versions == {old}]
    first = [user for user, versions in seen.items() if new in versions]
    assert 0 < len(first) < len(USERS) / 2
    assert len(kept_old) + len(first) == len(USERS)
    assert {getattr(page.versions, tier) for _, page in pages[during + len(USERS) :]} == {new}
    [canary] = outcome.canary
    assert canary.share == SHARE
    assert canary.rolled_back_because == ""
    assert system.store.current(tier) == new


async def test_a_canary_that_an_orchestrator_ends_takes_the_rollout_back(system: System) -> None:
    strict = Guards(min_requests=20, max_degraded_rate_increase=0.01, max_p99_ratio=1000.0)
    async with asking(system) as pages:
        rollout = asyncio.create_task(deploy(system, "retrieval", "v2", strict, watch_s=60.0))
        while not any(page.versions.retrieval == "v2" for _, page in pages):
            await asyncio.sleep(0.01)
        before = len(pages)
        for replica in system.shards[:2]:  # both that have the first half lose the new version
            await replica.versions.retire("v2")
        after = len(pages) + 1  # and the page that is under way
        with pytest.raises(RolloutStopped, match=r"ended the canary.*v1 serves everywhere"):
            await rollout
        ended = len(pages)
        while len(pages) < ended + len(USERS):
            await asyncio.sleep(0.01)
    # A page whose version goes away between its stages has to make do without a part.
    others = pages[:before] + pages[after:]
    assert all(whole(page) for _, page in others), "the pair before answered in its place"
    assert {page.versions.retrieval for _, page in pages[ended:]} == {"v1"}
    assert system.store.current("retrieval") == "v1"
    assert system.loaded() == [["v1"]] * 4
    assert system.store.rollout("retrieval") is None
