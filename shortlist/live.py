"""What changes while Shortlist serves: events, items, and the log that tells every replica of them.

These are values; `shortlist.stores` keeps them, `shortlist.tailing` carries them to the replicas.
Every change gets the next number of one sequence. Whoever has applied all changes up to a number
knows the same as anybody else who has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shortlist.tiers import AttributeValue, Floats, Keys

__all__ = [
    "Appended",
    "CatalogItem",
    "Changes",
    "EventColumns",
    "ItemChange",
    "LiveEvent",
    "StoredEvent",
]

Times = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEvent:
    """One event, checked and complete, as a store takes it."""

    event_id: str  # the same id twice changes state once
    user_id: str
    item_id: str
    event_type: str  # as the schema names it
    time_ms: int  # Unix milliseconds, not in the future
    weight: float  # what the schema says of the type and value; 0 = seen but not liked
    value: float | None = None
    context: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name
    places: tuple[int, ...] = ()  # uint64 keys of where it happened, for geographic counters
    attribution: Mapping[str, object] = field(default_factory=dict)  # of the impression; JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event of the log, for a training snapshot."""

    sequence: int
    event: LiveEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of events given to a store; everything not named here is durable."""

    sequence: int  # of the log, after the call
    duplicates: tuple[int, ...] = ()  # indexes of events whose id was known
    forgotten: tuple[int, ...] = ()  # indexes of events of users who were deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogItem:
    """One item as the catalogue holds it."""

    id: str
    title: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)  # by feature name
    published_ms: int = 0  # 0 = unknown
    expires_ms: int = 0  # never shown from then on; 0 = never expires
    hidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemChange:
    """The newest state of one item; older ones are gone from the log."""

    sequence: int
    key: int  # uint64
    item: CatalogItem | None  # None = deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class EventColumns:
    """Events as the replicas count them, e rows in the order of the log."""

    sequences: Times  # int64 [e], ascending
    user_keys: Keys  # uint64 [e]
    item_keys: Keys  # uint64 [e]
    times_ms: Times  # int64 [e]
    weights: Floats  # float32 [e]
    values: Floats  # float32 [e], NaN = none
    places: Sequence[tuple[int, ...]]  # [e], keys of where each happened

    def __len__(self) -> int:
        return len(self.item_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """A stretch of the log."""

    sequence: int  # the stretch ends here: with it applied, all up to this number is
    head: int  # where the log ended when it was read; `sequence` = `head` unless it was cut short
    items: tuple[ItemChange, ...]  # by sequence
    events: EventColumns
