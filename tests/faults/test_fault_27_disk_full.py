"""Fault 27: there is no room left. Events are refused with `RESOURCE_EXHAUSTED` and nothing of them
is acknowledged; pages go on, and with room again all that was acknowledged is there, once."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from shortlist.client import AsyncClient
from shortlist.errors import ShortlistError
from shortlist.feed import RecordedEvent
from shortlist.live import LiveEvent
from shortlist.page import Page, PageRequest
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.redis import RedisStore
from tests.contracts.store import all_events, an_event
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world, item_ids, reasons
from tests.redis_server import RedisServer

BATCH = 20  # events of a call
FILLER = {"device": "x" * 4000}
WITHOUT_ROOM = 25  # calls
PAGES = 40


@dataclass
class Sender:
    """Sends events of the users `u0`, `u1`, ... and remembers what became of them."""

    client: AsyncClient
    calls: list[list[RecordedEvent]] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)  # ids of events
    refused: list[list[RecordedEvent]] = field(default_factory=list)  # calls
    statuses: set[str] = field(default_factory=set)

    async def send(self, call: list[RecordedEvent] | None = None) -> bool:
        """One call, a new one unless given; whether it was acknowledged."""
        if call is None:
            call = self._next()
        try:
            report = await self.client.record_events(call)
        except ShortlistError as error:
            self.refused.append(call)
            self.statuses.add(error.status_name)
            return False
        assert report.errors == ()
        assert report.accepted + report.duplicates == len(call)
        self.acknowledged.update(event.event_id for event in call)
        return True

    def _next(self) -> list[RecordedEvent]:
        """All events of a call are of one user, and of items that no other call has."""
        number = len(self.calls)
        self.calls.append(
            [
                RecordedEvent(
                    event_id=f"{number}-{at}",
                    user_id=f"u{number}",
                    item_id=f"i{(BATCH * number + at) % 300}",
                    context=FILLER,
                )
                for at in range(BATCH)
            ]
        )
        return self.calls[-1]


async def fill_up(sender: Sender) -> None:
    """Until there is no room; then go on trying for a while."""
    for _ in range(10_000):
        if not await sender.send():
            break
    for _ in range(WITHOUT_ROOM):
        await sender.send()
    assert sender.acknowledged
    assert sender.statuses == {"RESOURCE_EXHAUSTED"}


async def check_pages(sender: Sender) -> None:
    """They are complete, know what was acknowledged, and nothing else."""
    accepted = [call for call in sender.calls if call[0].event_id in sender.acknowledged]
    for call in [*accepted[-PAGES // 2 :], *sender.refused[-PAGES // 2 :]]:
        user_id, items = call[0].user_id, {event.item_id for event in call}
        page = await complete_page(sender.client, user_id)
        known = call[0].event_id in sender.acknowledged
        assert page.cold_start == (not known)
        assert items.isdisjoint(item_ids(page)) == known


async def complete_page(client: AsyncClient, user_id: str) -> Page:
    """A busy machine may take longer over a profile than a page waits, but not every time."""
    for _ in range(10):
        page = await client.recommend(PageRequest(user_id=user_id, page_size=200))
        if not reasons(page):
            break
    assert reasons(page) == []
    return page


async def send_again(sender: Sender) -> None:
    """What was refused, and something new."""
    refused, sender.refused = sender.refused, []
    for call in refused:
        assert await sender.send(call)
    assert await sender.send()
    assert not sender.refused


def check_stored(sender: Sender, found: list[str]) -> dict[str, int]:
    """All that was acknowledged is there, once, and nothing else; the figures of it."""
    lost = len(sender.acknowledged - set(found))
    doubled = len(found) - len(set(found))
    assert (lost, doubled) == (0, 0)
    assert set(found) == sender.acknowledged
    return {"acknowledged": len(found), "lost": lost, "duplicated": doubled}


async def run_out_of_room(
    target: str,
    make_room: Callable[[], Awaitable[object]],
    scan: Callable[[], Awaitable[list[str]]],
) -> dict[str, int]:
    """The whole story; figures."""
    async with AsyncClient(target) as client:
        sender = Sender(client)
        await fill_up(sender)
        refused_calls = len(sender.refused)
        await check_pages(sender)
        check_stored(sender, await scan())
        await make_room()
        await send_again(sender)
        await check_pages(sender)
        return {"refused_calls": refused_calls} | check_stored(sender, await scan())


@pytest.mark.slow  # starts a process
@pytest.mark.parametrize("how", ["limit", "tmpfs"])
async def test_fault_27_a_full_disk_refuses_events_and_pages_go_on(
    how: str, tmp_path: Path, checkout: Path, record_fault: Callable[..., None]
) -> None:
    async with cramped(how, tmp_path, checkout) as (target, order):

        async def scan() -> list[str]:
            found: list[str] = json.loads(await order("scan"))
            return found

        figures = await run_out_of_room(target, lambda: order("room"), scan)
    record_fault(**{f"{how}_{name}": value for name, value in figures.items()})


@pytest.mark.slow  # starts a server
async def test_fault_27_a_redis_server_without_memory_refuses_events_and_pages_go_on(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    server = RedisServer(tmp_path, "--maxmemory", "3mb")
    server.start()
    store = RedisStore(server.url)
    await store.replace_base(a_world().users.items(), ())
    admin: Any = Redis.from_url(server.url)

    async def scan() -> list[str]:
        return [stored.event.event_id for stored in await all_events(store)]

    async with a_world(store=store) as world, served(world.recommender) as target:
        figures = await run_out_of_room(target, lambda: admin.config_set("maxmemory", 0), scan)
    await admin.aclose()
    server.stop()
    record_fault(**{f"redis_{name}": value for name, value in figures.items()})


@pytest.mark.slow  # starts a server
async def test_fault_27_a_redis_server_that_a_full_disk_has_ended_lost_nothing(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    """With `appendfsync always` the server ends rather than answer what it could not write."""
    server = RedisServer(tmp_path)
    server.start()
    server.limit_files(1 << 20)
    store = RedisStore(server.url)
    acknowledged: set[str] = set()
    refused: list[LiveEvent] = []
    while not refused:
        start = len(acknowledged)
        call = [an_event(start + at, attribution=FILLER) for at in range(BATCH)]
        try:
            await store.append(call)
            acknowledged.update(event.event_id for event in call)
        except ProfilesUnavailable:
            refused = call
    server.kill()  # what is left of it, should there be any
    server.start()
    found = [stored.event.event_id for stored in await all_events(store)]
    assert set(found) == acknowledged
    await store.append(refused)
    found = [stored.event.event_id for stored in await all_events(store)]
    assert set(found) == acknowledged | {event.event_id for event in refused}
    assert len(found) == len(set(found))
    await store.close()
    server.stop()
    record_fault(redis_disk_acknowledged=len(acknowledged), redis_disk_lost=0)


@asynccontextmanager
async def cramped(
    how: str, folder: Path, checkout: Path
) -> AsyncIterator[tuple[str, Callable[[str], Awaitable[str]]]]:
    """The address of a world whose store has little room, and what to tell its process."""
    process = await asyncio.create_subprocess_exec(
        *_namespace(how),
        *(sys.executable, "-m", "tests.faults.cramped", str(folder), how),
        cwd=checkout,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def order(line: str) -> str:
        process.stdin.write(f"{line}\n".encode())
        return (await process.stdout.readline()).decode()

    try:
        serving = (await process.stdout.readline()).split()
        assert serving[:1] == [b"serving"]
        yield f"127.0.0.1:{serving[1].decode()}", order
        await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _namespace(how: str) -> list[str]:
    """What lets a process mount a file system of its own, even if not run by root."""
    if how != "tmpfs":
        return []
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    tried = [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if not shutil.which("unshare") or subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system in a namespace of their own")
    return command
