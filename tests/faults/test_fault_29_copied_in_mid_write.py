"""Fault 29: a copy of the store, made while it was written, has lost the end of its log. It opens
with all events up to some moment, and with the profiles that these events make."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist.live import LiveEvent
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.memory import MemoryStore
from shortlist.stores.redis import RedisStore
from tests.contracts.store import TIGHT, all_events, an_event
from tests.faults.any_store import profile_bytes
from tests.redis_server import RedisServer

SEED = 29
CUTS = 12
USERS = [f"user-{n}" for n in range(5)]


@pytest.mark.slow  # opens seventy copies
def test_fault_29_a_copy_of_a_sqlite_store_opens_as_a_prefix(
    tmp_path: Path, checkout: Path, record_fault: Callable[..., None]
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.copier", str(tmp_path), "10", "6", str(SEED)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(run.stdout)
    assert figures["shortened"] > 0
    assert figures["begun_anew"] > 0
    assert (figures["lost"], figures["gaps"], figures["wrong_profiles"]) == (0, 0, 0)
    record_fault(seed=SEED, **figures)


@pytest.mark.slow  # starts a server a cut
async def test_fault_29_a_copy_of_a_redis_log_opens_as_a_prefix(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    chance = random.Random(SEED)
    sent: dict[str, LiveEvent] = {}
    acknowledged: set[str] = set()
    server = RedisServer(tmp_path / "live")
    server.start()
    store = RedisStore(server.url, TIGHT)
    writing = [asyncio.create_task(send(store, lane, sent, acknowledged)) for lane in range(4)]
    while len(acknowledged) < 1500:
        await asyncio.sleep(0.01)
    server.kill()
    await asyncio.gather(*writing)
    await store.close()

    whole, _ = await opened(tmp_path / "live", None, tmp_path / "cut")
    assert acknowledged <= set(whole)
    shortened = 0
    oracle, known = MemoryStore(config=TIGHT), 0
    length = log_of(tmp_path / "live").stat().st_size
    for stays in sorted(chance.randrange(length) for _ in range(CUTS)):
        found, profiles = await opened(tmp_path / "live", stays, tmp_path / "cut")
        assert found == whole[: len(found)]
        shortened += len(found) < len(whole)
        for id in found[known:]:
            await oracle.append([sent[id]])
        known = len(found)
        assert profiles == await profile_bytes(oracle, USERS)
    assert shortened > 0
    record_fault(
        seed=SEED,
        cuts=CUTS,
        shortened=shortened,
        events=len(whole),
        lost=len(acknowledged - set(whole)),
        gaps=0,
        wrong_profiles=0,
    )


async def send(
    store: RedisStore, lane: int, sent: dict[str, LiveEvent], acknowledged: set[str]
) -> None:
    """Until the server is gone."""
    chance = random.Random(lane)
    number = 0
    while True:
        events = []
        for _ in range(chance.randrange(1, 17)):
            number += 1
            id = f"{lane}-{number}"
            user = chance.choice(USERS)
            time_ms = an_event(chance.randrange(1000)).time_ms
            events.append(an_event(number, user=user, event_id=id, time_ms=time_ms))
            sent[id] = events[-1]
        try:
            await store.append(events)
        except ProfilesUnavailable:
            return
        acknowledged.update(event.event_id for event in events)


async def opened(source: Path, stays: int | None, folder: Path) -> tuple[list[str], list[bytes]]:
    """The events of a copy whose log ends after `stays` bytes, and its profiles; it also has to
    take in more, and to have that after one more restart.
    """
    shutil.copytree(source, folder)
    if stays is not None:
        os.truncate(log_of(folder), stays)
    server = RedisServer(folder)
    server.start()
    store = RedisStore(server.url, TIGHT)
    events = [stored.event.event_id for stored in await all_events(store)]
    profiles = await profile_bytes(store, USERS)
    assert await store.head() == len(events)
    assert (await store.append([an_event(0, user="new")])).sequence == len(events) + 1
    await store.close()
    server.kill()
    server.start()
    store = RedisStore(server.url, TIGHT)
    later = [stored.event.event_id for stored in await all_events(store)]
    assert later == [*events, an_event(0).event_id]
    assert await profile_bytes(store, USERS) == profiles
    assert await store.get("new") is not None
    await store.close()
    server.stop()
    shutil.rmtree(folder)
    return events, profiles


def log_of(folder: Path) -> Path:
    """The file that a server appends to: one, or since Redis 7 one of several."""
    files = sorted(folder.rglob("*.aof"))
    return next((file for file in files if ".incr." in file.name), files[-1])
