"""The popular items that the orchestrator can show when no shard answers."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import numpy as np

from orchestrator.budget import Deadline
from orchestrator.demands import Demands
from orchestrator.fanout import ShardFanout
from orchestrator.stages import no_keys
from orchestrator.versions import ServedIndex
from shortlist.errors import ShortlistError
from shortlist.tiers import History, ItemCards, RetrieveQuery, SourceCandidates, UserContext

__all__ = ["POPULAR", "PopularRail"]

_log = logging.getLogger(__name__)

POPULAR = "popular"  # the source that is asked
_ITEMS = 500
_BUDGET_MS = 5000.0


class PopularRail:
    """A small copy of the shards' most popular items, with their cards."""

    def __init__(self, fanout: ShardFanout, demands: Demands) -> None:
        self._fanout = fanout
        self._demands = demands
        self._filter = ""
        self._index: ServedIndex | None = None
        self._popular: SourceCandidates | None = None
        self._cards: ItemCards | None = None
        self._copied_at = 0.0

    @property
    def index(self) -> ServedIndex | None:
        """The version that the copy was made from; None = there is no copy yet."""
        return self._index

    @property
    def popular(self) -> SourceCandidates | None:
        return self._popular

    @property
    def cards(self) -> ItemCards | None:
        return self._cards

    @property
    def filter(self) -> str:
        """What all of them match, in normal form: the server's own demands, at that moment."""
        return self._filter

    @property
    def group_features(self) -> frozenset[str] | None:
        """Features whose values caps may count; None = not known yet."""
        return frozenset(self._cards.groups) if self._cards else None

    def is_stale(self, version: str, most_s: float) -> bool:
        """Whether there is no copy, one of another version, or one older than `most_s`."""
        fresh = time.monotonic() - self._copied_at < most_s
        return self._index is None or self._index.version != version or not fresh

    async def refresh(self) -> None:
        """Copy anew. A copy of fewer shards never replaces one of the same version."""
        try:
            await self._copy()
        except ShortlistError as error:
            _log.warning("popular items were not copied: %s", error)

    async def _copy(self) -> None:
        deadline = Deadline.after(_BUDGET_MS)
        question = _question(self._demands)
        found = await self._fanout.retrieve(question, deadline)
        if found.index is None or not found.sources or not len(found.sources[0].keys):
            return
        partial = found.coverage.shards_answered < found.coverage.shards_total
        if partial and self._index is not None and self._index.version == found.index.version:
            return
        popular = found.sources[0]
        described = await self._fanout.describe(popular.keys, (), found.index.version, deadline)
        if described.cards is None:
            return
        known = np.isin(popular.keys, described.cards.keys)
        self._index, self._cards = found.index, described.cards
        self._copied_at = time.monotonic()
        self._filter = question.filter
        self._popular = replace(popular, keys=popular.keys[known], scores=popular.scores[known])


def _question(demands: Demands) -> RetrieveQuery:
    now_ms = int(time.time() * 1000)
    return RetrieveQuery(
        request_id="popular-rail",
        user=UserContext(user_key=0, history=History.empty(), time_ms=now_ms),
        quotas={POPULAR: _ITEMS},
        exclude=no_keys(),
        filter=demands.text(now_ms=now_ms),
    )
