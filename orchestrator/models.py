"""Which ranking version requests name, and which rankers it offers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from orchestrator.budget import Deadline
from orchestrator.replicas import Replicas
from orchestrator.versions import choose_version
from shortlist.errors import ShortlistError
from shortlist.tiers import Ranker, RankerStatus

__all__ = ["RankerModels"]

_log = logging.getLogger(__name__)

_STATUS_MS = 1000.0


class RankerModels:
    """Learns from the rankers' statuses what a query may name."""

    def __init__(self, rankers: Replicas[Ranker]) -> None:
        self._rankers = rankers
        self._current = ""
        # By version what every replica in reach that holds it offers; None = none of them says.
        self._offered: dict[str, frozenset[str] | None] = {}
        self._lacking: dict[str, tuple[str, ...]] = {}
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def current(self) -> str:
        """The version to name in every query; "" until a ranker was reached."""
        return self._current

    @property
    def offered(self) -> frozenset[str] | None:
        """What every replica in reach offers of it; None while none said what it offers."""
        return self.offered_by("")

    def offered_by(self, version: str) -> frozenset[str] | None:
        """What `version` ("" = the current one) offers; None = not known."""
        return self._offered.get(version or self._current)

    def lacking(self, version: str) -> tuple[str, ...] | None:
        """Names of the replicas that did not have `version` in memory when they were last asked;
        None when nobody had it. Replicas out of reach are not counted."""
        return self._lacking.get(version)

    async def refresh(self, *, anew: bool = False) -> None:
        """Ask every replica. Concurrent callers share one round; a round `anew` begins after the
        call. What was known stays while none answers."""
        if anew and self._refreshing is not None:
            await asyncio.wait([self._refreshing])
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.wait([self._refreshing])

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def _refresh(self) -> None:
        answers = await asyncio.gather(*map(_status, self._rankers.all))
        held = [
            (ranker.name, {one.model_version: one for one in (status, *status.others)})
            for ranker, status in zip(self._rankers.all, answers, strict=True)
            if status is not None
        ]
        if not held:
            return
        versions = dict.fromkeys(version for _, mine in held for version in mine)
        self._lacking = {
            version: tuple(name for name, mine in held if version not in mine)
            for version in versions
        }
        self._offered = {
            version: _common(mine[version] for _, mine in held if version in mine)
            for version in versions
        }
        # Rankers are replicas of each other: a version that any of them answers with will do.
        active = {status.model_version for status in answers if status is not None}
        version = choose_version([active], self._current or None)
        if version is not None and version != self._current:
            _log.info("ranking version %s is now served", version)
            self._current = version


def _common(statuses: Iterable[RankerStatus]) -> frozenset[str] | None:
    """One that lists no rankers just does not say: it has its default at least."""
    listed = [frozenset(status.models) for status in statuses if status.models]
    return frozenset.intersection(*listed) if listed else None


async def _status(ranker: Ranker) -> RankerStatus | None:
    try:
        async with Deadline.after(_STATUS_MS).enforced():
            return await ranker.status()
    except ShortlistError as error:
        _log.debug("%s does not say what it serves: %s", ranker.name, error)
    except Exception:
        _log.exception("%s does not say what it serves", ranker.name)
    return None
