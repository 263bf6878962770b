"""`python -m tests.faults.copier FOLDER COPIES CUTS SEED`: a store copied while it is written.

A writer appends to one SQLite store. At random moments it is held, as a snapshot of the disk holds
it, and file and log are copied. The end of each copy's log is cut off at random places, and what
opens is compared with what was acknowledged, and with the events that the store had in the end.
Prints a JSON object of figures; exits with 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from shortlist.stores.memory import MemoryStore
from shortlist.stores.sqlite import SqliteStore
from tests.faults.any_store import profile_bytes
from tests.faults.ingester import CONFIG, USERS, event, scan, write_until_killed

FILE, LOG, INDEX = "store.sqlite", "store.sqlite-wal", "store.sqlite-shm"

# https://www.sqlite.org/walformat.html: sizes in the log; where it says how often it has begun
# anew; where the salts stand that it has in common with its index; where the index says how many
# frames somebody has begun to move into the file.
_LOG_HEADER, _FRAME = 32, 24 + 4096
_TIMES_BEGUN = slice(12, 16)
_SALTS_OF_LOG, _SALTS_OF_INDEX = slice(16, 24), slice(32, 40)
_MOVED_AT = 128


@dataclass(frozen=True, kw_only=True)
class Copy:
    folder: Path
    acknowledged: set[int]  # before it was made
    least: int  # bytes of the log that were flushed before a part of them went into the file
    length: int  # bytes of the log
    begun_anew: bool  # the log, since all of it had gone into the file


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a copy had with its log cut off somewhere."""

    events: list[int]
    profiles: list[bytes]


class Writer:
    """A process that appends until it is killed, and can be held."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        told, tells = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(told)
            try:
                write_until_killed(folder / FILE, 1, tells, seed)
            finally:
                os._exit(1)
        os.close(tells)
        self._told = told
        self._heard = os.read(told, 1)  # it is at work
        os.set_blocking(told, False)

    def copy(self, target: Path) -> Copy:
        os.kill(self._pid, signal.SIGSTOP)
        os.waitpid(self._pid, os.WUNTRACED)
        target.mkdir()
        for name in (FILE, LOG):
            shutil.copyfile(self._folder / name, target / name)
        index = (self._folder / INDEX).read_bytes()
        copy = Copy(
            folder=target,
            acknowledged=self.acknowledged(),
            least=flushed(target / LOG, index),
            length=(target / LOG).stat().st_size,
            begun_anew=any((target / LOG).read_bytes()[_TIMES_BEGUN]),
        )
        os.kill(self._pid, signal.SIGCONT)
        return copy

    def acknowledged(self) -> set[int]:
        try:
            while piece := os.read(self._told, 1 << 16):
                self._heard += piece
        except BlockingIOError:
            pass
        return {int(number) for number in self._heard.rpartition(b"\n")[0].split()}

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._told)


def flushed(log: Path, index: bytes) -> int:
    """How much of the log has to be on a disk, because the file has a part of it."""
    content = log.read_bytes()
    if content[_SALTS_OF_LOG] != index[_SALTS_OF_INDEX]:
        return len(content)  # all of it is in the file, and it is about to begin anew
    (frames,) = struct.unpack_from("=I", index, _MOVED_AT)
    return _LOG_HEADER + frames * _FRAME if frames else 0


def cut_anywhere(copy: Copy, chance: random.Random) -> int:
    """How long the log stays: near its end as often as anywhere else."""
    near = max(copy.least, copy.length - 3 * _FRAME)
    return chance.randint(near if chance.random() < 0.5 else copy.least, copy.length)


def check_indexes(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("PRAGMA integrity_check").fetchall()
    assert found == [("ok",)], found


async def opened(copy: Copy, stays: int, folder: Path) -> Opened:
    """What is in the copy when its log ends after `stays` bytes; it also has to take in more."""
    shutil.copytree(copy.folder, folder)
    os.truncate(folder / LOG, stays)
    store = SqliteStore(folder / FILE, CONFIG)
    await store.append([])  # the cut may have come before the tables were made
    profiles = await profile_bytes(store, USERS)
    stored = [int(one.event.event_id[2:]) async for one in store.events(0, await store.head())]
    answer = await store.append([event(0)])  # of which the writers know nothing
    assert (answer.sequence, answer.duplicates) == (len(stored) + 1, ())
    await store.close()
    assert scan(folder / FILE) == [*stored, 0]
    check_indexes(folder / FILE)
    shutil.rmtree(folder)
    return Opened(events=stored, profiles=profiles)


async def wrong_profiles(everything: list[int], found: list[Opened]) -> int:
    """How many differ from those of the trusted store after the same events."""
    oracle, known, wrong = MemoryStore(config=CONFIG), 0, 0
    for one in sorted(found, key=lambda one: len(one.events)):
        for number in everything[known : len(one.events)]:
            await oracle.append([event(number)])
        known = len(one.events)
        wrong += one.profiles != await profile_bytes(oracle, USERS)
    return wrong


def move_the_log(path: Path, how: str) -> None:
    """Into the file, as the writer does by itself when the log has become long."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA wal_checkpoint({how})").fetchall()


def copies_of_a_busy_store(
    folder: Path, count: int, chance: random.Random, seed: int
) -> tuple[list[Copy], list[int]]:
    """And all events that were in it when its writer was killed."""
    live = folder / "live"
    live.mkdir()
    writer = Writer(live, seed)
    copies = []
    for number in range(count):
        if chance.random() < 0.5:
            move_the_log(live / FILE, chance.choice(["PASSIVE", "RESTART"]))
        time.sleep(chance.random() * 0.2)
        copies.append(writer.copy(folder / f"copy-{number}"))
    writer.kill()
    return copies, scan(live / FILE)


async def main(folder: Path, count: int, cuts: int, seed: int) -> int:
    chance = random.Random(seed)
    copies, everything = copies_of_a_busy_store(folder, count, chance, seed)
    found: list[Opened] = []
    lost = shortened = 0
    for copy in copies:
        whole = await opened(copy, copy.length, folder / "cut")
        lost += len(copy.acknowledged - set(whole.events))
        found.append(whole)
        for _ in range(cuts):
            found.append(await opened(copy, cut_anywhere(copy, chance), folder / "cut"))
            shortened += len(found[-1].events) < len(whole.events)
    gaps = sum(one.events != everything[: len(one.events)] for one in found)
    wrong = await wrong_profiles(everything, found)
    figures = {
        "copies": len(copies),
        "cuts": len(copies) * cuts,
        "shortened": shortened,  # cuts that took a commit away
        "events": len(everything),
        "begun_anew": sum(copy.begun_anew for copy in copies),
        "lost": lost,
        "gaps": gaps,
        "wrong_profiles": wrong,
    }
    print(json.dumps(figures))
    return int(bool(lost or gaps or wrong))


if __name__ == "__main__":
    arguments = [int(one) for one in sys.argv[2:]]
    sys.exit(asyncio.run(main(Path(sys.argv[1]), *arguments)))
