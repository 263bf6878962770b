"""What a stage is, and the draft of a page that travels through the stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from orchestrator.budget import Budgets
from orchestrator.releases import Release
from orchestrator.tokens import Listing
from orchestrator.versions import ServedIndex
from shortlist.page import Coverage, Degradation, Page, Ranking, SimilarItems, Versions
from shortlist.tiers import (
    AttributeValue,
    Candidates,
    Floats,
    History,
    ItemCards,
    Keys,
    SourceCandidates,
    UserContext,
)

__all__ = ["BLEND_ORDER", "Ask", "Counts", "Draft", "Person", "Stage", "no_candidates", "no_keys"]


BLEND_ORDER = "none"  # the ranker of an arm that wants no ranking: the blend's order stays


def no_keys() -> Keys:
    return np.empty(0, np.uint64)


def no_candidates() -> Candidates:
    return Candidates(
        keys=no_keys(),
        source_names=(),
        sources=np.empty(0, np.uint32),
        scores=np.empty((0, 0), np.float32),
        ranks=np.empty((0, 0), np.int32),
        fused=_no_scores(),
    )


def _no_scores() -> Floats:
    return np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who asks, and when, as far as the request itself tells."""

    user_id: str
    recent: History  # oldest first
    attributes: Mapping[str, AttributeValue]
    context: Mapping[str, AttributeValue]
    time_ms: int  # the moment the page is for
    dated: bool = False  # whether the request names that moment; else it is now


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request after validation: ids hashed, defaults filled in, versions and times pinned."""

    request_id: str
    person: Person
    budgets: Budgets
    listing: Listing
    index: ServedIndex | None  # None = no shard was ever reached
    item_ids: tuple[str, ...] = ()  # Rank: the items to order; Similar: the item to start from
    item_keys: Keys = field(default_factory=no_keys)  # aligned with item_ids
    release: Release = field(default_factory=Release)  # where the listing pins none
    side: str = ""  # of a canary, as answers tell it
    quotas: Mapping[str, int] = field(default_factory=dict)  # source -> candidates
    weights: Mapping[str, float] = field(default_factory=dict)  # in the blend, not the learned ones
    multipliers: Mapping[str, float] = field(default_factory=dict)  # of the learned ones
    named: Keys = field(default_factory=no_keys)  # those that the catalogue lacks are counted
    excluded: Keys = field(default_factory=no_keys)
    filter: str = ""  # that items have to match, in normal form; "" = all
    exclude_seen: bool = True
    page_size: int = 0
    diversity: float = 0.0
    caps: Mapping[str, int] = field(default_factory=dict)
    minimums: Mapping[str, int] = field(default_factory=dict)  # source -> fewest items of a page
    arm: str = ""
    ranker: str = ""  # the model to ask for; "" = the ranker's own default, BLEND_ORDER = none
    return_attributes: tuple[str, ...] = ()
    min_coverage: float = 0.0
    fingerprint: int = 0  # of the request's parameters, goes into the next page token


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that is known of the answer so far. Each stage returns a draft that knows more."""

    ask: Ask
    user: UserContext
    seen: Keys = field(default_factory=no_keys)
    cold_start: bool = True
    fallback: bool = False  # no shard answers: the page is made of the cached popular items
    proposals: tuple[SourceCandidates, ...] = ()  # merged over shards, by source
    candidates: Candidates = field(default_factory=no_candidates)  # best first
    scores: Floats = field(default_factory=_no_scores)  # float32 [n], aligned with candidates
    cards: ItemCards | None = None  # of the best candidates, in their order
    described: int = 0  # how many of the best candidates cards were asked for
    head: int = 0  # how many of those are there for their rank; others fill up or serve a minimum
    more: bool = False  # whether candidates are left for a next page
    coverage: Coverage | None = None
    versions: Versions = field(default_factory=Versions)
    unknown_items: int = 0
    degradations: tuple[Degradation, ...] = ()
    answer: Page | Ranking | SimilarItems | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many items a stage got, kept and dropped."""

    items_in: int = 0
    items_out: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> items
    by_source: Mapping[str, int] = field(default_factory=dict)


class Stage(Protocol):
    """One step from a request to its page."""

    @property
    def name(self) -> str:
        """As traces show it."""
        ...

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        """The draft with this step done. Raises only when the request cannot be answered."""
        ...
