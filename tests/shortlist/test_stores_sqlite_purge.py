"""What is left of deleted users in the bytes of `store.sqlite` and the files beside it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from shortlist.ids import key_of, keys_of
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.sqlite import SqliteStore
from shortlist.stores.sqlite_purge import row_number, traces
from tests.contracts.store import START_MS, a_profile, all_events, an_event

SEED = 42


async def a_full_store(path: Path, users: list[str]) -> SqliteStore:
    """Imported, recorded, folded and shown, in any order, so that pages split and are joined."""
    chance = random.Random(SEED)
    store = SqliteStore(path)
    await store.replace_base(((user, a_profile(user, country="is")) for user in users), [])
    events = [
        an_event(n, user=chance.choice(users), attribution={"note": "x" * chance.randrange(200)})
        for n in range(3000)
    ]
    for start in range(0, len(events), 100):
        await store.append(events[start : start + 100])
    for n in range(400):
        user = chance.choice(users)
        await store.log_impressions(user, keys_of([f"i{n}"]), START_MS + n, {"user": user})
    return store


def found_in(folder: Path, users: Iterable[str]) -> list[tuple[str, str]]:
    """Which file holds a trace of whom."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [
        (name, user)
        for user in users
        for name, content in contents.items()
        if any(trace in content for trace in traces(user))
    ]


@pytest.mark.parametrize("at_once", [3, 10])
async def test_no_byte_of_a_deleted_user_is_left(tmp_path: Path, at_once: int) -> None:
    users = [f"somebody-{n:03}" for n in range(120)]
    store = await a_full_store(tmp_path / "store.sqlite", users)
    assert len({user for _, user in found_in(tmp_path, users)}) == 120
    gone = random.Random(SEED).sample(users, 30)
    for start in range(0, len(gone), at_once):
        await store.forget_users(gone[start : start + at_once])
        assert found_in(tmp_path, gone[: start + at_once]) == []
    stays = [user for user in users if user not in gone]
    assert len({user for _, user in found_in(tmp_path, stays)}) == 90
    assert {stored.event.user_id for stored in await all_events(store)} == set(stays)
    await store.close()
    assert found_in(tmp_path, gone) == []


@pytest.mark.slow  # the store waits for the reader
async def test_a_reader_that_holds_the_log_is_no_reason_to_call_it_done(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await a_full_store(path, ["ann-of-the-log", "bob"])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        with pytest.raises(ProfilesUnavailable, match="delete them again"):
            await store.forget_users(["ann-of-the-log"])
        assert await store.get("ann-of-the-log") is None
        assert await store.is_forgotten(["ann-of-the-log"]) == [True]
        reader.execute("ROLLBACK")
    await store.forget_users(["ann-of-the-log"])
    assert found_in(tmp_path, ["ann-of-the-log"]) == []
    await store.close()


@pytest.mark.parametrize(
    "number", [1, 127, 128, 2**40 + 5, 2**56 - 1, 2**56, 2**62 + 77, -1, -5, -(2**63)]
)
def test_row_numbers_are_looked_for_as_sqlite_writes_them(tmp_path: Path, number: int) -> None:
    path = tmp_path / "numbers.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, text TEXT)")
        connection.execute("INSERT INTO t VALUES (?, 'the text')", (number,))
        connection.commit()
    # Size of the row, its number, size of its header, NULL for the number, type of the text.
    assert row_number(number) + bytes([3, 0, 13 + 2 * 8]) + b"the text" in path.read_bytes()


def test_a_key_is_looked_for_as_rows_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    _, in_a_row, as_a_number = traces("ann")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (number INTEGER PRIMARY KEY, key INTEGER)")
        connection.execute("INSERT INTO t VALUES (1, ?)", (key_of("ann") - 2**63,))
        connection.commit()
        assert in_a_row in path.read_bytes()
        assert as_a_number not in path.read_bytes()
        connection.execute("UPDATE t SET number = key, key = 0")
        connection.commit()
    assert as_a_number in path.read_bytes()
