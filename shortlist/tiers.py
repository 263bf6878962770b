"""What a tier is to the rest of the system: a `Retriever`, a `Ranker`, and what they exchange.

Local and remote tiers implement the same protocols (I7): the orchestrator cannot tell them apart.
Everything that is one-per-candidate is a numpy column; rows of all columns of a value are aligned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "AttributeValue",
    "Candidates",
    "History",
    "ItemCards",
    "LogPosition",
    "Ranker",
    "RankerStatus",
    "RetrieveQuery",
    "RetrievedSlice",
    "Retriever",
    "RetrieverStatus",
    "ScoreQuery",
    "Scores",
    "SourceCandidates",
    "StageFailure",
    "UserContext",
]

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]

AttributeValue = str | float | tuple[str, ...]
"""A categorical value, a number, or several categorical values."""


def _no_keys() -> Keys:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a user did, oldest first; all columns have length h."""

    keys: Keys  # uint64 [h]
    times_ms: npt.NDArray[np.int64]  # int64 [h], 0 where the data has no time
    weights: Floats  # float32 [h], the event type's weight; 0 = seen but not liked

    @staticmethod
    def empty() -> History:
        return History(
            keys=np.empty(0, np.uint64),
            times_ms=np.empty(0, np.int64),
            weights=np.empty(0, np.float32),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def last(self, count: int) -> History:
        """The newest `count` events, oldest first."""
        if count >= len(self.keys):
            return self
        start = len(self.keys) - count
        return History(
            keys=self.keys[start:], times_ms=self.times_ms[start:], weights=self.weights[start:]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UserContext:
    """Everything about the person and the moment that a tier may look at."""

    user_key: int  # uint64; 0 = anonymous
    history: History
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name
    context: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name
    time_ms: int  # the moment the page is for, Unix milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """How much of the change log a replica knows."""

    sequence: int = 0  # every change up to this one is applied
    lag_ms: int = 0  # since when it has not known that this was all


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieveQuery:
    """One question to every shard."""

    request_id: str
    user: UserContext
    quotas: Mapping[str, int]  # source name -> how many candidates of it; absent = not asked
    exclude: Keys  # uint64 [e], never returned by any source (seen, excluded, already shown)
    check: Keys = field(default_factory=_no_keys)  # uint64 [c], count those that nobody knows
    filter: str = ""  # only items that match, see `shortlist.filters`; "" = all
    index_version: str | None = None  # None = whatever the shard serves
    deadline_ms: float | None = None  # what is left of the budget; None = no deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCandidates:
    """One source's answer, best first. Scores of one source may be compared across shards."""

    source: str
    keys: Keys  # uint64 [k]
    scores: Floats  # float32 [k], descending
    # What the blend gives the candidate of rank r (0 = best): weight / (offset + 1 + r). The index
    # version has learned both on its backtest; the defaults are plain reciprocal rank fusion.
    weight: float = 1.0
    offset: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailure:
    """Degradation as data: which part failed and how (`DEADLINE_EXCEEDED`, `SHARD_DOWN`, ...)."""

    stage: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievedSlice:
    """One shard's answer."""

    shard: int
    shards: int  # of the index version that answered
    index_version: str
    sources: tuple[SourceCandidates, ...]
    items_searched: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> candidates removed
    failures: tuple[StageFailure, ...] = ()
    unknown: int = 0  # keys of the query's `check` that belong to this shard and do not exist
    duration_us: int = 0
    log: LogPosition = LogPosition()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemCards:
    """What the slate and the page need to know of items; rows aligned with `keys`.

    `keys` holds the asked keys that the shard owns, in the order asked; others are left out.
    """

    index_version: str
    keys: Keys  # uint64 [n]
    ids: tuple[str, ...]
    titles: tuple[str, ...]  # "" where the catalogue has none
    vectors: Floats  # float32 [n, dim], unit length, for diversity
    groups: Mapping[str, tuple[tuple[str, ...], ...]]  # feature -> per item its values, for caps
    attributes: tuple[Mapping[str, AttributeValue], ...]  # only the fields asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverStatus:
    """What a shard serves now."""

    shard: int
    shards: int
    index_version: str
    items: int
    items_total: int  # over all shards of the version
    sources: tuple[str, ...]
    watermark_ms: int  # newest event the version was trained on
    log: LogPosition = LogPosition()
    # What it would say if another of the versions in its memory were the active one.
    others: tuple[RetrieverStatus, ...] = ()


class Retriever(Protocol):
    """One shard, local or remote."""

    @property
    def name(self) -> str:
        """Where it is, for traces and logs: `local/0` or `127.0.0.1:7001`."""
        ...

    async def retrieve(self, query: RetrieveQuery) -> RetrievedSlice:
        """Raises `VersionNotServed`, `TierUnavailable`, `BudgetExceeded`."""
        ...

    async def describe(
        self, keys: Keys, fields: tuple[str, ...], index_version: str | None, groups: bool = True
    ) -> ItemCards:
        """Cards of the items of `keys` that this shard owns; without `groups`, which cost as much
        as all else on their way, if no cap needs them."""
        ...

    async def status(self) -> RetrieverStatus: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The blended candidates, n rows, S sources, in fused order (best first)."""

    keys: Keys  # uint64 [n], unique
    source_names: tuple[str, ...]  # S names; bit i of `sources` is source_names[i]
    sources: npt.NDArray[np.uint32]  # uint32 [n], bitmask of the sources that proposed the item
    scores: Floats  # float32 [S, n], NaN where the source did not propose the item
    ranks: npt.NDArray[np.int32]  # int32 [S, n], 0 = best of that source, -1 = not proposed
    fused: Floats  # float32 [n], what the blend ordered by

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: npt.NDArray[np.intp]) -> Candidates:
        """The candidates of `rows`, in that order."""
        return Candidates(
            keys=self.keys[rows],
            source_names=self.source_names,
            sources=self.sources[rows],
            scores=self.scores[:, rows],
            ranks=self.ranks[:, rows],
            fused=self.fused[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreQuery:
    """One ranking question; the answer is aligned with `candidates`."""

    request_id: str
    user: UserContext
    candidates: Candidates
    model: str = ""  # which of the version's rankers; "" = its default
    model_version: str | None = None
    deadline_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Ranking scores, aligned with the query's candidates."""

    model_version: str
    scores: Floats  # float32 [n], finite, higher is better
    model: str = ""  # the ranker that scored
    unknown_items: int = 0  # candidates the ranker has no features for (scored with defaults)
    duration_us: int = 0
    log: LogPosition = LogPosition()


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerStatus:
    """What a ranker serves now."""

    model_version: str
    engine: str
    items: int
    watermark_ms: int
    models: tuple[str, ...] = ()  # the rankers that a query may name
    log: LogPosition = LogPosition()
    # What it would say if another of the versions in its memory were the active one.
    others: tuple[RankerStatus, ...] = ()


class Ranker(Protocol):
    """One ranking replica, local or remote."""

    @property
    def name(self) -> str: ...

    async def score(self, query: ScoreQuery) -> Scores:
        """Raises `VersionNotServed`, `TierUnavailable`, `BudgetExceeded`."""
        ...

    async def status(self) -> RankerStatus: ...

    async def close(self) -> None: ...
