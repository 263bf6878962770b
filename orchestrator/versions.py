"""One index version per response (I3): which version do all shards serve?"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.budget import Deadline
from orchestrator.replicas import Replicas
from shortlist.errors import ShortlistError
from shortlist.tiers import Retriever, RetrieverStatus

__all__ = ["IndexVersionTracker", "ServedIndex", "choose_version", "status_of"]

_log = logging.getLogger(__name__)

_STATUS_MS = 1000.0
_REMEMBERED = 8  # versions; page tokens may pin one that is no longer the newest


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedIndex:
    """One index version as the shards describe it."""

    version: str
    shards: int
    items_total: int
    watermark_ms: int
    sources: tuple[str, ...]


class IndexVersionTracker:
    """Learns from the shards' statuses; `current` is the version to name in every query."""

    def __init__(self, groups: Sequence[Replicas[Retriever]]) -> None:
        self._groups = groups
        self._current: ServedIndex | None = None
        self._remembered: dict[str, ServedIndex] = {}
        # Of every version that a replica has in memory, and which replicas do not have it.
        self._held: dict[str, ServedIndex] = {}
        self._lacking: dict[str, tuple[str, ...]] = {}
        self._numbers: list[int | None] = [None] * len(groups)
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def current(self) -> ServedIndex | None:
        """None until a shard has been reached."""
        return self._current

    @property
    def shard_numbers(self) -> tuple[int | None, ...]:
        """By group, the number of the shard it serves; None until it has been reached."""
        return tuple(self._numbers)

    def find(self, version: str) -> ServedIndex | None:
        """What is known of a version that is or was current, or that a replica has in memory."""
        return self._remembered.get(version) or self._held.get(version)

    def lacking(self, version: str) -> tuple[str, ...] | None:
        """Names of the replicas that did not have `version` in memory when they were last asked;
        None when nobody had it. Replicas out of reach are not counted."""
        return self._lacking.get(version)

    async def known(self, deadline: Deadline) -> ServedIndex | None:
        """`current`, asking the shards first when none was ever reached."""
        return self._current or await self.refresh(deadline)

    async def refresh(self, deadline: Deadline, *, anew: bool = False) -> ServedIndex | None:
        """Ask every replica what it serves. Concurrent callers share one round of questions; a
        round `anew` begins after the call."""
        if anew and self._refreshing is not None:
            await asyncio.wait([self._refreshing], timeout=deadline.remaining_ms / 1000)
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        # The round outlives a caller whose deadline is short: the next one profits from it.
        await asyncio.wait([self._refreshing], timeout=deadline.remaining_ms / 1000)
        return self._current

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def _refresh(self) -> None:
        answers = await asyncio.gather(*map(_group_statuses, self._groups))
        reports = [[status for _, status in group] for group in answers]
        for at, statuses in enumerate(reports):
            if statuses:
                self._numbers[at] = statuses[0].shard
        self._note_held([answer for group in answers for answer in group])
        previous = self._current.version if self._current else None
        version = choose_version([{s.index_version for s in group} for group in reports], previous)
        statuses = [s for group in reports for s in group if s.index_version == version]
        if version is not None and statuses:
            self._remember(_describe(version, statuses))

    def _note_held(self, answers: Sequence[tuple[str, RetrieverStatus]]) -> None:
        """`answers` have the name of the replica. What was known stays while none answers."""
        if not answers:
            return
        held = [
            (name, {each.index_version: each for each in (status, *status.others)})
            for name, status in answers
        ]
        versions = dict.fromkeys(version for _, mine in held for version in mine)
        self._held = {
            version: _describe(version, [mine[version] for _, mine in held if version in mine])
            for version in versions
        }
        self._lacking = {
            version: tuple(name for name, mine in held if version not in mine)
            for version in versions
        }

    def _remember(self, index: ServedIndex) -> None:
        if self._current is None or self._current.version != index.version:
            _log.info("index version %s is now served", index.version)
        self._current = index
        self._remembered[index.version] = index
        for oldest in list(self._remembered)[:-_REMEMBERED]:
            del self._remembered[oldest]


def choose_version(reports: Sequence[set[str]], previous: str | None) -> str | None:
    """The version to pin, given what the replicas of each shard report; None = nobody answered.

    A version that every shard in reach reports; among several the previous one, else the newest.
    While a rollout is under way (no such version) the previous one stays, because shards keep two
    generations; without a previous one, the version of the most shards.
    """
    reached = [group for group in reports if group]
    counts = Counter(version for group in reached for version in group)
    if not counts:
        return previous
    if previous in counts:
        common = [version for version, count in counts.items() if count == len(reached)]
        return previous if previous in common or not common else max(common)
    return max(counts, key=lambda version: (counts[version], version))


async def _group_statuses(group: Replicas[Retriever]) -> list[tuple[str, RetrieverStatus]]:
    """Of the replicas that answer: their names, and what they say."""
    deadline = Deadline.after(_STATUS_MS)
    answers = await asyncio.gather(*(status_of(one, deadline) for one in group.all))
    return [
        (one.name, answer)
        for one, answer in zip(group.all, answers, strict=True)
        if answer is not None
    ]


async def status_of(retriever: Retriever, deadline: Deadline) -> RetrieverStatus | None:
    """What a replica serves; None when it does not answer."""
    try:
        async with deadline.enforced():
            return await retriever.status()
    except ShortlistError as error:
        _log.debug("%s does not say what it serves: %s", retriever.name, error)
    except Exception:
        _log.exception("%s does not say what it serves", retriever.name)
    return None


def _describe(version: str, statuses: Sequence[RetrieverStatus]) -> ServedIndex:
    return ServedIndex(
        version=version,
        shards=max(status.shards for status in statuses),
        items_total=max(status.items_total for status in statuses),
        watermark_ms=max(status.watermark_ms for status in statuses),
        sources=tuple(sorted({source for status in statuses for source in status.sources})),
    )
