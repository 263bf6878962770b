"""Asks every shard in parallel and merges what comes back in time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import numpy as np

from orchestrator.budget import Deadline
from orchestrator.replicas import Replicas
from orchestrator.versions import IndexVersionTracker, ServedIndex
from shortlist.errors import (
    BudgetExceeded,
    InvalidRequest,
    ShortlistError,
    TierUnavailable,
    VersionNotServed,
)
from shortlist.ids import shard_of, shard_quota
from shortlist.page import Coverage, Degradation, DegradationReason
from shortlist.tiers import (
    Floats,
    ItemCards,
    Keys,
    RetrievedSlice,
    RetrieveQuery,
    Retriever,
    SourceCandidates,
)

__all__ = [
    "DescribedItems",
    "Retrieved",
    "ShardFanout",
    "join_cards",
    "merge_sources",
    "merge_top_k",
]

_log = logging.getLogger(__name__)

R = TypeVar("R")
V = TypeVar("V")

_OF_ATTRIBUTES = frozenset({"filter", "return_attributes"})
_DESCRIBE_AT_ONCE = 2000  # cards in one message: 2000 vectors of 512 floats are 4 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieved:
    """All shards' answer to one query."""

    index: ServedIndex | None  # that answered; None when no shard did
    slices: tuple[RetrievedSlice, ...]
    sources: tuple[SourceCandidates, ...]  # merged over the shards
    coverage: Coverage
    failures: tuple[Degradation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedItems:
    """Cards of the items that some shard described, in the order asked."""

    cards: ItemCards | None  # None when no shard answered
    unreached: Keys  # keys whose shard did not answer; the other keys without a card do not exist
    failures: tuple[Degradation, ...]


class ShardFanout:
    """All shards as one. A shard that fails or is late is left out and reported."""

    def __init__(
        self, groups: Sequence[Replicas[Retriever]], versions: IndexVersionTracker
    ) -> None:
        self._groups = tuple(groups)
        self._versions = versions

    async def retrieve(self, query: RetrieveQuery, deadline: Deadline) -> Retrieved:
        """Every source's best candidates over all shards, from one index version (I3).

        `query.index_version` pins a version; without one the version that all shards serve is
        pinned here. Raises `VersionNotServed` when a version pinned by the caller is gone, and
        `InvalidRequest` for a filter that the items cannot answer.
        """
        pinned = query.index_version
        index = await self._versions.known(deadline)
        version = pinned or (index.version if index else None)
        if version is None:
            return self._nobody()
        answer = await self._retrieve_version(query, version, deadline)
        if answer.slices or not _only_version_refused(answer.failures):
            return answer
        if pinned:
            raise VersionNotServed(f"index version {pinned} is no longer served")
        # The shards have moved on since they were last asked what they serve.
        index = await self._versions.refresh(deadline)
        if index is None or index.version == version:
            return answer
        return await self._retrieve_version(query, index.version, deadline)

    async def describe(
        self,
        keys: Keys,
        fields: tuple[str, ...],
        index_version: str,
        deadline: Deadline,
        *,
        groups: bool = True,
    ) -> DescribedItems:
        """Cards of `keys`, each asked of the shard that owns it; without `groups` these are empty.

        Raises `InvalidRequest` for a field that items do not have.
        """
        asked = [
            (at, chunk)
            for at, owned in enumerate(self._owned(keys, index_version))
            for chunk in np.array_split(owned, -(-len(owned) // _DESCRIBE_AT_ONCE) or 1)
            if len(chunk)
        ]
        answers = await asyncio.gather(
            *(
                self._describe_chunk(at, chunk, fields, index_version, groups, deadline)
                for at, chunk in asked
            )
        )
        found = [answer for answer in answers if isinstance(answer, ItemCards)]
        failures = [answer for answer in answers if isinstance(answer, Degradation)]
        unanswered = [
            chunk
            for (_, chunk), answer in zip(asked, answers, strict=True)
            if isinstance(answer, Degradation)
        ]
        return DescribedItems(
            cards=join_cards(keys, found) if found else None,
            unreached=np.concatenate([np.empty(0, np.uint64), *unanswered]),
            failures=tuple(dict.fromkeys(failures)),
        )

    async def close(self) -> None:
        await asyncio.gather(*(replica.close() for group in self._groups for replica in group.all))

    async def _retrieve_version(
        self, query: RetrieveQuery, version: str, deadline: Deadline
    ) -> Retrieved:
        index = self._versions.find(version)
        asked = replace(query, index_version=version, quotas=_each_shards(query.quotas, index))
        answers = await asyncio.gather(
            *(self._retrieve_shard(at, asked, deadline) for at in range(len(self._groups)))
        )
        slices = _distinct([answer for answer in answers if isinstance(answer, RetrievedSlice)])
        failures = [answer for answer in answers if isinstance(answer, Degradation)]
        failures.extend(failure for one in slices for failure in _source_failures(one))
        index = index or _index_of(version, slices)
        return Retrieved(
            index=index,
            slices=slices,
            sources=merge_sources(slices, dict(query.quotas)),
            coverage=self._coverage(slices, index),
            failures=tuple(failures),
        )

    async def _retrieve_shard(
        self, at: int, query: RetrieveQuery, deadline: Deadline
    ) -> RetrievedSlice | Degradation:
        async def ask(replica: Retriever) -> RetrievedSlice:
            return await replica.retrieve(replace(query, deadline_ms=deadline.remaining_ms))

        answer = await self._or_degradation(at, ask, deadline, "retrieve")
        if isinstance(answer, RetrievedSlice) and answer.index_version != query.index_version:
            detail = f"answered from {answer.index_version} instead of {query.index_version}"
            return self._degradation(at, DegradationReason.SHARD_VERSION, detail)
        return answer

    async def _describe_chunk(
        self,
        at: int,
        keys: Keys,
        fields: tuple[str, ...],
        version: str,
        groups: bool,
        deadline: Deadline,
    ) -> ItemCards | Degradation:
        async def ask(replica: Retriever) -> ItemCards:
            return await replica.describe(keys, fields, version or None, groups)

        return await self._or_degradation(at, ask, deadline, "describe")

    async def _or_degradation(
        self, at: int, ask: Callable[[Retriever], Awaitable[R]], deadline: Deadline, kind: str
    ) -> R | Degradation:
        reasons = DegradationReason
        try:
            return await self._groups[at].call(ask, deadline, kind)
        except BudgetExceeded as error:
            return self._degradation(at, reasons.SHARD_TIMEOUT, str(error))
        except VersionNotServed as error:
            return self._degradation(at, reasons.SHARD_VERSION, str(error))
        except TierUnavailable as error:
            return self._degradation(at, reasons.SHARD_DOWN, str(error))
        except InvalidRequest as error:
            if any(field in _OF_ATTRIBUTES for field, _ in error.violations):
                raise  # the caller's mistake; only the shards know which attributes there are
            return self._unexpected(at, error)
        except Exception as error:
            return self._unexpected(at, error)

    def _unexpected(self, at: int, error: Exception) -> Degradation:
        """One shard's bug costs that shard's items, never the page; its text goes to the log."""
        _log.error("%s failed", self._stage(at), exc_info=error)
        detail = str(error) if isinstance(error, ShortlistError) else "internal error"
        return self._degradation(at, DegradationReason.SHARD_DOWN, detail)

    def _degradation(self, at: int, reason: DegradationReason, detail: str) -> Degradation:
        return Degradation(reason=reason, stage=self._stage(at), detail=detail)

    def _stage(self, at: int) -> str:
        number = self._versions.shard_numbers[at]
        return f"shard/{at if number is None else number}"

    def _owned(self, keys: Keys, version: str) -> list[Keys]:
        """By group, the keys that its shard owns. A group that was never reached may own whatever
        no other group does."""
        index = self._versions.find(version)
        if index is None:
            return [keys for _ in self._groups]
        owners = shard_of(keys, index.shards)
        numbers = self._versions.shard_numbers
        orphans = keys[~np.isin(owners, [number for number in numbers if number is not None])]
        return [orphans if number is None else keys[owners == number] for number in numbers]

    def _coverage(self, slices: Sequence[RetrievedSlice], index: ServedIndex | None) -> Coverage:
        return Coverage(
            shards_answered=len(slices),
            shards_total=index.shards if index else len(self._groups),
            items_searched=sum(one.items_searched for one in slices),
            items_total=index.items_total if index else 0,
        )

    def _nobody(self) -> Retrieved:
        reason, detail = DegradationReason.SHARD_DOWN, "was never reached"
        return Retrieved(
            index=None,
            slices=(),
            sources=(),
            coverage=self._coverage((), None),
            failures=tuple(
                self._degradation(at, reason, detail) for at in range(len(self._groups))
            ),
        )


def _each_shards(quotas: Mapping[str, int], index: ServedIndex | None) -> dict[str, int]:
    """What to ask each shard for, so that the best of all together are what `quotas` asks for.

    A shard that is away takes its share with it: coverage tells.
    """
    shards = index.shards if index else 1
    return {source: shard_quota(k, shards) for source, k in quotas.items()}


def merge_sources(
    slices: Sequence[RetrievedSlice], quotas: dict[str, int]
) -> tuple[SourceCandidates, ...]:
    """One column per source asked, in the order of `quotas`."""
    by_source: dict[str, list[SourceCandidates]] = {source: [] for source in quotas}
    for one in slices:
        for candidates in one.sources:
            if candidates.source in by_source:
                by_source[candidates.source].append(candidates)
    return tuple(merge_top_k(source, parts, quotas[source]) for source, parts in by_source.items())


def merge_top_k(source: str, parts: Sequence[SourceCandidates], k: int) -> SourceCandidates:
    """The k best of all parts. Ties go to the smaller key, so that it does not matter how items are
    divided over shards. Weight and offset are the index version's, hence the same in all parts."""
    keys: Keys = np.concatenate([part.keys for part in parts] or [np.empty(0, np.uint64)])
    scores: Floats = np.concatenate([part.scores for part in parts] or [np.empty(0, np.float32)])
    if not parts:
        return SourceCandidates(source=source, keys=keys, scores=scores)
    best = np.argsort(-scores, kind="stable")  # fast on what is in order part by part
    ordered = scores[best]
    if (ordered[1:] == ordered[:-1]).any():
        best = np.lexsort((keys, -scores))
    return replace(parts[0], keys=keys[best[:k]], scores=scores[best[:k]])


def _distinct(slices: Sequence[RetrievedSlice]) -> tuple[RetrievedSlice, ...]:
    """One slice per shard, even if two groups were configured with the same one."""
    return tuple({one.shard: one for one in slices}.values())


def _source_failures(one: RetrievedSlice) -> list[Degradation]:
    return [
        Degradation(
            reason=DegradationReason.SOURCE_FAILED,
            stage=failure.stage,
            detail=f"shard/{one.shard}: {failure.detail}",
        )
        for failure in one.failures
    ]


def _only_version_refused(failures: Sequence[Degradation]) -> bool:
    return bool(failures) and all(
        failure.reason is DegradationReason.SHARD_VERSION for failure in failures
    )


def _index_of(version: str, slices: Sequence[RetrievedSlice]) -> ServedIndex | None:
    """What the slices themselves tell of a version that is pinned by a token but not current."""
    if not slices:
        return None
    searched = sum(one.items_searched for one in slices)
    return ServedIndex(
        version=version,
        shards=slices[0].shards,
        items_total=round(searched * slices[0].shards / len(slices)),  # slices are alike in size
        watermark_ms=0,
        sources=(),
    )


def join_cards(keys: Keys, parts: Sequence[ItemCards]) -> ItemCards:
    """The cards of all parts as one, in the order of `keys`."""
    found = np.concatenate([part.keys for part in parts])
    row_of = {key: row for row, key in enumerate(found.tolist())}
    rows = [row_of[key] for key in keys.tolist() if key in row_of]
    features = dict.fromkeys(feature for part in parts for feature in part.groups)
    return ItemCards(
        index_version=parts[0].index_version,
        keys=found[rows],
        ids=_pick((part.ids for part in parts), rows),
        titles=_pick((part.titles for part in parts), rows),
        vectors=np.concatenate([part.vectors for part in parts])[rows],
        groups={feature: _pick(_group_columns(parts, feature), rows) for feature in features},
        attributes=_pick((part.attributes for part in parts), rows),
    )


def _pick(columns: Iterable[Sequence[V]], rows: Sequence[int]) -> tuple[V, ...]:
    values = list(chain.from_iterable(columns))
    return tuple(values[row] for row in rows)


def _group_columns(parts: Sequence[ItemCards], feature: str) -> Iterator[Sequence[tuple[str, ...]]]:
    return (part.groups.get(feature) or ((),) * len(part.keys) for part in parts)
