"""Everything in one SQLite file, durable at every acknowledgement, for all processes of one host.

The file is in WAL mode with `synchronous=FULL`: one writer at a time, readers never wait for it.
An append writes its events and nothing else; a profile is what an import said, what folded
events say, and the few events of the user since. A read of one costs less than handing it to a
thread, so it runs on the event loop itself.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shortlist.config import StoreConfig
from shortlist.errors import InvalidField
from shortlist.ids import key_of, keys_of
from shortlist.live import (
    Appended,
    CatalogItem,
    Changes,
    EventColumns,
    ItemChange,
    LiveEvent,
    StoredEvent,
)
from shortlist.stores import Profile, ProfilesUnavailable, check_profile
from shortlist.stores.folding import Bounds, fold, overlay
from shortlist.stores.packing import (
    item_of,
    item_text,
    json_text,
    pack_profile,
    unpack_attributes,
    unpack_impressions,
    unpack_keys,
    unpack_live,
    unpack_profile,
)
from shortlist.stores.sqlite_log import (
    EventLog,
    base_half,
    delete_items,
    event_of_row,
    event_row,
    forget,
    forgotten_among,
    tail_of,
    upsert_items,
)
from shortlist.stores.sqlite_purge import purge
from shortlist.stores.sqlite_schema import (
    check_format,
    connect,
    give_back,
    insert_many,
    is_blank,
    select_in,
    to_signed,
    to_unsigned,
)
from shortlist.stores.sqlite_writer import GroupWriter, translated
from shortlist.tiers import AttributeValue, Keys

__all__ = ["SqliteStore"]

_READ_WAIT_S = 0.005  # a reader waits for a lock no longer than the event loop may stand still
_TIDY_EVERY_S = 3600.0
_MS_PER_DAY = 86_400_000
_PROFILES_A_PIECE = 500  # of an import, a transaction
_EVENTS_A_READ = 1000
_MOST_KEY = (1 << 64) - 1

# One statement, so one snapshot: nobody can fold events away between two reads.
_PROFILE = """
SELECT
    CASE (SELECT base FROM log)
        WHEN 0 THEN (SELECT profile FROM base_0 WHERE user_key = ?1)
        ELSE (SELECT profile FROM base_1 WHERE user_key = ?1) END,
    l.profile,
    (SELECT json_group_array(json_array(item_key, time_ms, weight, event_type))
        FROM events INDEXED BY events_by_user
        WHERE user_key = ?1 AND sequence > coalesce(l.upto, 0)),
    (SELECT shown FROM impressions WHERE user_key = ?1)
FROM (SELECT 1) LEFT JOIN live l ON l.user_key = ?1
"""
_EVENTS = """
SELECT sequence, event_id, user_key, user_id, item_key, item_id, event_type, time_ms, weight,
    value, places, details
FROM events WHERE sequence > ? AND sequence <= ? ORDER BY sequence LIMIT ?
"""
_COLUMNS = """
SELECT sequence, user_key, item_key, time_ms, weight, value, places
FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?
"""
_LIST = """
SELECT key, item FROM items WHERE key >= ?1 AND item IS NOT NULL
UNION ALL
SELECT key, item FROM base_items_{base} AS b
WHERE key >= ?1 AND NOT EXISTS (SELECT 1 FROM items i WHERE i.key = b.key)
ORDER BY key LIMIT ?2
"""

Result = TypeVar("Result")


class SqliteStore:
    """A `Store` over the file at `path`, which the first write creates.

    Before that its log is empty, so it can be followed. What it knows of users and items cannot be
    told from a file that was lost, so asking for that raises `ProfilesUnavailable`.
    """

    def __init__(
        self,
        path: Path | str,
        config: StoreConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        config = config or StoreConfig()
        self._path = Path(path)
        self._config = config
        self._clock = clock
        self._bounds = Bounds.of(config)
        self._log = EventLog(self._bounds)
        self._local = threading.local()  # SQLite connections do not like to change threads
        self._opened: list[sqlite3.Connection] = []
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._writer = GroupWriter(
            self._path,
            append=self._log.append,
            tidy=lambda connection: self._drop_old(connection, self._now_ms()) > 0,
            tidy_every_s=_TIDY_EVERY_S,
            most_events=config.queue_events,
        )

    async def get(self, user_id: str) -> Profile | None:
        if not user_id:
            return None
        key = key_of(user_id)
        with translated(self._path):
            row = self._reader().execute(_PROFILE, (to_signed(key),)).fetchone()
            base, folded, tail_text, shown = row
            tail = tail_of(tail_text)
            if base is None and folded is None and shown is None and tail is None:
                return None
            live = unpack_live(folded)
            if tail is not None:
                live = fold(live, tail, self._bounds)
            imported = None if base is None else unpack_profile(key, base)
            return overlay(key, imported, live, unpack_impressions(shown), self._bounds)

    async def attributes_of(self, ids: Sequence[str]) -> list[Mapping[str, AttributeValue]]:
        try:
            return await self._read_aside(lambda c: _attributes_of(c, ids))
        except _NotWrittenYet:
            return [{} for _ in ids]

    async def append(self, events: Sequence[LiveEvent]) -> Appended:
        return await self._writer.write(events=[event_row(event) for event in events])

    async def log_impressions(
        self, user_id: str, keys: Keys, times_ms: int, exposure: Mapping[str, object]
    ) -> None:
        text = json_text("exposure", dict(exposure))
        if len(keys):
            await self._writer.write(
                lambda c: self._log.log_impressions(c, user_id, keys, times_ms, text)
            )

    async def upsert_items(self, items: Sequence[CatalogItem]) -> int:
        for item in items:
            item_text(item)
        return await self._writer.write(lambda c: upsert_items(c, items))

    async def delete_items(self, ids: Sequence[str]) -> int:
        return await self._writer.write(lambda c: delete_items(c, ids))

    async def get_items(self, ids: Sequence[str]) -> list[CatalogItem | None]:
        return await self._read_aside(lambda c: _get_items(c, ids))

    async def list_items(self, after_key: int, limit: int) -> list[CatalogItem]:
        if after_key >= _MOST_KEY:
            return []
        return await self._read_aside(lambda c: _list_items(c, after_key, limit))

    async def forget_users(self, ids: Sequence[str]) -> int:
        if not ids:
            return await self.head()
        return await self._writer.write(
            lambda c: forget(c, ids), after=lambda c: purge(c, self._path, ids)
        )

    async def is_forgotten(self, ids: Sequence[str]) -> list[bool]:
        with translated(self._path):
            gone = forgotten_among(self._reader(), ids)
            return [id in gone for id in ids]

    async def count_forgotten(self) -> int:
        with translated(self._path):
            return int(self._reader().execute("SELECT count(*) FROM forgotten").fetchone()[0])

    async def head(self) -> int:
        try:
            with translated(self._path):
                return int(self._reader().execute("SELECT head FROM log").fetchone()[0])
        except _NotWrittenYet:
            return 0

    async def changes(self, after: int, limit: int = 10_000) -> Changes:
        try:
            return await self._read_aside(lambda c: _changes(c, after, limit))
        except _NotWrittenYet:
            return Changes(sequence=after, head=after, items=(), events=_columns([]))

    async def events(self, after: int, upto: int) -> AsyncIterator[StoredEvent]:
        try:
            while rows := await self._read_aside(partial(_read_events, after, upto)):
                for sequence, *row in rows:
                    yield StoredEvent(sequence=sequence, event=event_of_row(row))
                after = rows[-1][0]
        except _NotWrittenYet:
            return

    async def replace_base(
        self, profiles: Iterable[tuple[str, Profile]], items: Iterable[CatalogItem]
    ) -> None:
        mine = os.urandom(16)
        await self._writer.write(lambda c: _begin_import(c, mine))
        users = _pieces(map(_base_row, profiles))
        while users_piece := await self._aside(partial(next, users, None)):
            await self._writer.write(partial(_write_profiles, mine, users_piece))
        catalogue = _pieces(map(_item_row, items))
        while items_piece := await self._aside(partial(next, catalogue, None)):
            await self._writer.write(partial(_write_items, mine, items_piece))
        await self._writer.write(lambda c: _end_import(c, mine))
        while await self._writer.write(_clear_old_base):
            pass

    async def compact(self, now_ms: int | None = None) -> int:
        """In pieces, between which others write."""
        dropped = 0
        now = self._now_ms() if now_ms is None else now_ms
        while piece := await self._writer.write(lambda c: self._drop_old(c, now)):
            dropped += piece
        return dropped

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._reading.shutdown)
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._local = threading.local()

    def _drop_old(self, connection: sqlite3.Connection, now_ms: int) -> int:
        return self._log.drop_old(
            connection, now_ms - int(self._config.retention_days * _MS_PER_DAY)
        )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    async def _read_aside(self, read: Callable[[sqlite3.Connection], Result]) -> Result:
        """For what takes longer than an event loop may stand still; one snapshot."""

        def run() -> Result:
            with translated(self._path):
                connection = self._reader()
                connection.execute("BEGIN")
                try:
                    return read(connection)
                finally:
                    connection.execute("ROLLBACK")

        return await self._aside(run)

    async def _aside(self, run: Callable[[], Result]) -> Result:
        try:
            running = asyncio.get_running_loop().run_in_executor(self._reading, run)
        except RuntimeError as error:
            raise ProfilesUnavailable(f"{self._path.name} is closed") from error
        return await running

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            if not self._path.exists() and self._path.parent.is_dir():
                raise _NotWrittenYet(self._path)
            connection = connect(self._path, "rw", wait_s=_READ_WAIT_S)
            try:
                if is_blank(connection):
                    raise _NotWrittenYet(self._path)
                check_format(self._path, connection)
            except BaseException:
                connection.close()
                raise
            self._local.connection = connection
            self._opened.append(connection)
        return connection


class _NotWrittenYet(ProfilesUnavailable):
    """There is no file, or one whose tables are about to be made."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"profile store {path}: there is no such file yet; `shortlist import` writes it, "
            "or the first event"
        )


def _read_events(after: int, upto: int, connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    return connection.execute(_EVENTS, (after, upto, _EVENTS_A_READ)).fetchall()


def _attributes_of(
    connection: sqlite3.Connection, ids: Sequence[str]
) -> list[Mapping[str, AttributeValue]]:
    keys = [to_signed(key) for key in keys_of(ids).tolist()]
    statement = f"SELECT user_key, profile FROM base_{base_half(connection)} WHERE user_key IN {{}}"
    found = {key: unpack_attributes(blob) for key, blob in select_in(connection, statement, keys)}
    return [found.get(key, {}) for key in keys]


def _get_items(connection: sqlite3.Connection, ids: Sequence[str]) -> list[CatalogItem | None]:
    keys = [to_signed(int(key)) for key in keys_of(ids)]
    found: dict[int, str | None] = {}
    for table in (f"base_items_{base_half(connection)}", "items"):
        found.update(
            select_in(connection, f"SELECT key, item FROM {table} WHERE key IN {{}}", keys)
        )
    items = [item_of(text) if (text := found.get(key)) is not None else None for key in keys]
    return [
        item if item is not None and item.id == id else None
        for id, item in zip(ids, items, strict=True)
    ]


def _list_items(connection: sqlite3.Connection, after_key: int, limit: int) -> list[CatalogItem]:
    statement = _LIST.format(base=base_half(connection))
    rows = connection.execute(statement, (to_signed(after_key + 1), limit))
    return [item_of(text) for _, text in rows]


def _changes(connection: sqlite3.Connection, after: int, limit: int) -> Changes:
    head = int(connection.execute("SELECT head FROM log").fetchone()[0])
    events = connection.execute(_COLUMNS, (after, limit)).fetchall()
    items = connection.execute(
        "SELECT sequence, key, item FROM items WHERE sequence > ? ORDER BY sequence LIMIT ?",
        (after, limit),
    ).fetchall()
    numbers = sorted([row[0] for row in events] + [row[0] for row in items])
    # A table that gave `limit` rows may have more, so what lies beyond `limit` of both is left.
    end = head if len(numbers) < limit else numbers[limit - 1]
    return Changes(
        sequence=max(after, end),
        head=max(after, head),
        items=tuple(_item_change(*row) for row in items if row[0] <= end),
        events=_columns([row for row in events if row[0] <= end]),
    )


def _item_change(sequence: int, key: int, text: str | None) -> ItemChange:
    item = None if text is None else item_of(text)
    return ItemChange(sequence=sequence, key=to_unsigned(key), item=item)


def _columns(rows: Sequence[tuple[Any, ...]]) -> EventColumns:
    columns = list(zip(*rows, strict=True)) or [()] * 7
    sequences, users, items, times_ms, weights, values, places = columns
    return EventColumns(
        sequences=np.array(sequences, np.int64),
        user_keys=_unsigned(users),
        item_keys=_unsigned(items),
        times_ms=np.array(times_ms, np.int64),
        weights=np.array(weights, np.float32),
        values=np.array([np.nan if value is None else value for value in values], np.float32),
        places=tuple(unpack_keys(blob) for blob in places),
    )


def _unsigned(stored: Sequence[int]) -> Keys:
    return np.array(stored, np.int64).view(np.uint64) ^ np.uint64(1 << 63)


def _base_row(entry: tuple[str, Profile]) -> tuple[str, tuple[int, bytes]]:
    user_id, profile = entry
    check_profile(user_id, profile)
    return user_id, (to_signed(profile.user_key), pack_profile(profile))


def _item_row(item: CatalogItem) -> tuple[str, tuple[int, str]]:
    return item.id, (to_signed(key_of(item.id)), item_text(item))


def _pieces(rows: Iterable[Result]) -> Iterator[list[Result]]:
    iterator = iter(rows)
    while piece := list(islice(iterator, _PROFILES_A_PIECE)):
        yield piece


class _ImportOvertaken(InvalidField):
    """Another import began after this one."""

    status_name = "ABORTED"


def _begin_import(connection: sqlite3.Connection, mine: bytes) -> None:
    """Clear what an import that did not end has left in the half that nobody reads."""
    other = 1 - base_half(connection)
    connection.execute(f"DELETE FROM base_{other}")
    connection.execute(f"DELETE FROM base_items_{other}")
    connection.execute("UPDATE log SET import = ?", (mine,))


def _write_profiles(
    mine: bytes, piece: Sequence[tuple[str, tuple[int, bytes]]], connection: sqlite3.Connection
) -> None:
    other = _other_half_of(connection, mine)
    gone = forgotten_among(connection, [user_id for user_id, _ in piece])
    rows = [row for user_id, row in piece if user_id not in gone]
    insert_many(connection, f"INSERT OR REPLACE INTO base_{other}", rows)


def _write_items(
    mine: bytes, piece: Sequence[tuple[str, tuple[int, str]]], connection: sqlite3.Connection
) -> None:
    other = _other_half_of(connection, mine)
    rows = [row for _, row in piece]
    insert_many(connection, f"INSERT OR REPLACE INTO base_items_{other}", rows)


def _end_import(connection: sqlite3.Connection, mine: bytes) -> None:
    other = _other_half_of(connection, mine)
    connection.execute("UPDATE log SET base = ?, import = NULL", (other,))


def _other_half_of(connection: sqlite3.Connection, mine: bytes) -> int:
    base, importing = connection.execute("SELECT base, import FROM log").fetchone()
    if importing != mine:
        raise _ImportOvertaken("import", "another import of this store began after this one")
    return 1 - int(base)


def _clear_old_base(connection: sqlite3.Connection) -> int:
    """A piece of it; returns how many rows. Nothing, once another import writes there."""
    base, importing = connection.execute("SELECT base, import FROM log").fetchone()
    if importing is not None:
        return 0
    deleted = 0
    for table, key in ((f"base_{1 - base}", "user_key"), (f"base_items_{1 - base}", "key")):
        deleted += connection.execute(
            f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} LIMIT ?)",
            (_PROFILES_A_PIECE,),
        ).rowcount
    if deleted:
        give_back(connection)
    return deleted
