"""Fault 11: each tier is redeployed and rolled back under load. Nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shortlist.config import DeploymentConfig
from shortlist.page import DegradationReason, Page
from tests.shortlist.fleets import System, publish_all, running, titled, whole

ASKING = 4  # at once
SHORT_OF_A_SHARD = {DegradationReason.SHARD_VERSION, DegradationReason.PAGE_UNDERFILLED}
UNKEPT = DeploymentConfig(keep_previous=False, drain_s=0.5)


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    publish_all(tmp_path)
    async with running(tmp_path) as system:
        yield system


class Load:
    """Pages, and the pages after them, asked for without a pause."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.pages: list[Page] = []
        self.errors: list[str] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask()) for _ in range(ASKING)]
            try:
                yield
                await asyncio.sleep(0.3)  # of the last version, too
            finally:
                for task in tasks:
                    task.cancel()

    async def sees(self, tier: str, version: str) -> None:
        """Until a page of it was served."""
        async with asyncio.timeout(30):
            while version not in self.served(tier):
                await asyncio.sleep(0.01)

    async def _ask(self) -> None:
        while True:
            try:
                page = await self._system.page(page_size=10)
                self.pages.append(page)
                self.pages.append(
                    await self._system.page(page_size=10, page_token=page.next_page_token)
                )
            except Exception as error:
                self.errors.append(str(error))

    def served(self, tier: str) -> Counter[str]:
        return Counter(getattr(page.versions, tier) for page in self.pages)


@pytest.mark.parametrize("tier", ["retrieval", "ranking"])
async def test_fault_11_a_redeploy_and_a_rollback_under_load_fail_and_mix_nothing(
    tier: str, system: System, record_fault: Callable[..., None]
) -> None:
    new, old = {"retrieval": ("v2", "v1"), "ranking": ("r2", "r1")}[tier]
    load = Load(system)
    async with load.running():
        await load.sees(tier, old)
        async with system.redeploy(tier) as redeploy:
            await redeploy.deploy(new)
        await load.sees(tier, new)
        async with system.redeploy(tier) as redeploy:
            await redeploy.roll_back()
    assert load.errors == []
    assert [page for page in load.pages if not whole(page)] == []
    assert load.served(tier).keys() == {new, old}
    record_fault(**{f"pages_{tier}": len(load.pages), "failed": 0, "mixed": 0})


async def test_fault_11_a_version_is_unloaded_under_load_and_only_its_listings_end(
    system: System,
) -> None:
    load = Load(system)
    async with load.running(), system.redeploy("retrieval", UNKEPT) as redeploy:
        await redeploy.deploy("v2")
    assert system.loaded() == [["v2"]] * 4
    # The next page of a listing that began before needs the version that it began with: it ends,
    # or is short of what shards had that have just unloaded it. Nothing is mixed all the same.
    assert all("start again without page_token" in error for error in load.errors), load.errors
    assert [page for page in load.pages if len({*titled(page), page.versions.retrieval}) > 1] == []
    short = [page for page in load.pages if not whole(page)]
    assert {one.reason for page in short for one in page.degradations} <= SHORT_OF_A_SHARD
