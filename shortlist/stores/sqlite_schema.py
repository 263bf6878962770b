"""The tables of `store.sqlite`, and how a connection is opened."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

from shortlist.stores import ProfilesUnavailable

__all__ = [
    "FORMAT",
    "begin",
    "check_format",
    "chunks",
    "connect",
    "create",
    "give_back",
    "insert_many",
    "is_blank",
    "marks",
    "select_in",
    "to_signed",
    "to_unsigned",
]

FORMAT: Final = 2  # PRAGMA user_version of the file; 1 held imported profiles only

# Of the writer's connection. The operating system holds the file's pages as well: as many events a
# second are written as with 64 MiB, and a process that serves reaches its size within minutes.
_CACHE_KIB = 8192
_BUSY = 5  # sqlite3.SQLITE_BUSY
_POLL_S = 0.001
_OFFSET = 1 << 63

# Keys are uint64 and SQLite's integers are signed: a key is stored less 2^63, so the order stays.
# Texts that may name a person stand in `events`, `exposures` and the attributes of a base only.
# An import writes the half of base_0/base_1 that nobody reads, and then `log.base` is flipped.
_TABLES = """
CREATE TABLE log (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    head   INTEGER NOT NULL,  -- the number of the newest change
    base   INTEGER NOT NULL,  -- which of base_0 and base_1 is read
    import BLOB,              -- whose import is writing the other one
    salt   BLOB NOT NULL      -- of `forgotten`
);
CREATE TABLE events (
    sequence   INTEGER PRIMARY KEY,
    event_id   TEXT NOT NULL UNIQUE,
    user_key   INTEGER NOT NULL,
    user_id    TEXT NOT NULL,
    item_key   INTEGER NOT NULL,
    item_id    TEXT NOT NULL,
    event_type TEXT NOT NULL,
    time_ms    INTEGER NOT NULL,
    weight     REAL NOT NULL,
    value      REAL,
    places     BLOB,          -- uint64 [p]
    details    TEXT           -- JSON: context, attribution
);
CREATE INDEX events_by_user ON events (user_key);
CREATE INDEX events_by_time ON events (time_ms);
CREATE TABLE live (           -- events up to `upto`, folded: newer ones are read from `events`
    user_key INTEGER PRIMARY KEY,
    upto     INTEGER NOT NULL,
    profile  BLOB NOT NULL
);
CREATE TABLE impressions (
    user_key INTEGER PRIMARY KEY,
    shown    BLOB NOT NULL
);
CREATE TABLE exposures (
    id       INTEGER PRIMARY KEY,
    user_key INTEGER NOT NULL,
    time_ms  INTEGER NOT NULL,
    keys     BLOB NOT NULL,   -- uint64 [i]
    exposure TEXT NOT NULL    -- JSON
);
CREATE INDEX exposures_by_user ON exposures (user_key);
CREATE INDEX exposures_by_time ON exposures (time_ms);
CREATE TABLE items (          -- changed while serving
    key      INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,
    item     TEXT             -- JSON, NULL = deleted
);
CREATE INDEX items_by_sequence ON items (sequence);
CREATE TABLE forgotten (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE base_0 (user_key INTEGER PRIMARY KEY, profile BLOB NOT NULL);
CREATE TABLE base_1 (user_key INTEGER PRIMARY KEY, profile BLOB NOT NULL);
CREATE TABLE base_items_0 (key INTEGER PRIMARY KEY, item TEXT NOT NULL);
CREATE TABLE base_items_1 (key INTEGER PRIMARY KEY, item TEXT NOT NULL);
"""

Row = TypeVar("Row")


def connect(path: Path, mode: str, *, wait_s: float) -> sqlite3.Connection:
    """`mode` is `rw` (the file has to be there) or `rwc`."""
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return sqlite3.connect(
        uri,
        uri=True,
        timeout=wait_s,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
    )


def create(path: Path, connection: sqlite3.Connection, *, wait_s: float) -> None:
    """Make the tables unless they are there, and settings that belong to the connection."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # says something to an empty file only
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages
    begin(connection, wait_s=wait_s)
    try:
        if is_blank(connection):
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute("INSERT INTO log VALUES (1, 0, 0, NULL, ?)", (os.urandom(32),))
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        check_format(path, connection)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_blank(connection: sqlite3.Connection) -> bool:
    """Whether nobody has made any tables yet."""
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def check_format(path: Path, connection: sqlite3.Connection) -> None:
    """Raises `ProfilesUnavailable` unless the file is of this format."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found != FORMAT:
        raise ProfilesUnavailable(
            f"{path.name} has format {found}, expected {FORMAT}: run `shortlist import` again"
        )


def begin(connection: sqlite3.Connection, *, wait_s: float) -> None:
    """Start to write; other processes may be at it. SQLite's own waiting sleeps up to 100 ms, and
    a writer without a pause would starve whoever waits like that.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    deadline = time.monotonic() + wait_s
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != _BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def give_back(connection: sqlite3.Connection, most: int = 500) -> None:
    """Free pages, from the end of the file to the disk; a part of the transaction.

    One at a time: Python ends the statement after its first page, whatever number it is given.
    """
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    for _ in range(min(most, free)):
        connection.execute("PRAGMA incremental_vacuum(1)")


def to_signed(key: int) -> int:
    """A uint64 key as it is stored."""
    return key - _OFFSET


def to_unsigned(stored: int) -> int:
    return stored + _OFFSET


# Few sizes, so that the statements are prepared once; many rows a statement, because each step of a
# statement lets go of the interpreter lock and has to get it back from a busy event loop.
_SIZES = (256, 32, 8, 1)


def chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """`rows` in order, cut into the sizes that statements are prepared for."""
    at = 0
    for size in _SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


def marks(columns: int, rows: int = 1) -> str:
    """`(?,?),(?,?)` and so on."""
    one = f"({','.join('?' * columns)})"
    return ",".join([one] * rows)


def insert_many(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """`into` is the statement up to VALUES."""
    for chunk in chunks(rows):
        statement = f"{into} VALUES {marks(len(chunk[0]), len(chunk))}"
        connection.execute(statement, [value for row in chunk for value in row])


def select_in(
    connection: sqlite3.Connection, statement: str, values: Iterable[Any]
) -> Iterator[tuple[Any, ...]]:
    """Rows of `statement`, whose `{}` becomes a list of values."""
    for chunk in chunks(list(dict.fromkeys(values))):
        yield from connection.execute(statement.format(marks(len(chunk))), list(chunk)).fetchall()
