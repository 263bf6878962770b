"""Has a share of the pages made a second time, by a release whose answer nobody sees.

It is off the path: what waits is bounded, few are made at once, each with a budget of its own, and
what does not fit is skipped and counted. Its pages are no impressions, and no metric counts them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.budget import Budgets
from orchestrator.releases import Release, place_of
from orchestrator.rollout_figures import Durations
from orchestrator.stages import Ask, Draft
from shortlist.config import ServingConfig, ShadowConfig
from shortlist.errors import ShortlistError
from shortlist.tiers import Keys

__all__ = ["Shadow", "ShadowFigures"]

_log = logging.getLogger(__name__)

_SALT = "shadow"
_LONGEST_WAIT_S = 5.0  # a page that was served longer ago would be compared with another world


class ShadowFigures:
    """How the pages that nobody saw differ from the ones that were served."""

    def __init__(self) -> None:
        self.requests = 0  # answered twice, or failed the second time
        self.failed = 0
        self.skipped = 0
        self._overlaps = 0.0
        self._same_first = 0
        self._served = Durations()
        self._made = Durations()

    def compare(self, served: Keys, made: Keys, served_ms: float, made_ms: float) -> None:
        """Keys of both pages, in page order; the served one has some."""
        self.requests += 1
        self._overlaps += float(np.isin(served, made).mean())
        self._same_first += bool(len(made)) and bool(served[0] == made[0])
        self._served.add(served_ms)
        self._made.add(made_ms)

    def fail(self) -> None:
        self.requests += 1
        self.failed += 1

    @property
    def overlap(self) -> float:
        """Mean share of the served page's items that the other page has; 0 before the first."""
        return self._overlaps / max(1, self._made.total)

    @property
    def same_first(self) -> float:
        """Share of pages with the same first item."""
        return self._same_first / max(1, self._made.total)

    def time_ratio(self, quantile: float) -> float:
        """A quantile of its times, as a multiple of that of the served times; 0 before the
        first."""
        served_ms = self._served.quantile(quantile)
        return self._made.quantile(quantile) / served_ms if served_ms else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    ask: Ask
    served: Keys
    served_ms: float
    since: float  # time.monotonic()


class Shadow:
    """A bounded queue of served pages, and the tasks that make them again."""

    def __init__(
        self,
        make: Callable[[Ask], Awaitable[Draft]],
        config: ShadowConfig,
        serving: ServingConfig,
    ) -> None:
        """`make` answers an ask without anybody noticing."""
        self._make = make
        self._config = config
        self._serving = serving
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(config.queue)
        self._workers: list[asyncio.Task[None]] = []
        self.release = Release()
        self.share = 0.0
        self.figures: ShadowFigures | None = None  # of the last release, None = there was none

    async def set(self, release: Release, share: float) -> None:
        """Shadow with another release or share, with figures of its own; a share of 0 ends it and
        leaves them."""
        await self.close()
        if share:
            self.release, self.figures = release, ShadowFigures()
        self.share = share

    def wants(self, request_id: str) -> bool:
        """Whether that request is one of the share."""
        return bool(self.share) and place_of(request_id, _SALT) < self.share

    def offer(self, ask: Ask, draft: Draft, served_ms: float) -> None:
        """Make the page of `draft` again as `ask` wants it, or skip it. Never waits."""
        if self.figures is None or not len(draft.candidates):
            return
        while len(self._workers) < self._config.concurrency:
            self._workers.append(asyncio.create_task(self._work(self.figures)))
        waiting = _Waiting(
            ask=ask, served=draft.candidates.keys, served_ms=served_ms, since=time.monotonic()
        )
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            self.figures.skipped += 1

    async def flush(self) -> None:
        """Return when all that was offered is made or skipped."""
        await self._queue.join()

    async def close(self) -> None:
        """Stop; what waits is skipped."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.cancel()
        for worker in workers:
            with suppress(asyncio.CancelledError):
                await worker
        if self.figures is not None:
            self.figures.skipped += self._queue.qsize()
        self._queue = asyncio.Queue(self._config.queue)

    async def _work(self, figures: ShadowFigures) -> None:
        while True:
            waiting = await self._queue.get()
            try:
                if time.monotonic() - waiting.since > _LONGEST_WAIT_S:
                    figures.skipped += 1
                else:
                    await self._make_again(waiting, figures)
            finally:
                self._queue.task_done()

    async def _make_again(self, waiting: _Waiting, figures: ShadowFigures) -> None:
        ask = replace(waiting.ask, budgets=Budgets.of(self._serving, None))
        begun = time.perf_counter()
        try:
            draft = await self._make(ask)
        except ShortlistError as error:
            _log.info("the shadow of request %s failed: %s", ask.request_id, error)
            figures.fail()
        except Exception:
            _log.exception("the shadow of request %s failed", ask.request_id)
            figures.fail()
        else:
            made_ms = 1000 * (time.perf_counter() - begun)
            figures.compare(waiting.served, draft.candidates.keys, waiting.served_ms, made_ms)
