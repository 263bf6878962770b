"""Fault 10: orchestrators are killed and started again under clients that know two of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from benchmarks.serving.world import retrieval_version
from orchestrator.supervisor import Child, Supervisor, SupervisorOptions, is_serving
from orchestrator.up import Plan, waves_of
from shortlist.artifacts import ArtifactStore
from shortlist.client import AsyncClient
from shortlist.feed import RecordedEvent
from tests.faults.watched import Watcher, figures, prepare_world

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EVENTS_EVERY_S = 0.05


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restarted")
    prepare_world(folder)
    store = ArtifactStore(folder / "artifacts")
    store.promote("retrieval", retrieval_version(2), expected=None)
    store.promote("ranking", "fast", expected=None)
    return folder


async def test_fault_10_no_request_fails_while_each_orchestrator_is_killed_and_restarted(
    world: Path, record_fault: Callable[..., None]
) -> None:
    async with two_orchestrators(world) as both, client_of(both) as client:
        watcher, sender = Watcher(client), Sender(client)
        async with watcher.watching(), sender.sending():
            before = await watcher.stretch()
            moment, ready_s = watcher.moment(), []
            for child in both:
                ready_s.append(await killed_and_serving_again(child))
                await watcher.stretch()
            during = watcher.since(moment)
    assert during.reasons == set()
    stored = events_of(world)
    assert sorted(stored) == sorted(sender.sent)  # nothing lost, nothing twice
    record_fault(
        **figures(before, during),
        ready_after_s=round(max(ready_s), 1),
        events_sent=len(sender.sent),
        events_lost=0,
        events_sent_again=sender.duplicates,
    )


class Sender:
    """Events at a steady rate, each of which must be acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self.sent: list[str] = []
        self.duplicates = 0
        self._client = client

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_until(stopped, group))
            yield
            stopped.set()

    async def _send_until(self, stopped: asyncio.Event, group: asyncio.TaskGroup) -> None:
        while not stopped.is_set():
            self.sent.append(f"e-{len(self.sent)}")
            group.create_task(self._send(self.sent[-1]))
            await asyncio.sleep(EVENTS_EVERY_S)

    async def _send(self, event_id: str) -> None:
        event = RecordedEvent(event_id=event_id, user_id="somebody", item_id="something")
        report = await self._client.record_events([event])
        assert report.accepted + report.duplicates == 1, report.errors
        self.duplicates += report.duplicates


@asynccontextmanager
async def two_orchestrators(world: Path) -> AsyncIterator[list[Child]]:
    """Over one pair of shards and one ranker; whatever dies is started again."""
    plan = Plan(workdir=world, orchestrators=2, port=0)
    options = SupervisorOptions(restart=True)
    supervisor = Supervisor(world / "run", waves_of(plan), options=options)
    async with supervisor.running():
        yield [one for one in supervisor.children if one.spec.role == "orchestrator"]


def client_of(children: list[Child]) -> AsyncClient:
    return AsyncClient([one.address for one in children], timeout_s=60)


async def killed_and_serving_again(child: Child) -> float:
    """Seconds from its death until its successor serves."""
    dead, started = child.pid, time.perf_counter()
    os.kill(dead, signal.SIGKILL)
    async with asyncio.timeout(120):
        while child.pid == dead or not child.running:
            await asyncio.sleep(0.02)
        await child.until_serving(is_serving)
    return time.perf_counter() - started


def events_of(world: Path) -> list[str]:
    with closing(sqlite3.connect(world / "store.sqlite")) as connection:
        return [event_id for (event_id,) in connection.execute("SELECT event_id FROM events")]
