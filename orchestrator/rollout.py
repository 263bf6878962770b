"""Which versions answer whom: the active ones, and those of a canary for a share of the users."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from orchestrator.budget import Deadline
from orchestrator.guards import Guards
from orchestrator.models import RankerModels
from orchestrator.releases import Release
from orchestrator.rollout_canary import Canary
from orchestrator.shadow import Shadow
from orchestrator.stages import Ask, Draft
from orchestrator.versions import IndexVersionTracker
from shortlist.config import CanaryConfig
from shortlist.errors import (
    InvalidField,
    InvalidRequest,
    ItemNotFound,
    NotImplementedYet,
    VersionNotServed,
)
from shortlist.live import LiveEvent
from shortlist.page import Page

__all__ = ["Assignment", "Rollout", "Watched"]

_REFRESH_MS = 2000.0
# Not the release's fault: what was asked for is wrong, or outlived its versions.
_OF_THE_CALLER = (InvalidRequest, ItemNotFound, NotImplementedYet, VersionNotServed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What somebody gets."""

    release: Release = field(default_factory=Release)
    side: str = ""  # of a canary, as answers tell it


STABLE = Assignment()


class Rollout:
    """What this orchestrator serves to whom, and how it went so far.

    All of it is forgotten when the process ends.
    """

    def __init__(
        self,
        versions: IndexVersionTracker,
        models: RankerModels,
        shadow: Shadow,
        config: CanaryConfig,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._versions = versions
        self._models = models
        self._clock = clock
        self.default_guards = Guards.of(config)
        self.shadow = shadow
        self.canary: Canary | None = None  # the last one, running or not

    @property
    def stable(self) -> Release:
        """The active versions, as far as they are known."""
        index = self._versions.current
        return Release(retrieval=index.version if index else "", ranking=self._models.current)

    async def refresh(self) -> Release:
        """Ask every replica now what is active; requests name that from then on."""
        await asyncio.gather(
            self._versions.refresh(Deadline.after(_REFRESH_MS), anew=True),
            self._models.refresh(anew=True),
        )
        return self.stable

    async def set_canary(self, release: Release, share: float, guards: Guards) -> Canary | None:
        """Give a share of the users another release; 0 ends the canary there is, if any.

        Another release or share is another canary, whose figures begin anew. Raises
        `InvalidRequest`, and `VersionNotServed` when a replica in reach has not prepared it.
        """
        _check_share(share)
        guards.check()
        if not share:
            if self.canary is not None:
                self.canary.end()
            return self.canary
        await self._check_prepared(release)
        now = self.canary
        if now is not None and now.running and (now.release, now.share) == (release, share):
            now.guards = guards
        else:
            self.canary = Canary(
                release=release, share=share, guards=guards, started_ms=int(self._clock() * 1000)
            )
        return self.canary

    async def set_shadow(self, release: Release, share: float) -> Shadow:
        """Answer a share of the requests a second time, for nobody; 0 ends it. Raises as
        `set_canary`."""
        _check_share(share)
        if share:
            await self._check_prepared(release)
        await self.shadow.set(release, share)
        return self.shadow

    async def close(self) -> None:
        await self.shadow.close()

    # -- what requests ask ------------------------------------------------------------------------

    def assign(self, user: str) -> Assignment:
        """What somebody gets who begins something; `user` is any stable name."""
        canary = self._running()
        if canary is None:
            return STABLE
        mine = canary.includes(user)
        return Assignment(
            release=canary.release if mine else Release(), side=canary.label(canary=mine)
        )

    def resume(self, side: str) -> Assignment:
        """What a listing goes on with that has begun on that side; it has pinned its versions."""
        canary = self._running()
        mine = canary.side_of_label(side) if canary is not None else None
        if canary is None or not mine:
            return Assignment(side=side)
        return Assignment(release=canary.release, side=side)

    @contextmanager
    def watching(self, ask: Ask) -> Iterator[Watched]:
        """Counts what becomes of a request; its body says how it was answered."""
        canary = self._running()
        mine = canary.side_of_label(ask.side) if canary is not None else None
        watched = Watched(canary if mine is not None else None, mine=bool(mine))
        try:
            yield watched
        except _OF_THE_CALLER:
            raise
        except Exception:
            watched.failed()
            raise

    def hear(self, events: Iterable[LiveEvent]) -> None:
        """Count what came of pages; for events that are durable."""
        canary = self._running()
        if canary is not None:
            for event in events:
                if event.attribution:
                    canary.hear(event)

    def _running(self) -> Canary | None:
        return self.canary if self.canary is not None and self.canary.running else None

    async def _check_prepared(self, release: Release) -> None:
        await self.refresh()
        for tier, version, lacking in (
            ("retrieval", release.retrieval, self._versions.lacking(release.retrieval)),
            ("ranking", release.ranking, self._models.lacking(release.ranking)),
        ):
            if version and lacking is None:
                raise VersionNotServed(f"no replica has prepared {tier} version {version}")
            if version and lacking:
                names = ", ".join(lacking)
                raise VersionNotServed(f"{tier} version {version} is not prepared on {names}")


class Watched:
    """One request on one side of a canary, or on none."""

    def __init__(self, canary: Canary | None, *, mine: bool) -> None:
        self._canary = canary
        self._mine = mine
        self._begun = time.perf_counter()
        self._settled = False

    @property
    def milliseconds(self) -> float:
        """Since the request was opened."""
        return 1000 * (time.perf_counter() - self._begun)

    def answered(self, draft: Draft) -> None:
        """By the release that it was meant for."""
        if self._canary is None:
            return
        self._settled = True
        answer = draft.answer
        degraded = bool(answer is not None and answer.degradations)
        self._canary.answered(self.milliseconds, canary=self._mine, degraded=degraded)
        if isinstance(answer, Page) and answer.items:
            user_id = draft.ask.person.user_id
            self._canary.shown(user_id, draft.ask.request_id, canary=self._mine)

    def fell_back(self) -> None:
        """A replica had lost the release's versions."""
        if self._canary is not None:
            self._settled = True
            self._canary.fell_back()

    def failed(self) -> None:
        if self._canary is not None and not self._settled:
            self._canary.failed(canary=self._mine)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:  # NaN is outside everything
        raise InvalidField("share", f"must be 0 to 1, got {share}")
