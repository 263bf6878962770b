"""What a caller asks for and gets: the public contract as values, the same embedded and remote.

Fields, limits and defaults are those of `protos/shortlist/v1/orchestrator.proto`; the orchestrator
checks them (`orchestrator/validation.py`), not these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from shortlist.tiers import AttributeValue

__all__ = [
    "Coverage",
    "Degradation",
    "DegradationReason",
    "Item",
    "Page",
    "PageRequest",
    "RankRequest",
    "Ranking",
    "RecentEvent",
    "SimilarItems",
    "SimilarRequest",
    "StageTrace",
    "Trace",
    "Versions",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentEvent:
    """What the user just did and the store may not know yet."""

    item_id: str
    event_type: str = ""  # "" = the schema's first type
    time_ms: int = 0  # Unix milliseconds, 0 = just now
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Asks for one page."""

    user_id: str = ""  # "" = anonymous
    page_size: int = 0  # 0 = the server's configuration
    page_token: str = ""  # from the previous page
    exclude_item_ids: tuple[str, ...] = ()
    exclude_seen: bool = True
    recent_events: tuple[RecentEvent, ...] = ()
    user_attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    context: Mapping[str, AttributeValue] = field(default_factory=dict)
    diversity: float | None = None  # 0 ranking .. 1 diversity; None = the server's configuration
    caps: Mapping[str, int] = field(default_factory=dict)  # feature -> most items a value
    sources: tuple[str, ...] = ()  # only these; () = all
    quotas: Mapping[str, int] = field(default_factory=dict)  # by source
    filter: str = ""  # only items that match, see docs/filters.md
    blocked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # feature -> values
    time_ms: int = 0  # the moment the page is for; 0 = now
    return_attributes: tuple[str, ...] = ()
    min_coverage: float = 0.0
    trace: bool = False
    request_id: str = ""
    session_id: str = ""
    surface: str = ""
    arm: str = ""  # of an experiment; "" = the server decides: the user's arm, or none


@dataclass(frozen=True, slots=True, kw_only=True)
class RankRequest:
    """Asks for an order of the caller's own items."""

    item_ids: tuple[str, ...]
    user_id: str = ""
    recent_events: tuple[RecentEvent, ...] = ()
    user_attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    context: Mapping[str, AttributeValue] = field(default_factory=dict)
    time_ms: int = 0
    trace: bool = False
    request_id: str = ""
    session_id: str = ""
    arm: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarRequest:
    """Asks for items like one item."""

    item_id: str
    page_size: int = 0  # 0 = the server's configuration
    exclude_item_ids: tuple[str, ...] = ()
    filter: str = ""  # see PageRequest
    return_attributes: tuple[str, ...] = ()
    trace: bool = False
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a page."""

    id: str
    score: float  # comparable within one answer only
    rank: int  # from 0, over all pages of the listing
    sources: tuple[str, ...] = ()  # every source that proposed it
    title: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of the catalogue took part in an answer."""

    shards_answered: int
    shards_total: int
    items_searched: int
    items_total: int

    @property
    def share(self) -> float:
        """Items searched of all items, 0 to 1; an empty catalogue that answered is covered."""
        if self.items_total:
            return self.items_searched / self.items_total
        return 1.0 if self.shards_answered else 0.0


class DegradationReason(StrEnum):
    """The kinds of loss; names as `Degradation.Reason` without the prefix."""

    UNSPECIFIED = "UNSPECIFIED"
    SHARD_DOWN = "SHARD_DOWN"
    SHARD_TIMEOUT = "SHARD_TIMEOUT"
    SHARD_VERSION = "SHARD_VERSION"
    SOURCE_FAILED = "SOURCE_FAILED"
    RANKER_FALLBACK = "RANKER_FALLBACK"
    POPULARITY_FALLBACK = "POPULARITY_FALLBACK"
    PROFILE_UNAVAILABLE = "PROFILE_UNAVAILABLE"
    CARDS_INCOMPLETE = "CARDS_INCOMPLETE"
    PAGE_UNDERFILLED = "PAGE_UNDERFILLED"
    BEHIND = "BEHIND"


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Something that is missing from an answer, and why."""

    reason: DegradationReason
    stage: str  # "shard/1", "source/two_tower", "ranker"
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """The exact versions behind an answer; "" where a tier did not take part."""

    retrieval: str = ""
    ranking: str = ""
    retrieval_watermark_ms: int = 0
    software: str = ""
    ranker: str = ""  # the model that ordered the items; "none" = the blend's order, as asked for
    arm: str = ""  # the request's, or the one that its user was given
    # "canary-1a2b3c4d" for users of a canary, "others-1a2b3c4d" for all others while it runs
    release: str = ""
    log_sequence: int = 0  # of the change log, which every shard of the answer had reached
    lag_ms: int = 0  # of the slowest of them


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTrace:
    """What one stage did for this request."""

    stage: str
    duration_us: int
    items_in: int
    items_out: int
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> items
    by_source: Mapping[str, int] = field(default_factory=dict)  # source -> items


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The whole funnel of one request."""

    stages: tuple[StageTrace, ...]
    total_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page, best first."""

    request_id: str
    items: tuple[Item, ...]
    attribution_token: str
    next_page_token: str  # "" = there is none
    coverage: Coverage
    degradations: tuple[Degradation, ...]
    versions: Versions
    unknown_items: int = 0  # ids of the request that the catalogue does not know
    cold_start: bool = False  # neither stored history nor recent events
    trace: Trace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The caller's items, best first."""

    request_id: str
    items: tuple[Item, ...]
    unknown_items: int
    degradations: tuple[Degradation, ...]
    versions: Versions
    trace: Trace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarItems:
    """Items like one item, most similar first."""

    request_id: str
    items: tuple[Item, ...]
    coverage: Coverage
    degradations: tuple[Degradation, ...]
    versions: Versions
    trace: Trace | None = None
