"""Carries the change log to something that applies it: a shard, a ranker, an orchestrator."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakKeyDictionary

from shortlist.errors import ShortlistError
from shortlist.live import Changes
from shortlist.right_of_way import REQUESTS_FIRST
from shortlist.stores import Store
from shortlist.tiers import LogPosition

__all__ = ["LogTailer"]

_log = logging.getLogger(__name__)

_POLL_S = 0.025  # how soon a change is noticed; reading the head costs some 10 us
# After a stretch of events alone: a shard of 10,000 items takes in 125 events in 1.9 ms and 1250 in
# 3.2 ms, so at 5,000 events a second fewer and longer stretches leave more of it to the pages. It
# is no round number: who asks every 100 ms would meet the followers each time, or never.
_GATHER_S = 0.19
_AFTER_ERROR_S = 0.5


class _Reads:
    """What a process's followers of one log read: a stretch that several want is read once."""

    def __init__(self) -> None:
        self._under_way: dict[int, asyncio.Task[Changes]] = {}

    async def changes(self, store: Store, after: int) -> Changes:
        """What `store.changes` says now, or said to somebody who has just begun to ask."""
        task = self._under_way.get(after)
        if task is None:
            task = asyncio.create_task(store.changes(after))
            self._under_way[after] = task
            task.add_done_callback(lambda done: self._forget(after, done))
        return await asyncio.shield(task)

    def _forget(self, after: int, task: asyncio.Task[Changes]) -> None:
        del self._under_way[after]
        if not task.cancelled():
            task.exception()  # nobody may be left to hear of it


_reads: WeakKeyDictionary[Store, _Reads] = WeakKeyDictionary()


class LogTailer:
    """Reads changes after a position and hands them to `apply`, in order, off the event loop.

    `apply` is called from one thread at a time. When it raises, the same stretch is tried again:
    a replica falls behind and says so, and never skips a change.
    """

    def __init__(
        self,
        store: Store,
        apply: Callable[[Changes], None],
        *,
        after: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._reads = _reads.setdefault(store, _Reads())
        self._apply = apply
        self._sequence = after
        self._clock = clock
        self._complete_at: float | None = None  # when it last knew that nothing was missing
        self._started_at = clock()
        self._task: asyncio.Task[None] | None = None

    @property
    def position(self) -> LogPosition:
        """What has been applied."""
        since = self._started_at if self._complete_at is None else self._complete_at
        lag_ms = int((self._clock() - since) * 1000)
        return LogPosition(sequence=self._sequence, lag_ms=max(0, lag_ms))

    @property
    def complete(self) -> bool:
        """Whether it has ever known that nothing was missing."""
        return self._complete_at is not None

    async def catch_up(self) -> None:
        """Apply everything up to the head of the log as it is now. Raises what the store raises."""
        while await self._step() == 0:
            pass

    def start(self) -> None:
        """Follow the log from now on; a second start does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _apply_in_turn(self, changes: Changes) -> None:
        with REQUESTS_FIRST.turn():
            self._apply(changes)

    async def _follow(self) -> None:
        while True:
            try:
                await asyncio.sleep(await self._step())
            except ShortlistError as error:
                _log.warning("the change log cannot be followed: %s", error)
                await asyncio.sleep(_AFTER_ERROR_S)
            except Exception:
                _log.exception("a change could not be applied; it will be tried again")
                await asyncio.sleep(_AFTER_ERROR_S)

    def _begin_again(self, head: int) -> None:
        """The log is not the one that was read: it was lost, or an older copy was put in its place.
        What comes next is new, whatever its number; waiting for the old number would skip it."""
        _log.warning(
            "the change log ends at %d, before %d, which was known already: it is another one, "
            "and is followed from its end",
            head,
            self._sequence,
        )
        self._sequence = head

    async def _step(self) -> float:
        """Apply the next stretch; returns for how long to rest, 0 = something is missing yet.

        The followers of a process rest until the same moment, so that they want the same stretch.
        """
        asked_at = self._clock()
        rest_s = _POLL_S
        head = await self._store.head()
        if head < self._sequence:
            self._begin_again(head)
        if head > self._sequence:
            await REQUESTS_FIRST.give_on_loop()
            changes = await self._reads.changes(self._store, self._sequence)
            await asyncio.to_thread(self._apply_in_turn, changes)
            self._sequence = changes.sequence
            if changes.sequence < max(head, changes.head):
                return 0
            rest_s = _POLL_S if changes.items else _GATHER_S
        self._complete_at = asked_at
        return rest_s - time.monotonic() % rest_s
