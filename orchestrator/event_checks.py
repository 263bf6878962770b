"""Makes of an event as callers send it what a store takes, or says why it is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.tokens import Attribution, BadToken
from orchestrator.validation import (
    MAX_ATTRIBUTES,
    Violation,
    attribute_violations,
    bad_id,
    too_long,
    too_many,
)
from shortlist.errors import InvalidField, InvalidRequest
from shortlist.feed import EventBatch, EventRefusal, RecordedEvent
from shortlist.ids import key_of
from shortlist.live import LiveEvent
from shortlist.schema import EventType, Schema
from shortlist.tiers import AttributeValue

__all__ = ["CheckedEvents", "EventChecker", "check_batch_size", "text_violations"]

MAX_EVENTS = 10_000  # of one request, or of one batch of a stream
MAX_EVENT_ID_BYTES = 128
MAX_EVENT_TYPE_BYTES = 64
MAX_NAME_BYTES = 64
MAX_TEXT_BYTES = 4096
MAX_TOKEN_BYTES = 64 * 1024

_OF_SCHEMAS_WITHOUT_TYPES = "interaction"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEvents:
    """What is left of a batch, and what is not. It fills up while the batch is checked."""

    sequence: int = 0  # of the batch
    live: list[LiveEvent] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)  # in the batch, aligned with `live`
    errors: list[EventRefusal] = field(default_factory=list)  # by index
    clamped: list[int] = field(default_factory=list)
    # Many events come from one page: its token is read once a batch.
    pages: dict[str, Attribution | BadToken] = field(default_factory=dict)

    def refuse(self, index: int, name: str, text: str) -> None:
        """`name` is the field's path within the event."""
        path = f"events[{index}].{name}"
        self.errors.append(
            EventRefusal(index=index, field=path, message=text, sequence=self.sequence)
        )


class EventChecker:
    """Knows the schema's event types and the clock's limits.

    An event on an item that the catalogue does not know is accepted: events and items come from
    different places, and the item may come later. Until then the event is in the history and says
    nothing.
    """

    def __init__(self, schema: Schema | None, max_future_ms: int) -> None:
        self._types: Mapping[str, EventType] = schema.events if schema else {}
        self._default = next(iter(self._types), _OF_SCHEMAS_WITHOUT_TYPES)
        self._max_future_ms = max_future_ms

    def check(
        self, batch: EventBatch, start: int, stop: int, now_ms: int, checked: CheckedEvents
    ) -> None:
        """Add what becomes of the events `start` to `stop` to `checked`."""
        for index in range(start, min(stop, len(batch.events))):
            try:
                event = batch.events[index]
            except InvalidRequest as error:  # a message that is no event
                checked.refuse(index, *error.violations[0])
                continue
            violation = next(self._violations(event), None)
            if violation is not None:
                checked.refuse(index, *violation)
                continue
            try:
                attribution = _attribution(event, checked.pages)
            except InvalidField as error:
                checked.refuse(index, *error.violations[0])
                continue
            if event.time_ms > now_ms + self._max_future_ms:
                checked.clamped.append(index)
            checked.live.append(self._live(event, now_ms, attribution))
            checked.indexes.append(index)

    def _live(
        self, event: RecordedEvent, now_ms: int, attribution: Mapping[str, object]
    ) -> LiveEvent:
        event_type = event.event_type or self._default
        late = not event.time_ms or event.time_ms > now_ms + self._max_future_ms
        return LiveEvent(
            event_id=event.event_id,
            user_id=event.user_id,
            item_id=event.item_id,
            event_type=event_type,
            time_ms=now_ms if late else event.time_ms,
            weight=self._types.get(event_type, _PLAIN).weight_of(event.value),
            value=event.value,
            context=event.context,
            attribution=attribution,
        )

    def _violations(self, event: RecordedEvent) -> Iterator[Violation]:
        """By the field's path within the event; the first one refuses it."""
        if not event.event_id:
            yield "event_id", "is empty"
        yield from too_long("event_id", event.event_id, MAX_EVENT_ID_BYTES)
        yield from bad_id("user_id", event.user_id)
        yield from bad_id("event.item_id", event.item_id)
        yield from self._type_violations(event.event_type)
        if event.time_ms < 0:
            yield "event.time_ms", f"lies before 1970, got {event.time_ms} (Unix milliseconds)"
        if event.value is not None and not math.isfinite(event.value):
            yield "event.value", f"must be finite, got {event.value}"
        if event.context:
            yield from _context_violations(event.context)

    def _type_violations(self, event_type: str) -> Iterator[Violation]:
        if not event_type:
            return
        if not self._types:
            yield from too_long("event.event_type", event_type, MAX_EVENT_TYPE_BYTES)
        elif event_type not in self._types:
            known = ", ".join(self._types)
            yield "event.event_type", f"unknown event type {event_type!r}; known: {known}"


_PLAIN = EventType()


def check_batch_size(events: Sequence[object]) -> None:
    """Raises `InvalidField` unless so many events may come at once."""
    if not 1 <= len(events) <= MAX_EVENTS:
        raise InvalidField("events", f"must be 1 to {MAX_EVENTS}, got {len(events)}")


def text_violations(path: str, value: AttributeValue, most: int) -> Iterator[Violation]:
    """Texts that are longer than `most` bytes."""
    for text in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
        yield from too_long(path, text, most)


def _context_violations(context: Mapping[str, AttributeValue]) -> Iterator[Violation]:
    yield from too_many("context", context, MAX_ATTRIBUTES)
    yield from attribute_violations("context", context)
    for name, value in context.items():
        yield from too_long(f'context["{name[:MAX_NAME_BYTES]}"]', name, MAX_NAME_BYTES)
        yield from text_violations(f'context["{name}"]', value, MAX_TEXT_BYTES)


def _attribution(
    event: RecordedEvent, pages: dict[str, Attribution | BadToken]
) -> Mapping[str, object]:
    """The impression that the event came from, as it is stored. Raises `InvalidField`."""
    token = event.attribution_token
    if not token:
        return {}
    if token not in pages:
        pages[token] = _decoded(token)
    page = pages[token]
    if isinstance(page, BadToken):
        raise InvalidField("attribution_token", str(page))
    # A page for nobody in particular may have been shown to anybody.
    if page.user_key not in (0, key_of(event.user_id)):
        raise InvalidField("attribution_token", "belongs to a page of another user")
    rows = np.flatnonzero(page.keys == key_of(event.item_id))
    if not len(rows):
        text = f"belongs to a page that did not show item {event.item_id!r}"
        raise InvalidField("attribution_token", text)
    row = int(rows[0])
    mask = int(page.sources[row])
    return {
        "request_id": page.request_id,
        "shown_ms": page.time_ms,
        "rank": page.offset + row,
        "sources": [name for bit, name in enumerate(page.source_names) if mask >> bit & 1],
        "retrieval_version": page.retrieval_version,
        "ranking_version": page.ranking_version,
        "ranker": page.ranker,
        "arm": page.arm,
        "release": page.release,
        "anonymous": not page.user_key,
    }


def _decoded(token: str) -> Attribution | BadToken:
    if len(token) > MAX_TOKEN_BYTES:
        return BadToken(f"has {len(token)} bytes, at most {MAX_TOKEN_BYTES}")
    try:
        return Attribution.decode(token)
    except BadToken as error:
        return error
