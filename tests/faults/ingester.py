"""`python -m tests.faults.ingester FOLDER ROUNDS SEED`: writers that are killed while they write.

Each round forks a writer that appends to one SQLite store and tells through a pipe what was
acknowledged. It is killed at a random moment. Then everything in the file is compared with what was
acknowledged and what was sent. Prints a JSON object of figures; exits with 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

from shortlist.config import StoreConfig
from shortlist.live import LiveEvent
from shortlist.stores.sqlite import SqliteStore
from tests.faults.any_store import profile_bytes, replayed

USERS = [f"user-{n}" for n in range(5)]
CONFIG = StoreConfig(history_length=50, seen_length=40)
_START_MS = 1_700_000_000_000


def event(number: int) -> LiveEvent:
    """The same for the same number, so what was sent need not be kept."""
    chance = random.Random(number)
    return LiveEvent(
        event_id=f"e-{number}",
        user_id=chance.choice(USERS),
        item_id=f"item-{chance.randrange(100)}",
        event_type=chance.choice(["click", "like"]),
        time_ms=_START_MS + chance.randrange(10**6),
        weight=chance.choice([0.0, 1.0]),
    )


def write_until_killed(path: Path, first: int, told: int, seed: int) -> None:
    """Appends from several callers; every fourth call sends something again, as clients do."""

    async def caller(store: SqliteStore, lane: int) -> None:
        chance = random.Random(seed * 100 + lane)
        number = first + lane * 100_000
        while True:
            size = chance.randrange(1, 33)
            numbers = list(range(number, number + size))
            number += size
            if chance.random() < 0.25:
                numbers += [chance.randrange(1, number) for _ in range(3)]
            answer = await store.append([event(n) for n in numbers])
            # What was known before is acknowledged as well.
            os.write(told, " ".join(map(str, numbers)).encode() + b"\n")
            assert not answer.forgotten

    async def run() -> None:
        store = SqliteStore(path, CONFIG)
        await asyncio.gather(*(caller(store, lane) for lane in range(4)))

    asyncio.run(run())


def one_round(path: Path, first: int, seed: int, chance: random.Random) -> set[int]:
    """Numbers that were acknowledged before the writer was killed."""
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        try:
            write_until_killed(path, first, tells, seed)
        finally:
            os._exit(1)
    os.close(tells)
    heard = os.read(told, 1)  # it is at work
    time.sleep(chance.random() * 0.08)
    os.kill(child, signal.SIGKILL)
    while piece := os.read(told, 1 << 16):
        heard += piece
    os.close(told)
    os.waitpid(child, 0)
    whole_lines = heard.rpartition(b"\n")[0]
    return {int(number) for number in whole_lines.split()}


def scan(path: Path) -> list[int]:
    """The numbers of all events in the file, read row by row and not from an index."""
    with closing(sqlite3.connect(path)) as connection:
        broken = connection.execute("PRAGMA quick_check").fetchall()
        assert broken == [("ok",)], broken
        rows = connection.execute("SELECT sequence, event_id FROM events NOT INDEXED").fetchall()
    assert [sequence for sequence, _ in rows] == list(range(1, len(rows) + 1))
    return [int(event_id.removeprefix("e-")) for _, event_id in rows]


async def profiles_are_right(path: Path, numbers: list[int]) -> bool:
    """Compared with those of the trusted store after the same events."""
    oracle = await replayed([event(number) for number in numbers], CONFIG)
    store = SqliteStore(path, CONFIG)
    same = await profile_bytes(store, USERS) == await profile_bytes(oracle, USERS)
    await store.close()
    return same


def main(folder: Path, rounds: int, seed: int) -> int:
    path, chance = folder / "store.sqlite", random.Random(seed)
    acknowledged: set[int] = set()
    lost = duplicated = wrong = 0
    for number in range(rounds):
        acknowledged |= one_round(path, 1 + number * 1_000_000, seed + number, chance)
        found = scan(path)
        lost += len(acknowledged - set(found))
        duplicated += len(found) - len(set(found))
        if number % 10 == 9 or number == rounds - 1:
            wrong += not asyncio.run(profiles_are_right(path, found))
    figures = {
        "rounds": rounds,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "duplicated": duplicated,
        "wrong_profiles": wrong,
    }
    print(json.dumps(figures))
    return int(bool(lost or duplicated or wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
