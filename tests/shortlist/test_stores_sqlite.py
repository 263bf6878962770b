from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from shortlist.config import StoreConfig
from shortlist.ids import keys_of
from shortlist.live import CatalogItem, Changes
from shortlist.stores import ProfilesUnavailable
from shortlist.stores.sqlite import SqliteStore
from shortlist.tailing import LogTailer
from tests.contracts.store import (
    DAY_MS,
    START_MS,
    TIGHT,
    StoreContract,
    a_profile,
    all_events,
    an_event,
    assert_same,
)


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteStore]:
        store = SqliteStore(tmp_path / "store.sqlite")
        await store.append([])
        yield store
        await store.close()

    @pytest.fixture
    async def tight(self, tmp_path: Path) -> AsyncIterator[SqliteStore]:
        store = SqliteStore(tmp_path / "store.sqlite", TIGHT)
        await store.append([])
        yield store
        await store.close()


async def test_a_file_that_is_not_there_yet_has_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path)
    found = await store.changes(7)
    assert (found.sequence, found.head, found.items, len(found.events)) == (7, 7, (), 0)
    assert await all_events(store) == []
    assert not path.exists()
    await store.append([an_event(1)])
    assert len((await store.changes(0)).events) == await store.head() == 1
    await store.close()


async def test_a_file_that_is_not_there_yet_says_nothing_of_users_and_items(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path)
    for read in (store.get("ann"), store.is_forgotten(["ann"]), store.get_items(["a"])):
        with pytest.raises(ProfilesUnavailable, match=re.escape(str(path))):
            await read
    assert not path.exists()
    await store.append([an_event(1)])
    assert await store.get("bob") is None
    await store.close()


async def test_a_file_whose_tables_are_about_to_be_made_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        assert await store.head() == 0
        with pytest.raises(ProfilesUnavailable, match="yet"):
            await store.get("ann")
    await store.append([an_event(1)])
    assert await store.head() == 1
    await store.close()


async def test_a_log_is_followed_from_the_moment_that_its_file_appears(tmp_path: Path) -> None:
    reader, writer = (SqliteStore(tmp_path / "store.sqlite") for _ in range(2))
    applied: list[Changes] = []
    tailer = LogTailer(reader, applied.append)
    await tailer.catch_up()
    assert (tailer.complete, tailer.position.sequence, applied) == (True, 0, [])
    tailer.start()
    await writer.append([an_event(1), an_event(2)])
    while tailer.position.sequence < 2:
        await asyncio.sleep(0.01)
    assert [len(changes.events) for changes in applied] == [2]
    await tailer.close()
    await writer.close()
    await reader.close()


async def test_a_folder_that_is_not_there_is_an_unavailable_store(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "store.sqlite"
    store = SqliteStore(path)
    for call in (store.get("ann"), store.head(), store.changes(0), store.append([an_event(1)])):
        with pytest.raises(ProfilesUnavailable, match=re.escape(str(path))):
            await call
    await store.close()


async def test_another_process_sees_what_one_store_wrote(tmp_path: Path) -> None:
    writer, reader = (SqliteStore(tmp_path / "store.sqlite") for _ in range(2))
    await writer.replace_base([("ann", a_profile("ann"))], [])
    assert_same(await reader.get("ann"), a_profile("ann"))
    await writer.append([an_event(1)])
    found = await reader.get("ann")
    assert found is not None
    assert len(found.history) == 3
    await reader.append([an_event(2)])
    assert await writer.head() == 2
    await writer.close()
    await reader.close()


async def test_two_writers_of_one_file_share_one_sequence(tmp_path: Path) -> None:
    stores = [SqliteStore(tmp_path / "store.sqlite") for _ in range(2)]
    answers = await asyncio.gather(
        *(stores[n % 2].append([an_event(n), an_event(1000)]) for n in range(100))
    )
    assert sum(len(answer.duplicates) for answer in answers) == 99
    assert [s.sequence async for s in stores[0].events(0, 1000)] == list(range(1, 102))
    for store in stores:
        await store.close()


async def test_reads_go_on_while_a_writer_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path)
    await store.replace_base([("ann", a_profile("ann"))], [])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM base_1")
        writer.execute("DELETE FROM base_0")
        assert_same(await store.get("ann"), a_profile("ann"))
        writer.execute("ROLLBACK")
    await store.close()


async def test_every_thread_may_read(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.sqlite")
    await store.replace_base([("ann", a_profile("ann"))], [])
    for found in await asyncio.gather(
        *(asyncio.to_thread(lambda: asyncio.run(store.get("ann"))) for _ in range(4))
    ):
        assert_same(found, a_profile("ann"))
    await store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE base_1 SET profile = x'010203'", "cannot be read"),
        ("UPDATE base_1 SET profile = substr(profile, 1, 60)", "cannot be read"),
        ("UPDATE live SET profile = zeroblob(1000)", "cannot be read"),
        ("PRAGMA user_version = 99", "format 99"),
        ("DROP TABLE events", "no such table"),
    ],
)
async def test_a_damaged_file_is_an_unavailable_store(
    tmp_path: Path, statement: str, message: str
) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path)
    await store.replace_base([("ann", a_profile("ann"))], [])
    await store.append([an_event(n) for n in range(40)])
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    store = SqliteStore(path)
    with pytest.raises(ProfilesUnavailable, match=message):
        await store.get("ann")
    await store.close()


async def test_a_file_that_is_no_database_is_an_unavailable_store(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    store = SqliteStore(path)
    with pytest.raises(ProfilesUnavailable, match="not a database"):
        await store.get("ann")
    with pytest.raises(ProfilesUnavailable, match="not a database"):
        await store.append([an_event(1)])
    await store.close()


async def test_a_closed_store_refuses_and_does_not_hang(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.sqlite")
    await store.append([an_event(1)])
    await store.close()
    with pytest.raises(ProfilesUnavailable, match="closed"):
        await store.append([an_event(2)])
    with pytest.raises(ProfilesUnavailable, match="closed"):
        await store.changes(0)


async def test_an_import_that_broke_off_is_cleared_by_the_next(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.sqlite")

    def broken() -> object:
        for number in range(700):
            yield f"user-{number}", a_profile(f"user-{number}")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        await store.replace_base(broken(), [])  # type: ignore[arg-type]
    assert await store.get("user-1") is None
    await store.replace_base([("ann", a_profile("ann"))], [CatalogItem(id="a")])
    assert await store.get("user-1") is None
    assert_same(await store.get("ann"), a_profile("ann"))
    await store.close()


async def test_a_call_that_is_refused_leaves_its_companions_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.sqlite")
    await store.append([])
    with closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection:
        connection.execute("INSERT INTO items VALUES (?, 0, ?)", (_key("a"), '{"id":"b"}'))
        connection.commit()
    results = await asyncio.gather(
        store.append([an_event(1)]),
        store.upsert_items([CatalogItem(id="x"), CatalogItem(id="a")]),
        store.append([an_event(2)]),
        return_exceptions=True,
    )
    assert "same key" in str(results[1])
    assert await store.get_items(["x"]) == [None]
    assert await store.head() == 2
    await store.close()


def _count(path: Path, what: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT {what}").fetchone()[0])


async def test_what_is_old_leaves_the_file_and_the_file_becomes_smaller(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = SqliteStore(path)
    for start in range(0, 2000, 500):
        events = [an_event(start + n, attribution={"x": "y" * 500}) for n in range(500)]
        await store.append(events)
    for page in range(20):
        await store.log_impressions("ann", keys_of(["a"]), START_MS + page * DAY_MS, {})
    pages = _count(path, "page_count FROM pragma_page_count")
    retention_ms = int(StoreConfig().retention_days * DAY_MS)
    await store.compact(START_MS + 10 * DAY_MS + retention_ms)
    assert _count(path, "count(*) FROM events") == 0
    assert _count(path, "count(*) FROM exposures") == 10
    assert _count(path, "page_count FROM pragma_page_count") < pages / 3
    found = await store.get("ann")
    assert found is not None
    assert (len(found.impressions.keys), found.counters) == (20, {"click": 2000})
    await store.close()


async def test_the_writer_drops_what_is_old_by_itself(tmp_path: Path) -> None:
    now_s = START_MS / 1000 + 86_400 * (StoreConfig().retention_days + 1)
    store = SqliteStore(tmp_path / "store.sqlite", clock=lambda: now_s)
    store._writer._tidy_at = 0  # an hour is over
    await store.append([an_event(n) for n in range(1200)])
    while await all_events(store):
        await asyncio.sleep(0.02)
    found = await store.get("ann")
    assert found is not None
    assert found.counters == {"click": 1200}
    await store.close()


def _key(id: str) -> int:
    from shortlist.ids import key_of

    return key_of(id) - 2**63
