"""Fault 16, of a redeploy: kill -9 at any step leaves a system that serves and can be put right."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shortlist.fleet import reached
from shortlist.rollout import NoPreviousVersion, Redeploy, RolloutStopped
from tests.shortlist.fleets import QUICK, System, publish_all, running, whole

STRIDE = 6  # lines of the module from one kill to the next: 150 are executed


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    publish_all(tmp_path)
    async with running(tmp_path) as system:
        yield system


@pytest.mark.slow  # a process for each step
async def test_fault_16_a_redeploy_killed_at_any_step_leaves_a_system_that_serves(
    system: System, tmp_path: Path, checkout: Path, record_fault: Callable[..., None]
) -> None:
    found: Counter[str] = Counter()
    async with redeployer(tmp_path, system, checkout) as dies_before_line:
        while await dies_before_line(STRIDE * found.total()):
            page = await system.page()
            assert whole(page), page.degradations
            pointed = system.store.open("retrieval").version
            found[f"{page.versions.retrieval}, {pointed} is current"] += 1
            await put_right(system, finish=found.total() % 2 == 0)
            await back_to_v1(system)
    assert system.active() == {"v2"}  # the last one was not killed
    assert found.total() > 15
    assert {"v1, v1 is current", "v2, v1 is current"} <= found.keys()
    record_fault(killed_at_steps=found.total())


@asynccontextmanager
async def redeployer(
    root: Path, system: System, checkout: Path
) -> AsyncIterator[Callable[[int], object]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.faults.redeployer", str(root), "retrieval", "v2", *system.targets),
        cwd=checkout,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def dies_before_line(number: int) -> bool:
        stdin.write(f"{number}\n".encode())
        answer = (await stdout.readline()).decode().strip()
        assert answer in ("killed", "finished"), f"before line {number}: {answer!r}"
        return answer == "killed"

    yield dies_before_line
    stdin.close()
    await process.wait()


async def put_right(system: System, *, finish: bool) -> None:
    """By running it again, or by a rollback."""
    async with system.redeploy("retrieval") as redeploy:
        if finish:
            await redeploy.deploy("v2")
            expected = {"v2"}
        else:
            try:
                await redeploy.roll_back()
            except NoPreviousVersion:  # nothing had begun
                assert system.store.current("retrieval") == "v1"
            expected = {"v1"}
    assert system.active() == expected
    assert {system.store.current("retrieval")} == expected
    assert system.store.rollout("retrieval") is None
    page = await system.page()
    assert whole(page)
    assert {page.versions.retrieval} == expected


async def back_to_v1(system: System) -> None:
    if system.store.current("retrieval") == "v2":
        async with system.redeploy("retrieval") as redeploy:
            await redeploy.roll_back()
    for shard in system.shards:
        if len(shard.versions.loaded) > 1:
            await shard.versions.retire("v2")


@pytest.mark.parametrize("moment", range(6))
async def test_fault_16_a_replica_that_dies_in_a_redeploy_comes_back_as_the_others(
    moment: int, system: System, record_fault: Callable[..., None]
) -> None:
    """It dies when the job has told so many things."""
    deaths: list[asyncio.Task[None]] = []

    def tell(text: str) -> None:
        system.told.append(text)
        if len(system.told) == moment + 1:
            deaths.append(asyncio.ensure_future(system.restart(1)))

    async with reached(system.targets) as fleet:
        try:
            job = Redeploy(system.store, fleet, "retrieval", QUICK, tell=tell)
            version = (await job.deploy("v2")).version
        except RolloutStopped:
            version = "v1"
    (death,) = deaths
    await death
    assert system.active() == {version}
    assert system.store.current("retrieval") == version
    page = await system.page()
    assert page.versions.retrieval == version
    assert whole(page)
    record_fault(**{f"killed_at_{moment}_ends_with": version})
