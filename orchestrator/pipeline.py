"""The engine: runs an explicit list of stages in order and records what each of them did."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from orchestrator.budget import Budgets, Deadline
from orchestrator.cards import CardsLost
from orchestrator.live_state import LiveState, TakesChanges
from orchestrator.models import RankerModels
from orchestrator.opening import RequestOpener
from orchestrator.profile import anonymous
from orchestrator.rail import PopularRail
from orchestrator.releases import Release, ReleaseLost
from orchestrator.rollout import Rollout, Watched
from orchestrator.stages import Ask, Draft, Stage
from orchestrator.validation import check_batch
from orchestrator.versions import IndexVersionTracker, ServedIndex
from shortlist.admin import VersionedTier
from shortlist.config import ServingConfig
from shortlist.errors import ShortlistError
from shortlist.page import (
    Page,
    PageRequest,
    Ranking,
    RankRequest,
    SimilarItems,
    SimilarRequest,
    StageTrace,
    Trace,
)
from shortlist.telemetry import PageWatch, Unwatched
from shortlist.tiers import LogPosition

__all__ = ["Pipeline", "Recommender", "begin"]

_log = logging.getLogger(__name__)

A = TypeVar("A", Page, Ranking, SimilarItems)

_BATCH_CONCURRENCY = 16
_REFRESH_S = 2.0  # how soon an activated index version is noticed
_RAIL_S = 60.0  # how old the cached popular items may become


class Pipeline:
    """A list of stages."""

    def __init__(
        self, stages: Sequence[Stage], *, name: str = "", watch: PageWatch | None = None
    ) -> None:
        """`watch` hears, under `name`, of every run that came to its end."""
        self.stages = tuple(stages)
        self._name = name
        self._watch = watch or Unwatched()

    async def run(self, draft: Draft) -> tuple[Draft, Trace]:
        """The draft after the last stage. Raises what a stage raises."""
        begun = time.perf_counter()
        traces: list[StageTrace] = []
        for stage in self.stages:
            started = time.perf_counter()
            draft, counts = await stage.run(draft)
            traces.append(
                StageTrace(
                    stage=stage.name,
                    duration_us=_us_since(started),
                    items_in=counts.items_in,
                    items_out=counts.items_out,
                    dropped={reason: count for reason, count in counts.dropped.items() if count},
                    by_source=counts.by_source,
                )
            )
        trace = Trace(stages=tuple(traces), total_us=_us_since(begun))
        self._watch.answered(self._name, trace, draft.answer)
        return draft, trace


class Recommender(TakesChanges):
    """Answers requests and takes in changes; `assemble` builds it.

    Use it as an async context manager. `shortlist.client.AsyncClient` has the same methods.
    """

    def __init__(
        self,
        *,
        pages: Pipeline,
        rankings: Pipeline,
        similar: Pipeline,
        serving: ServingConfig,
        opener: RequestOpener,
        versions: IndexVersionTracker,
        rail: PopularRail,
        models: RankerModels,
        rollout: Rollout,
        live: LiveState,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(live)
        self._pages = pages
        self._rankings = rankings
        self._similar = similar
        self._serving = serving
        self._opener = opener
        self._versions = versions
        self._rail = rail
        self._models = models
        self.rollout = rollout
        self._close = close
        self._refresher: asyncio.Task[None] | None = None
        self.inside: Mapping[str, VersionedTier] = {}  # tiers that this process holds, by name

    @property
    def index(self) -> ServedIndex | None:
        """What the shards serve; None until one was reached."""
        return self._versions.current

    @property
    def log_position(self) -> LogPosition:
        """How much of the change log this orchestrator itself knows."""
        return self._live.position

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of a page, in order."""
        return tuple(stage.name for stage in self._pages.stages)

    async def start(self) -> None:
        """Learn what the shards serve and copy their popular items; keep both fresh from now on.

        Shards that do not answer yet are found later. A second start does nothing. Raises
        `InvalidRequest` for a configuration that does not fit the items.
        """
        if self._refresher is not None:
            return
        await asyncio.gather(self._refresh(), self._live.start())
        self._opener.check_configuration()
        self._refresher = asyncio.create_task(self._keep_fresh())

    async def close(self) -> None:
        """Stop, and close tiers and stores."""
        if self._refresher is not None:
            self._refresher.cancel()
            with suppress(asyncio.CancelledError):
                await self._refresher
        await self.rollout.close()
        await self._live.close()
        await self._versions.close()
        await self._models.close()
        await self._close()

    async def __aenter__(self) -> Recommender:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def recommend(self, request: PageRequest, *, deadline_ms: float | None = None) -> Page:
        """One page. `deadline_ms` is what is left of the caller's deadline.

        Raises `InvalidRequest`, `NotImplementedYet`, `VersionNotServed` (a page token outlived its
        versions), `CoverageTooLow`, `TierUnavailable`, `BudgetExceeded`.
        """
        budgets = Budgets.of(self._serving, deadline_ms)
        await self._versions.known(budgets.retrieval())
        ask = self._opener.open_page(request, budgets)
        with self.rollout.watching(ask) as watched:
            draft, trace = await self._answer(self._pages, ask, request, watched)
        self._live.shown(draft)
        self._shadow(ask, request, draft, watched.milliseconds)
        return _traced(draft.answer, Page, trace if request.trace else None)

    async def similar(
        self, request: SimilarRequest, *, deadline_ms: float | None = None
    ) -> SimilarItems:
        """Items like one item, for nobody in particular.

        Raises `InvalidRequest`, `ItemNotFound`, `NotImplementedYet` (no source of similar items is
        on), `TierUnavailable`, `BudgetExceeded`.
        """
        budgets = Budgets.of(self._serving, deadline_ms)
        await self._versions.known(budgets.retrieval())
        ask = self._opener.open_similar(request, budgets)
        draft, trace = await _run_or_fall_back(self._similar, ask)
        return _traced(draft.answer, SimilarItems, trace if request.trace else None)

    async def recommend_batch(
        self, requests: Sequence[PageRequest], *, deadline_ms: float | None = None
    ) -> list[Page | ShortlistError]:
        """Aligned with the requests; each is answered or fails on its own within one deadline.

        Raises `InvalidRequest` for a batch that is empty or too large.
        """
        check_batch(len(requests))
        deadline = None if deadline_ms is None else Deadline.after(deadline_ms)
        slots = asyncio.Semaphore(_BATCH_CONCURRENCY)

        async def one(request: PageRequest) -> Page | ShortlistError:
            async with slots:
                return await self._page_or_error(request, deadline)

        return await asyncio.gather(*map(one, requests))

    async def rank(self, request: RankRequest, *, deadline_ms: float | None = None) -> Ranking:
        """The caller's items in ranking order. Raises `InvalidRequest`, `BudgetExceeded`."""
        budgets = Budgets.of(self._serving, deadline_ms)
        await self._versions.known(budgets.retrieval())
        ask = self._opener.open_ranking(request, budgets)
        with self.rollout.watching(ask) as watched:
            draft, trace = await self._answer(self._rankings, ask, request, watched)
        return _traced(draft.answer, Ranking, trace if request.trace else None)

    async def _answer(
        self, pipeline: Pipeline, ask: Ask, request: PageRequest | RankRequest, watched: Watched
    ) -> tuple[Draft, Trace]:
        """By the release that the ask names, or by the active one where a replica lacks it."""
        try:
            draft, trace = await _run_or_fall_back(pipeline, ask)
        except ReleaseLost as error:
            _log.info("request %s falls back: %s", ask.request_id, error)
            watched.fell_back()
            ask = self._opener.on_release(ask, request, Release(), pinned=True)
            return await _run_or_fall_back(pipeline, ask)
        watched.answered(draft)
        return draft, trace

    def _shadow(self, ask: Ask, request: PageRequest, draft: Draft, served_ms: float) -> None:
        shadow = self.rollout.shadow
        if shadow.wants(ask.request_id):
            again = self._opener.on_release(ask, request, shadow.release, pinned=False)
            shadow.offer(again, draft, served_ms)

    async def _page_or_error(
        self, request: PageRequest, deadline: Deadline | None
    ) -> Page | ShortlistError:
        request = replace(request, request_id=request.request_id or uuid.uuid4().hex)
        try:
            return await self.recommend(
                request, deadline_ms=None if deadline is None else deadline.remaining_ms
            )
        except ShortlistError as error:
            return error
        except Exception:
            _log.exception("request %s of a batch failed", request.request_id)
            return ShortlistError(f"internal error, request {request.request_id}")

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self._refresh()
            except Exception:
                _log.exception("the background refresh failed; it goes on")

    async def _refresh(self) -> None:
        index, _ = await asyncio.gather(
            self._versions.refresh(Deadline.after(1000 * _REFRESH_S)), self._models.refresh()
        )
        if index is not None and self._rail.is_stale(index.version, _RAIL_S):
            await self._rail.refresh()


def begin(ask: Ask) -> Draft:
    """What the first stage gets."""
    return Draft(ask=ask, user=anonymous(ask.person, ask.listing.as_of_ms))


async def _run_or_fall_back(pipeline: Pipeline, ask: Ask) -> tuple[Draft, Trace]:
    draft = begin(ask)
    try:
        return await pipeline.run(draft)
    except CardsLost:  # all shards went away in mid-request: as if they had been away before
        return await pipeline.run(replace(draft, fallback=True))


def _traced(answer: Page | Ranking | SimilarItems | None, kind: type[A], trace: Trace | None) -> A:
    if not isinstance(answer, kind):
        raise TypeError(f"the last stage left {answer!r} instead of a {kind.__name__}")
    return replace(answer, trace=trace)


def _us_since(started: float) -> int:
    return round((time.perf_counter() - started) * 1e6)
