"""Takes in events: checked one by one, made durable together, acknowledged in order.

Nothing here may starve the pages that the same process makes: events are checked a few at a time,
one batch after the other, and what waits is bounded.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain

from orchestrator.event_checks import CheckedEvents, EventChecker, check_batch_size
from orchestrator.event_places import PlaceFinder
from shortlist.config import StoreConfig
from shortlist.errors import InvalidField, ShortlistError
from shortlist.feed import Acknowledgement, EventBatch, EventRefusal, EventReport, RecordedEvent
from shortlist.live import Appended, LiveEvent
from shortlist.right_of_way import REQUESTS_FIRST
from shortlist.schema import Schema
from shortlist.stores import Store, StoreFull
from shortlist.telemetry import EventWatch, Unwatched

__all__ = ["EventIntake", "TooManyStreams"]

# Checking an event takes some 20 us. Everybody else gets a turn after every piece, and the loop for
# themselves now and then: with less of either, pages wait twice as long while events pour in; with
# more, 5,000 events a second are too many.
_PIECE = 16
_PIECES_A_PAUSE = 4
_PAUSE_S = 0.001
_STREAMS = 64  # at once
_INBOX_EVENTS = 10_000  # of one stream that may wait; then it is not read any further


class TooManyStreams(ShortlistError):
    """As many streams as this process takes are open."""

    status_name = "RESOURCE_EXHAUSTED"


class EventIntake:
    """The only way that events take to the store."""

    def __init__(
        self,
        store: Store,
        schema: Schema | None,
        config: StoreConfig,
        clock: Callable[[], float] = time.time,
        watch: EventWatch | None = None,
        taken: Callable[[Iterable[LiveEvent]], None] | None = None,
    ) -> None:
        """`watch` hears of every event that is answered for, `taken` gets those that are new and
        durable."""
        self._store = store
        self._watch = watch or Unwatched()
        self._taken = taken
        self._checker = EventChecker(schema, config.max_future_ms)
        self._places = PlaceFinder(store, schema)
        self._clock = clock
        self._room = _Room(config.queue_events)
        self._watch.reads_queue(lambda: self._room.waiting, config.queue_events)
        self._checking = asyncio.Lock()
        self._streams = 0

    async def record(self, events: Sequence[RecordedEvent]) -> EventReport:
        """Append events; what is counted as accepted or duplicate is durable.

        Raises `InvalidRequest` for none or more than 10,000 events, `StoreFull` when too many wait,
        and `ProfilesUnavailable`; nothing was acknowledged then.
        """
        check_batch_size(events)
        try:
            with self._room.taken(len(events)):
                [checked], appended = await self._append([EventBatch(sequence=0, events=events)])
        except StoreFull:
            self._watch.counted("turned_away", len(events))
            raise
        return EventReport(
            accepted=_accepted([checked], appended),
            duplicates=len(appended.duplicates),
            errors=_errors([checked], appended),
            clamped=tuple(checked.clamped),
            log_sequence=appended.sequence,
        )

    async def stream(
        self, batches: AsyncIterator[EventBatch]
    ) -> AsyncGenerator[Acknowledgement, None]:
        """Append batches as they come; one acknowledgement for all that waited together.

        While many events wait, `batches` is not asked for more. When it ends in an error, or a
        batch is wrong as a whole, all batches before are acknowledged first. Raises
        `TooManyStreams` and what `record` raises; what was not acknowledged may be sent again.
        """
        if self._streams >= _STREAMS:
            raise TooManyStreams(f"{self._streams} streams of events are open already")
        self._streams += 1
        inbox = _Inbox()
        reader = asyncio.create_task(inbox.fill(batches))
        try:
            while waiting := await inbox.take():
                yield await self._acknowledge(waiting)
        finally:
            self._streams -= 1
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader

    async def _acknowledge(self, batches: Sequence[EventBatch]) -> Acknowledgement:
        events = sum(len(batch.events) for batch in batches)
        await self._room.wait(events)
        with self._room.taken(events):
            checked, appended = await self._append(batches)
        return Acknowledgement(
            acknowledged_sequence=batches[-1].sequence,
            accepted=_accepted(checked, appended),
            duplicates=len(appended.duplicates),
            errors=_errors(checked, appended),
            log_sequence=appended.sequence,
        )

    async def _append(self, batches: Sequence[EventBatch]) -> tuple[list[CheckedEvents], Appended]:
        async with self._checking:
            checked = [await self._check(batch) for batch in batches]
        live = [event for one in checked for event in one.live]
        if live:
            appended = await self._store.append(await self._places.added(live))
            if self._taken is not None:
                known = {*appended.duplicates, *appended.forgotten}
                self._taken(one for at, one in enumerate(live) if at not in known)
        else:
            appended = Appended(sequence=await self._store.head())
        self._count(checked, appended)
        return checked, appended

    def _count(self, checked: Sequence[CheckedEvents], appended: Appended) -> None:
        refused = sum(len(one.errors) for one in checked) + len(appended.forgotten)
        self._watch.counted("accepted", _accepted(checked, appended))
        self._watch.counted("duplicate", len(appended.duplicates))
        self._watch.counted("refused", refused)

    async def _check(self, batch: EventBatch) -> CheckedEvents:
        checked = CheckedEvents(sequence=batch.sequence)
        now_ms = int(self._clock() * 1000)
        for start in range(0, len(batch.events), _PIECE):
            await _let_others(start)
            self._checker.check(batch, start, start + _PIECE, now_ms, checked)
        return checked


class _Room:
    """How many events may wait to become durable."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting = 0
        self._freed = asyncio.Event()

    @property
    def waiting(self) -> int:
        return self._waiting

    @contextmanager
    def taken(self, events: int) -> Iterator[None]:
        """Raises `StoreFull`. A batch that is larger than the room may enter an empty one."""
        if not self._fits(events):
            raise StoreFull(f"{self._waiting} events wait already, at most {self._most} may")
        self._waiting += events
        try:
            yield
        finally:
            self._waiting -= events
            self._freed.set()

    async def wait(self, events: int) -> None:
        """Return when so many fit."""
        while not self._fits(events):
            self._freed.clear()
            await self._freed.wait()

    def _fits(self, events: int) -> bool:
        return not self._waiting or self._waiting + events <= self._most


class _Inbox:
    """What a stream has sent and nobody has taken yet; an error comes after all that was sent."""

    def __init__(self) -> None:
        self._batches: deque[EventBatch] = deque()
        self._events = 0
        self._last = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    async def fill(self, batches: AsyncIterator[EventBatch]) -> None:
        """Read to the end, and no faster than `take` takes."""
        try:
            async for batch in batches:
                self._check(batch)
                self._batches.append(batch)
                self._events += len(batch.events)
                self._arrived.set()
                while self._events >= _INBOX_EVENTS:
                    self._room.clear()
                    await self._room.wait()
                await REQUESTS_FIRST.give_on_loop()
        except Exception as error:
            self._error = error
        finally:
            self._ended = True
            self._arrived.set()

    async def take(self) -> list[EventBatch]:
        """All that waits, at least one batch; none at the end. Raises what `batches` raised."""
        while not self._batches and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._batches and self._error is not None:
            raise self._error
        taken = list(self._batches)
        self._batches.clear()
        self._events = 0
        self._room.set()
        return taken

    def _check(self, batch: EventBatch) -> None:
        check_batch_size(batch.events)
        if batch.sequence <= self._last:
            after = f"after {self._last}" if self._last else "the first is at least 1"
            raise InvalidField("sequence", f"must increase, got {batch.sequence}; {after}")
        self._last = batch.sequence


async def _let_others(done: int) -> None:
    """Called before every piece, when `done` values of a batch are done."""
    pieces = done // _PIECE
    if pieces:
        await asyncio.sleep(0 if pieces % _PIECES_A_PAUSE else _PAUSE_S)
        await REQUESTS_FIRST.give_on_loop()


def _accepted(checked: Sequence[CheckedEvents], appended: Appended) -> int:
    """Events that are durable by this call."""
    given = sum(len(one.live) for one in checked)
    return given - len(appended.duplicates) - len(appended.forgotten)


def _errors(checked: Sequence[CheckedEvents], appended: Appended) -> tuple[EventRefusal, ...]:
    """What was refused here and by the store, in the order of the events."""
    places = [(one, index) for one in checked for index in one.indexes]
    for at in appended.forgotten:
        one, index = places[at]
        one.refuse(index, "user_id", "was deleted; events of deleted users are not taken in")
    return tuple(
        chain.from_iterable(
            sorted(one.errors, key=lambda refusal: refusal.index) for one in checked
        )
    )
