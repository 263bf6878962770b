from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shortlist.config import StoreConfig
from shortlist.live import LiveEvent
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.redis import RedisStore
from tests.contracts.store import an_event
from tests.faults.any_store import profile_bytes, replayed
from tests.redis_server import RedisServer

SEED = 23


@pytest.mark.slow  # kills a hundred writers
def test_a_writer_killed_while_ingesting_loses_and_doubles_nothing(
    tmp_path: Path, checkout: Path, record_fault: Callable[..., None]
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.ingester", str(tmp_path), "100", str(SEED)],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(run.stdout)
    assert figures["acknowledged"] > 1000
    assert (figures["lost"], figures["duplicated"], figures["wrong_profiles"]) == (0, 0, 0)
    record_fault(seed=SEED, **figures)


@pytest.mark.slow  # kills twenty servers
async def test_a_redis_server_killed_while_ingesting_loses_and_doubles_nothing(
    tmp_path: Path, record_fault: Callable[..., None]
) -> None:
    chance = random.Random(SEED)
    server = RedisServer(tmp_path)
    server.start()
    sent: dict[str, LiveEvent] = {}
    acknowledged: set[str] = set()
    lost = duplicated = 0
    for number in range(20):
        store = RedisStore(server.url)
        callers = [
            asyncio.create_task(send(store, f"{number}-{lane}", sent, acknowledged))
            for lane in range(4)
        ]
        await asyncio.sleep(0.05 + chance.random() * 0.1)
        server.kill()
        await asyncio.gather(*callers)
        server.start()
        found = [stored.event.event_id async for stored in store.events(0, await store.head())]
        lost += len(acknowledged - set(found))
        duplicated += len(found) - len(set(found))
        await store.close()
    store = RedisStore(server.url)
    users = [f"user-{n}" for n in range(5)]
    oracle = await replayed([sent[id] for id in found], StoreConfig())
    assert await profile_bytes(store, users) == await profile_bytes(oracle, users)
    await store.close()
    server.stop()
    assert len(acknowledged) > 100
    assert (lost, duplicated) == (0, 0)
    record_fault(
        seed=SEED, rounds=20, acknowledged=len(acknowledged), lost=lost, duplicated=duplicated
    )


async def send(
    store: RedisStore, lane: str, sent: dict[str, LiveEvent], acknowledged: set[str]
) -> None:
    """Until the server is gone; some is sent again, as clients do."""
    chance = random.Random(lane)
    number = 0
    while True:
        events = []
        for _ in range(chance.randrange(1, 17)):
            number += 1
            id = f"{lane}-{number}"
            sent[id] = an_event(number, user=f"user-{chance.randrange(5)}", event_id=id)
            events.append(sent[id])
        events.append(sent[f"{lane}-{chance.randrange(1, number + 1)}"])
        try:
            await store.append(events)
        except ProfilesUnavailable:
            return
        acknowledged.update(event.event_id for event in events)
