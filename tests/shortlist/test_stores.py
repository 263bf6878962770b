from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from shortlist.stores import ProfilesUnavailable
from shortlist.stores.memory import MemoryProfileStore
from shortlist.stores.sqlite import SqliteProfileStore
from tests.contracts.profile_store import ProfileStoreContract, a_profile, assert_same


class TestMemoryProfileStore(ProfileStoreContract):
    @pytest.fixture
    def store(self) -> MemoryProfileStore:
        return MemoryProfileStore()


class TestSqliteProfileStore(ProfileStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteProfileStore]:
        store = SqliteProfileStore(tmp_path / "profiles.sqlite")
        store.write([])
        yield store
        await store.close()


async def test_a_missing_file_is_an_unavailable_store_until_it_is_written(tmp_path: Path) -> None:
    store = SqliteProfileStore(tmp_path / "profiles.sqlite")
    with pytest.raises(ProfilesUnavailable, match=r"profiles\.sqlite"):
        await store.get("ann")
    assert not (tmp_path / "profiles.sqlite").exists()
    store.write([("ann", a_profile("ann"))])
    assert_same(await store.get("ann"), a_profile("ann"))
    await store.close()


async def test_another_process_sees_what_one_store_wrote(tmp_path: Path) -> None:
    writer, reader = (SqliteProfileStore(tmp_path / "profiles.sqlite") for _ in range(2))
    writer.write([("ann", a_profile("ann"))])
    assert_same(await reader.get("ann"), a_profile("ann"))
    writer.write([("ann", a_profile("ann", items=["z"]))])
    assert_same(await reader.get("ann"), a_profile("ann", items=["z"]))
    await reader.close()


async def test_reads_go_on_while_a_writer_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    store = SqliteProfileStore(path)
    store.write([("ann", a_profile("ann"))])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM profiles")
        assert_same(await store.get("ann"), a_profile("ann"))
        writer.execute("ROLLBACK")
    await store.close()


async def test_every_thread_may_read(tmp_path: Path) -> None:
    store = SqliteProfileStore(tmp_path / "profiles.sqlite")
    store.write([("ann", a_profile("ann"))])
    for found in await asyncio.gather(
        *(asyncio.to_thread(lambda: asyncio.run(store.get("ann"))) for _ in range(4))
    ):
        assert_same(found, a_profile("ann"))
    await store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE profiles SET history_keys = x'010203'", "user 'ann' is corrupt"),
        ("UPDATE profiles SET history_times = x''", "user 'ann' is corrupt"),
        ("UPDATE profiles SET attributes = '{'", "user 'ann' is corrupt"),
        ("PRAGMA user_version = 99", "format 99"),
        ("DROP TABLE profiles", "no such table"),
    ],
)
async def test_a_damaged_file_is_an_unavailable_store(
    tmp_path: Path, statement: str, message: str
) -> None:
    path = tmp_path / "profiles.sqlite"
    SqliteProfileStore(path).write([("ann", a_profile("ann"))])
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    store = SqliteProfileStore(path)
    with pytest.raises(ProfilesUnavailable, match=message):
        await store.get("ann")
    await store.close()


async def test_a_file_that_is_no_database_is_an_unavailable_store(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    store = SqliteProfileStore(path)
    with pytest.raises(ProfilesUnavailable, match="not a database"):
        await store.get("ann")
    await store.close()
