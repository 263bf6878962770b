"""Remembers what pages have shown, off the path of the request."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.stages import Draft
from shortlist.errors import ShortlistError
from shortlist.stores import Store
from shortlist.tiers import Keys

__all__ = ["ImpressionLog"]

_log = logging.getLogger(__name__)

_QUEUE = 2000  # pages that may wait; more are lost and counted
_GATHER_S = 0.05  # pages of so long are written together: each write waits for the disk
_AT_ONCE = 64  # pages written side by side: a store commits what waits together
_FLUSH_S = 2.0  # how long closing waits for the last ones
_REPORT_EVERY = 1000  # lost pages


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    user_id: str
    keys: Keys  # uint64 [n], in the order shown
    time_ms: int
    exposure: dict[str, object]


class ImpressionLog:
    """A bounded queue of pages and one task that writes them to the store.

    An impression is worth less than a page: when the store is down or slow, impressions are lost
    and counted, and no request waits for them.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._queue: asyncio.Queue[_Shown] = asyncio.Queue(_QUEUE)
        self._writer: asyncio.Task[None] | None = None
        self._lost = 0

    @property
    def lost(self) -> int:
        """Pages whose impressions were not written."""
        return self._lost

    def note(self, draft: Draft) -> None:
        """Remember the page of a finished draft; one for nobody, or without items, is not kept."""
        if self._store is None or not draft.ask.person.user_id or not len(draft.candidates):
            return
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all(self._store))
        try:
            self._queue.put_nowait(_shown(draft))
        except asyncio.QueueFull:
            self._lose(1, "too many wait")

    async def flush(self) -> None:
        """Return when all that was noted is written or lost."""
        await self._queue.join()

    async def close(self) -> None:
        """Write what waits, for a moment, and stop."""
        if self._writer is None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), _FLUSH_S)
        self._lost += self._queue.qsize()
        self._writer.cancel()
        with suppress(asyncio.CancelledError):
            await self._writer
        self._writer = None

    async def _write_all(self, store: Store) -> None:
        while True:
            waiting = [await self._queue.get()]
            if self._queue.qsize() < _AT_ONCE:
                await asyncio.sleep(_GATHER_S)
            while len(waiting) < _AT_ONCE and not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            await asyncio.gather(*(self._write(store, one) for one in waiting))

    async def _write(self, store: Store, shown: _Shown) -> None:
        try:
            await store.log_impressions(shown.user_id, shown.keys, shown.time_ms, shown.exposure)
        except ShortlistError as error:
            self._lose(1, str(error))
        except Exception:
            _log.exception("impressions were not written")
            self._lost += 1
        finally:
            self._queue.task_done()

    def _lose(self, pages: int, why: str) -> None:
        if self._lost % _REPORT_EVERY == 0:
            _log.warning("impressions are lost (%d pages so far): %s", self._lost, why)
        self._lost += pages


def _shown(draft: Draft) -> _Shown:
    versions = draft.versions
    return _Shown(
        user_id=draft.ask.person.user_id,
        keys=draft.candidates.keys,
        time_ms=draft.ask.person.time_ms,
        exposure={
            "request_id": draft.ask.request_id,
            "offset": draft.ask.listing.offset,
            "retrieval_version": versions.retrieval,
            "ranking_version": versions.ranking,
            "ranker": versions.ranker,
            "arm": versions.arm,
            "release": versions.release,
        },
    )
