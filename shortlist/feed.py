"""What a caller tells Shortlist, and what became of it: events and changes of the catalogue.

Fields and limits are those of `protos/shortlist/v1/events.proto` and `catalog.proto`; the
orchestrator checks them, not these classes. They are the same embedded and remote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shortlist.live import CatalogItem
from shortlist.tiers import AttributeValue

__all__ = [
    "Acknowledgement",
    "CatalogPage",
    "CatalogRefusal",
    "CatalogReport",
    "EventBatch",
    "EventRefusal",
    "EventReport",
    "FoundItems",
    "RecordedEvent",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """Something that a user did, with an id that makes it safe to send it again."""

    event_id: str  # 1 to 128 bytes; the same id twice changes state once
    user_id: str
    item_id: str
    event_type: str = ""  # "" = the schema's first type
    time_ms: int = 0  # Unix milliseconds, 0 = just now
    value: float | None = None
    attribution_token: str = ""  # of the page that showed the item
    context: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRefusal:
    """Why one event was refused."""

    index: int  # of the event in its request or batch
    field: str  # its path in the request: `events[3].user_id`
    message: str
    sequence: int = 0  # on a stream: of the batch


@dataclass(frozen=True, slots=True, kw_only=True)
class EventReport:
    """What became of a request's events."""

    accepted: int  # durable now
    duplicates: int = 0  # whose id was known
    errors: tuple[EventRefusal, ...] = ()
    clamped: tuple[int, ...] = ()  # indexes of events from the future, which now happened now
    log_sequence: int = 0  # of the change log, after the call


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events on a stream, under a number of the client's that grows from batch to batch."""

    sequence: int  # from 1
    events: Sequence[RecordedEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Every batch up to a number is durable, but for the events refused.

    What is counted and listed is of the batches since the acknowledgement before.
    """

    acknowledged_sequence: int
    accepted: int
    duplicates: int = 0
    errors: tuple[EventRefusal, ...] = ()
    log_sequence: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRefusal:
    """Why one item or user was refused."""

    id: str
    field: str  # its path in the request: `items[3].attributes["price"]`
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogReport:
    """What became of a change of the catalogue, or of users to forget."""

    sequence: int  # of the change log, after the call
    accepted: int
    errors: tuple[CatalogRefusal, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundItems:
    """Items read by id."""

    items: tuple[CatalogItem, ...]  # in the order asked
    missing_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogPage:
    """Some items of the catalogue, in the order of their keys."""

    items: tuple[CatalogItem, ...]
    next_page_token: str = ""  # "" = these are the last
