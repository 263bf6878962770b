"""The one thread of a process that writes `store.sqlite`: what waits together shares a commit.

A durable commit costs a flush of the disk, however much is in it. While one runs, the next calls
gather, so many callers share a flush.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortlist.errors import ShortlistError
from shortlist.right_of_way import REQUESTS_FIRST
from shortlist.stores import ProfilesUnavailable, StoreFull
from shortlist.stores.packing import Unpackable
from shortlist.stores.sqlite_schema import begin, connect, create

__all__ = ["Change", "GroupWriter", "translated"]

_log = logging.getLogger(__name__)

_WAIT_S = 30.0  # for writers of other processes
_EVENTS_PER_COMMIT = 2_000  # some 40 ms
_FULL, _IOERR, _CANTOPEN = 13, 10, 14  # sqlite3.SQLITE_FULL, SQLITE_IOERR, SQLITE_CANTOPEN
_IDLE_S = 60.0

Result = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something to be written, and who waits for it."""

    apply: Callable[[sqlite3.Connection], Result] | None = None  # None: `events` are appended
    events: Sequence[tuple[Any, ...]] = ()  # rows
    after: Callable[[sqlite3.Connection], None] | None = None  # once it is durable
    waiter: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True)
class _Outcome:
    change: Change
    result: Result = None
    error: ShortlistError | None = None


@dataclass(slots=True, kw_only=True)
class _Queue:
    waiting: deque[Change] = field(default_factory=deque)
    events: int = 0


class GroupWriter:
    """Applies changes in the order they came in; starts its thread with the first one.

    `append` writes the rows of several calls at once and returns one result a call. `tidy` runs now
    and then between commits, in a transaction of its own, and says whether there is more to do.
    """

    def __init__(
        self,
        path: Path,
        *,
        append: Callable[[sqlite3.Connection, Sequence[Sequence[tuple[Any, ...]]]], list[Result]],
        tidy: Callable[[sqlite3.Connection], bool],
        tidy_every_s: float,
        most_events: int,
    ) -> None:
        self._path = path
        self._append = append
        self._tidy = tidy
        self._tidy_every_s = tidy_every_s
        self._tidy_at = time.monotonic() + _IDLE_S
        self._most_events = most_events
        self._queue = _Queue()
        self._awake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._connection: sqlite3.Connection | None = None

    async def write(
        self,
        apply: Callable[[sqlite3.Connection], Result] | None = None,
        *,
        events: Sequence[tuple[Any, ...]] = (),
        after: Callable[[sqlite3.Connection], None] | None = None,
    ) -> Result:
        """Returns when it is durable. Raises `StoreFull`, and `ProfilesUnavailable`."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._put(Change(apply=apply, events=events, after=after, waiter=waiter, loop=loop))
        return await waiter

    def close(self) -> None:
        """Write what waits, and stop. Blocks."""
        with self._awake:
            self._closing = True
            self._awake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _put(self, change: Change) -> None:
        with self._awake:
            if self._closing:
                raise ProfilesUnavailable(f"{self._path.name} is closed")
            if self._queue.events + len(change.events) > self._most_events:
                raise StoreFull(
                    f"{self._queue.events} events wait to become durable; "
                    f"store.queue_events allows {self._most_events}"
                )
            self._queue.waiting.append(change)
            self._queue.events += len(change.events)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
                self._thread.start()
            self._awake.notify()

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            if batch:
                if any(change.events for change in batch):
                    REQUESTS_FIRST.give()
                _resolve(self._commit(batch))
            elif time.monotonic() >= self._tidy_at:
                self._tidy_up()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _take(self) -> list[Change] | None:
        """What is committed next; empty when it is time to tidy, None when closing."""
        with self._awake:
            while not self._queue.waiting:
                if self._closing:
                    return None
                left = self._tidy_at - time.monotonic()
                if left <= 0:
                    return []
                self._awake.wait(left)
            batch: list[Change] = []
            events = 0
            while self._queue.waiting:
                if batch and events + len(self._queue.waiting[0].events) > _EVENTS_PER_COMMIT:
                    break
                batch.append(self._queue.waiting.popleft())
                events += len(batch[-1].events)
            self._queue.events -= events
            return batch

    def _commit(self, batch: Sequence[Change]) -> list[_Outcome]:
        """Nothing of the batch is acknowledged unless all that succeeded in it is on disk."""
        try:
            with translated(self._path, writing=True):
                connection = self._connected()
                outcomes = self._in_transaction(connection, batch)
        except ShortlistError as error:
            return [_Outcome(change, error=error) for change in batch]
        for outcome in outcomes:
            self._afterwards(connection, outcome)
        return outcomes

    def _in_transaction(
        self, connection: sqlite3.Connection, batch: Sequence[Change]
    ) -> list[_Outcome]:
        begin(connection, wait_s=_WAIT_S)
        try:
            outcomes = self._apply(connection, batch)
            connection.execute("COMMIT")
            return outcomes
        except BaseException:
            _roll_back(connection)
            raise

    def _apply(self, connection: sqlite3.Connection, batch: Sequence[Change]) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        appends: list[Change] = []
        for change in batch:
            if change.apply is None:
                appends.append(change)
                continue
            outcomes += self._append_all(connection, appends)
            appends = []
            outcomes.append(_applied(connection, change, change.apply))
        return outcomes + self._append_all(connection, appends)

    def _append_all(
        self, connection: sqlite3.Connection, appends: Sequence[Change]
    ) -> list[_Outcome]:
        if not appends:
            return []
        results = self._append(connection, [change.events for change in appends])
        return [_Outcome(change, result) for change, result in zip(appends, results, strict=True)]

    def _afterwards(self, connection: sqlite3.Connection, outcome: _Outcome) -> None:
        if outcome.change.after is None or outcome.error is not None:
            return
        try:
            with translated(self._path, writing=True):
                outcome.change.after(connection)
        except ShortlistError as error:
            outcome.error = error

    def _tidy_up(self) -> None:
        more = False
        try:
            with translated(self._path, writing=True):
                connection = self._connected()
                begin(connection, wait_s=_WAIT_S)
                try:
                    more = self._tidy(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    _roll_back(connection)
                    raise
        except ShortlistError as error:
            _log.warning("old events could not be dropped: %s", error)
        self._tidy_at = time.monotonic() + (0.1 if more else self._tidy_every_s)

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = connect(self._path, "rwc", wait_s=_WAIT_S)
            try:
                create(self._path, connection, wait_s=_WAIT_S)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


class translated:  # noqa: N801 - a context manager that reads as a verb
    """SQLite's errors become the store's: no room is `StoreFull`, the rest unavailability."""

    def __init__(self, path: Path, *, writing: bool = False) -> None:
        self._path = path
        self._writing = writing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, ShortlistError) or not isinstance(error, Exception):
            return
        if isinstance(error, sqlite3.Error | Unpackable):
            raise self._of(error) from error
        if self._writing:  # the thread has to live on, and the callers must not wait for ever
            _log.error("the store's writer failed", exc_info=error)
            raise self._of(error) from error

    def _of(self, error: Exception) -> ShortlistError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if self._writing and code in (_FULL, _IOERR):
            return StoreFull(f"{self._path.name} cannot grow: {error}")
        # Where it is says more than what it is called, if it is looked for in a wrong place.
        name = self._path if code == _CANTOPEN else self._path.name
        return ProfilesUnavailable(f"profile store {name}: {error}")


def _applied(
    connection: sqlite3.Connection,
    change: Change,
    apply: Callable[[sqlite3.Connection], Result],
) -> _Outcome:
    """A change that refuses itself leaves the others of its commit alone."""
    connection.execute("SAVEPOINT one")
    try:
        result = apply(connection)
    except (ShortlistError, Unpackable) as error:
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        if isinstance(error, Unpackable):
            return _Outcome(change, error=ProfilesUnavailable(str(error)))
        return _Outcome(change, error=error)
    connection.execute("RELEASE one")
    return _Outcome(change, result)


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        _log.warning("a failed commit could not be rolled back: %s", error)


def _resolve(outcomes: Sequence[_Outcome]) -> None:
    """Wake the callers, once a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome]] = {}
    for outcome in outcomes:
        by_loop.setdefault(outcome.change.loop, []).append(outcome)
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(_tell, mine)
        except RuntimeError:  # the loop is closed, nobody waits any more
            continue


def _tell(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        waiter = outcome.change.waiter
        if waiter.done():  # cancelled
            continue
        if outcome.error is None:
            waiter.set_result(outcome.result)
        else:
            waiter.set_exception(outcome.error)
