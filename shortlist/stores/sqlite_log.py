"""What is done to `store.sqlite` inside a transaction: append, fold, forget, drop what is old."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from shortlist.ids import KeyCollision, key_of, keys_of
from shortlist.live import Appended, CatalogItem, LiveEvent
from shortlist.stores import Impressions
from shortlist.stores.folding import Bounds, NewEvents, add_impressions, fold
from shortlist.stores.packing import (
    check_event,
    event_details,
    event_of,
    forgotten_digest,
    item_of,
    item_text,
    pack_impressions,
    pack_live,
    unpack_impressions,
    unpack_live,
)
from shortlist.stores.sqlite_schema import (
    chunks,
    give_back,
    insert_many,
    marks,
    select_in,
    to_signed,
    to_unsigned,
)
from shortlist.tiers import Keys

__all__ = [
    "EventLog",
    "delete_items",
    "event_of_row",
    "event_row",
    "forget",
    "forgotten_among",
    "tail_of",
    "upsert_items",
]

_TAIL = 32  # events of a user that are read one by one; more are folded into one row
_USERS_COUNTED = 200_000
_PIECE = 500  # events dropped a transaction

_EVENT_ID, _USER_KEY, _USER_ID = 0, 1, 2  # places in an event's row

_TAILS = """
WITH k(key) AS (VALUES {})
SELECT k.key, l.profile, json_group_array(
    json_array(e.item_key, e.time_ms, e.weight, e.event_type))
FROM k LEFT JOIN live l ON l.user_key = k.key
CROSS JOIN events e INDEXED BY events_by_user
    ON e.user_key = k.key AND e.sequence > coalesce(l.upto, 0)
GROUP BY k.key
"""


def event_row(event: LiveEvent) -> tuple[Any, ...]:
    """The columns after the number. Raises `InvalidField` for what cannot be stored."""
    check_event(event)
    return (
        event.event_id,
        to_signed(key_of(event.user_id)),
        event.user_id,
        to_signed(key_of(event.item_id)),
        event.item_id,
        event.event_type,
        event.time_ms,
        event.weight,
        event.value,
        _packed(event.places) if event.places else None,
        event_details(event),
    )


@lru_cache(maxsize=10_000)
def _packed(places: tuple[int, ...]) -> bytes:
    """Of many events the places are the same few."""
    return np.array(places, "<u8").tobytes()


def event_of_row(row: Sequence[Any]) -> LiveEvent:
    """The inverse of `event_row`."""
    event_id, _, user_id, _, item_id, event_type, time_ms, weight, value, places, details = row
    return event_of(
        event_id=event_id,
        user_id=user_id,
        item_id=item_id,
        event_type=event_type,
        time_ms=time_ms,
        weight=weight,
        value=value,
        places=tuple(np.frombuffer(places, "<u8").tolist()) if places else (),
        details=details,
    )


def tail_of(text: str | None) -> NewEvents | None:
    """Events as SQL collects them into one row: [[item key, time, weight, type], ...]."""
    rows = json.loads(text) if text else []
    if not rows:
        return None
    keys, times_ms, weights, types = zip(*rows, strict=True)
    return NewEvents(
        keys=np.array(keys, np.int64).view(np.uint64) ^ np.uint64(1 << 63),
        times_ms=np.array(times_ms, np.int64),
        weights=np.array(weights, np.float32),
        types=types,
    )


class EventLog:
    """Appends, and folds what a user has done into one row before it gets too much to read."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        # How many events of whom this process has appended since it last folded theirs.
        self._unfolded: Counter[int] = Counter()

    def append(
        self, connection: sqlite3.Connection, calls: Sequence[Sequence[tuple[Any, ...]]]
    ) -> list[Appended]:
        """The rows of each call; what was known, also by an earlier row here, is left out."""
        rows = [row for call in calls for row in call]
        known = {
            row[0]
            for row in select_in(
                connection,
                "SELECT event_id FROM events WHERE event_id IN {}",
                (row[_EVENT_ID] for row in rows),
            )
        }
        gone = forgotten_among(connection, {row[_USER_ID] for row in rows})
        before = sequence = _head(connection)
        fresh: list[tuple[Any, ...]] = []
        answers = []
        for call in calls:
            duplicates, forgotten = [], []
            for index, row in enumerate(call):
                if row[_USER_ID] in gone:
                    forgotten.append(index)
                elif row[_EVENT_ID] in known:
                    duplicates.append(index)
                else:
                    sequence += 1
                    known.add(row[_EVENT_ID])
                    fresh.append((sequence, *row))
            answers.append(
                Appended(
                    sequence=sequence, duplicates=tuple(duplicates), forgotten=tuple(forgotten)
                )
            )
        if sequence > before:
            insert_many(connection, "INSERT INTO events", fresh)
            _set_head(connection, sequence)
            self._fold_what_is_long(connection, [row[1 + _USER_KEY] for row in fresh])
        return answers

    def drop_old(self, connection: sqlite3.Connection, oldest_ms: int) -> int:
        """A piece of what is older; what it says of users is folded into their profiles first."""
        old = connection.execute(
            "SELECT sequence, user_key FROM events INDEXED BY events_by_time "
            "WHERE time_ms < ? LIMIT ?",
            (oldest_ms, _PIECE),
        ).fetchall()
        self._fold(connection, sorted({user for _, user in old}))
        _delete_in(connection, "events", "sequence", [sequence for sequence, _ in old])
        pages = connection.execute(
            "DELETE FROM exposures WHERE id IN "
            "(SELECT id FROM exposures WHERE time_ms < ? LIMIT ?)",
            (oldest_ms, _PIECE),
        ).rowcount
        if old or pages:
            give_back(connection)
        return max(len(old), pages)

    def log_impressions(
        self,
        connection: sqlite3.Connection,
        user_id: str,
        keys: Keys,
        times_ms: int,
        exposure: str,
    ) -> None:
        if forgotten_among(connection, [user_id]):
            return
        user = to_signed(key_of(user_id))
        connection.execute(
            "INSERT INTO exposures (user_key, time_ms, keys, exposure) VALUES (?, ?, ?, ?)",
            (user, times_ms, keys.astype("<u8").tobytes(), exposure),
        )
        row = connection.execute(
            "SELECT shown FROM impressions WHERE user_key = ?", (user,)
        ).fetchone()
        page = Impressions(keys=keys, times_ms=np.full(len(keys), times_ms, np.int64))
        shown = add_impressions(unpack_impressions(row and row[0]), page, self._bounds)
        connection.execute(
            "INSERT OR REPLACE INTO impressions VALUES (?, ?)", (user, pack_impressions(shown))
        )

    def _fold_what_is_long(self, connection: sqlite3.Connection, users: Sequence[int]) -> None:
        self._unfolded.update(users)
        long = [user for user in dict.fromkeys(users) if self._unfolded[user] >= _TAIL]
        self._fold(connection, long)
        if len(self._unfolded) > _USERS_COUNTED:
            self._unfolded.clear()

    def _fold(self, connection: sqlite3.Connection, users: Sequence[int]) -> None:
        """Let the `live` rows of `users` speak for all of their events that there are."""
        head = connection.execute("SELECT max(sequence) FROM events").fetchone()[0]
        rows = []
        for chunk in chunks(users):
            statement = _TAILS.format(marks(1, len(chunk)))
            for user, blob, tail in connection.execute(statement, chunk).fetchall():
                events = tail_of(tail)
                if events is not None:
                    live = fold(unpack_live(blob), events, self._bounds)
                    rows.append((user, head, pack_live(live)))
        insert_many(connection, "INSERT OR REPLACE INTO live", rows)
        for user in users:
            del self._unfolded[user]


def forgotten_among(connection: sqlite3.Connection, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that were deleted."""
    if connection.execute("SELECT 1 FROM forgotten LIMIT 1").fetchone() is None:
        return set()
    salt = _salt(connection)
    digests = {forgotten_digest(id, salt): id for id in ids}
    found = select_in(connection, "SELECT digest FROM forgotten WHERE digest IN {}", digests)
    return {digests[digest] for (digest,) in found}


def forget(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Delete all rows of the users and remember digests only; returns the head of the log."""
    users = [to_signed(int(key)) for key in keys_of(ids)]
    for table in ("events", "live", "impressions", "exposures", "base_0", "base_1"):
        _delete_in(connection, table, "user_key", users)
    salt = _salt(connection)
    digests = [(forgotten_digest(id, salt),) for id in ids]
    insert_many(connection, "INSERT OR IGNORE INTO forgotten", digests)
    return _set_head(connection, _head(connection) + 1)


def upsert_items(connection: sqlite3.Connection, items: Sequence[CatalogItem]) -> int:
    """Raises `KeyCollision` when the catalogue has the key under another id."""
    fresh: dict[int, CatalogItem] = {}
    for item in items:
        key = key_of(item.id)
        _check_id(key, fresh.get(key), item)
        fresh[key] = item
    stored = [to_signed(key) for key in fresh]
    base = base_half(connection)
    for table in (f"base_items_{base}", "items"):
        for key, text in select_in(
            connection, f"SELECT key, item FROM {table} WHERE key IN {{}}", stored
        ):
            if text is not None:
                _check_id(to_unsigned(key), item_of(text), fresh[to_unsigned(key)])
    return _change_items(connection, [(to_signed(k), item_text(i)) for k, i in fresh.items()])


def delete_items(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    keys = dict.fromkeys(to_signed(int(key)) for key in keys_of(ids))
    return _change_items(connection, [(key, None) for key in keys])


def base_half(connection: sqlite3.Connection) -> int:
    """Which of `base_0` and `base_1` is read."""
    return int(connection.execute("SELECT base FROM log").fetchone()[0])


def _change_items(connection: sqlite3.Connection, changes: Sequence[tuple[int, str | None]]) -> int:
    head = _head(connection)
    rows = [(key, head + 1 + at, text) for at, (key, text) in enumerate(changes)]
    insert_many(connection, "INSERT OR REPLACE INTO items", rows)
    return _set_head(connection, head + len(rows))


def _check_id(key: int, known: CatalogItem | None, item: CatalogItem) -> None:
    if known is not None and known.id != item.id:
        raise KeyCollision(known.id, item.id, key)


def _head(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT head FROM log").fetchone()[0])


def _set_head(connection: sqlite3.Connection, head: int) -> int:
    connection.execute("UPDATE log SET head = ?", (head,))
    return head


def _salt(connection: sqlite3.Connection) -> bytes:
    return bytes(connection.execute("SELECT salt FROM log").fetchone()[0])


def _delete_in(
    connection: sqlite3.Connection, table: str, column: str, values: Sequence[Any]
) -> None:
    for chunk in chunks(values):
        connection.execute(f"DELETE FROM {table} WHERE {column} IN {marks(len(chunk))}", chunk)
