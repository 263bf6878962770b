"""`python -m tests.faults.cramped FOLDER HOW`: a served world whose SQLite store has little room.

HOW is `tmpfs` (a file system of 2 MiB of its own, on FOLDER, which no other process sees; wants the
right to mount, as `unshare --user --map-root-user --mount` gives it) or `limit` (no file may be
larger than 1 MiB). Says `serving PORT`; then obeys lines: `room` makes room, `scan` prints the ids
of all events in the store, in their order.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path

from shortlist.stores.sqlite import SqliteStore
from tests.orchestrator.wire import served
from tests.orchestrator.world import a_world

MIB = 1 << 20


def take_room(how: str, folder: Path) -> None:
    if how == "tmpfs":
        _mount(folder, f"size={2 * MIB}")


def limit_files(how: str, most_bytes: int) -> None:
    """Once the file exists: what is at stake is an event, not the first start."""
    if how == "limit":
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))


def make_room(how: str, folder: Path) -> None:
    if how == "tmpfs":
        _mount(folder, f"remount,size={64 * MIB}")
    limit_files(how, resource.RLIM_INFINITY)


def _mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


async def main(folder: Path, how: str) -> None:
    take_room(how, folder)
    store = SqliteStore(folder / "store.sqlite")
    await store.replace_base(a_world().users.items(), ())
    limit_files(how, MIB)
    async with a_world(store=store) as world, served(world.recommender) as target:
        print("serving", target.rpartition(":")[2], flush=True)
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if line == "room":
                make_room(how, folder)
                print("made", flush=True)
            else:
                events = [one.event.event_id async for one in store.events(0, await store.head())]
                print(json.dumps(events), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
