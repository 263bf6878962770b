"""Events and catalogue changes between `shortlist.feed` and their protobuf messages, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, overload

from shortlist.errors import InvalidField
from shortlist.feed import (
    Acknowledgement,
    CatalogPage,
    CatalogRefusal,
    CatalogReport,
    EventBatch,
    EventRefusal,
    EventReport,
    FoundItems,
    RecordedEvent,
)
from shortlist.live import CatalogItem
from shortlist.tiers import AttributeValue
from shortlist.v1 import catalog_pb2, common_pb2, events_pb2
from shortlist.wire import attributes_to_proto

__all__ = [
    "Translated",
    "acknowledgement_from_proto",
    "acknowledgement_to_proto",
    "batch_from_proto",
    "batch_to_proto",
    "catalog_page_from_proto",
    "catalog_page_to_proto",
    "catalog_report_from_proto",
    "event_from_proto",
    "event_report_from_proto",
    "event_report_to_proto",
    "event_to_proto",
    "found_items_from_proto",
    "found_items_to_proto",
    "item_from_proto",
    "item_to_proto",
    "refusals_to_proto",
]

T = TypeVar("T")


class Translated(Sequence[T], Generic[T]):
    """Messages as values, each translated when it is looked at.

    A request may hold ten thousand: translating all of them at once would stop the event loop. A
    message that is no value raises `InvalidField` for itself only.
    """

    def __init__(self, messages: Sequence[Any], translate: Callable[[Any], T]) -> None:
        self._messages = messages
        self._translate = translate

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...

    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        if isinstance(at, slice):
            return [self._translate(one) for one in self._messages[at]]
        return self._translate(self._messages[at])


# -- events ---------------------------------------------------------------------------------------


def event_to_proto(event: RecordedEvent) -> events_pb2.RecordedEvent:
    return events_pb2.RecordedEvent(
        event_id=event.event_id,
        user_id=event.user_id,
        event=common_pb2.UserEvent(
            item_id=event.item_id,
            event_type=event.event_type,
            time_ms=event.time_ms,
            value=event.value,
        ),
        attribution_token=event.attribution_token,
        context=attributes_to_proto(event.context) if event.context else None,
    )


def event_from_proto(message: events_pb2.RecordedEvent) -> RecordedEvent:
    """Unchecked. Raises `InvalidField` for a context attribute without a value."""
    event = message.event
    return RecordedEvent(
        event_id=message.event_id,
        user_id=message.user_id,
        item_id=event.item_id,
        event_type=event.event_type,
        time_ms=event.time_ms,
        value=event.value if event.HasField("value") else None,
        attribution_token=message.attribution_token,
        context=_unchecked_attributes(message.context, "context") if message.context else {},
    )


def event_report_to_proto(report: EventReport) -> events_pb2.RecordEventsResponse:
    return events_pb2.RecordEventsResponse(
        accepted=report.accepted,
        duplicates=report.duplicates,
        errors=map(_event_error_to_proto, report.errors),
        clamped=report.clamped,
        log_sequence=report.log_sequence,
    )


def event_report_from_proto(message: events_pb2.RecordEventsResponse) -> EventReport:
    return EventReport(
        accepted=message.accepted,
        duplicates=message.duplicates,
        errors=_event_errors(message.errors),
        clamped=tuple(message.clamped),
        log_sequence=message.log_sequence,
    )


def batch_to_proto(batch: EventBatch) -> events_pb2.StreamEventsRequest:
    return events_pb2.StreamEventsRequest(
        sequence=batch.sequence, events=map(event_to_proto, batch.events)
    )


def batch_from_proto(message: events_pb2.StreamEventsRequest) -> EventBatch:
    return EventBatch(
        sequence=message.sequence, events=Translated(message.events, event_from_proto)
    )


def acknowledgement_to_proto(one: Acknowledgement) -> events_pb2.StreamEventsResponse:
    return events_pb2.StreamEventsResponse(
        acknowledged_sequence=one.acknowledged_sequence,
        errors=map(_event_error_to_proto, one.errors),
        accepted=one.accepted,
        duplicates=one.duplicates,
        log_sequence=one.log_sequence,
    )


def acknowledgement_from_proto(message: events_pb2.StreamEventsResponse) -> Acknowledgement:
    return Acknowledgement(
        acknowledged_sequence=message.acknowledged_sequence,
        accepted=message.accepted,
        duplicates=message.duplicates,
        errors=_event_errors(message.errors),
        log_sequence=message.log_sequence,
    )


def _event_error_to_proto(error: EventRefusal) -> events_pb2.EventError:
    return events_pb2.EventError(
        index=error.index, field=error.field, message=error.message, sequence=error.sequence
    )


def _event_errors(messages: Iterable[events_pb2.EventError]) -> tuple[EventRefusal, ...]:
    return tuple(
        EventRefusal(index=one.index, field=one.field, message=one.message, sequence=one.sequence)
        for one in messages
    )


# -- the catalogue --------------------------------------------------------------------------------


def item_to_proto(item: CatalogItem) -> catalog_pb2.CatalogItem:
    return catalog_pb2.CatalogItem(
        id=item.id,
        title=item.title,
        attributes=attributes_to_proto(item.attributes),
        published_ms=item.published_ms,
        expires_ms=item.expires_ms,
        hidden=item.hidden,
    )


def item_from_proto(message: catalog_pb2.CatalogItem) -> CatalogItem:
    """Unchecked. Raises `InvalidField` for an attribute without a value."""
    return CatalogItem(
        id=message.id,
        title=message.title,
        attributes=_unchecked_attributes(message.attributes, "attributes"),
        published_ms=message.published_ms,
        expires_ms=message.expires_ms,
        hidden=message.hidden,
    )


def refusals_to_proto(errors: Iterable[CatalogRefusal]) -> list[catalog_pb2.CatalogError]:
    return [
        catalog_pb2.CatalogError(id=one.id, field=one.field, message=one.message) for one in errors
    ]


def catalog_report_from_proto(
    message: catalog_pb2.UpsertItemsResponse
    | catalog_pb2.DeleteItemsResponse
    | catalog_pb2.DeleteUsersResponse,
) -> CatalogReport:
    return CatalogReport(
        sequence=message.sequence,
        accepted=message.accepted,
        errors=tuple(
            CatalogRefusal(id=one.id, field=one.field, message=one.message)
            for one in message.errors
        ),
    )


def found_items_to_proto(found: FoundItems) -> catalog_pb2.GetItemsResponse:
    return catalog_pb2.GetItemsResponse(
        items=map(item_to_proto, found.items), missing_ids=found.missing_ids
    )


def found_items_from_proto(message: catalog_pb2.GetItemsResponse) -> FoundItems:
    return FoundItems(
        items=tuple(map(item_from_proto, message.items)), missing_ids=tuple(message.missing_ids)
    )


def catalog_page_to_proto(page: CatalogPage) -> catalog_pb2.ListItemsResponse:
    return catalog_pb2.ListItemsResponse(
        items=map(item_to_proto, page.items), next_page_token=page.next_page_token
    )


def catalog_page_from_proto(message: catalog_pb2.ListItemsResponse) -> CatalogPage:
    return CatalogPage(
        items=tuple(map(item_from_proto, message.items)), next_page_token=message.next_page_token
    )


def _unchecked_attributes(
    messages: Mapping[str, common_pb2.AttributeValue], path: str
) -> dict[str, AttributeValue]:
    """Numbers pass as they are: the checks of the orchestrator report those that are not finite."""
    return {name: _unchecked(one, f'{path}["{name}"]') for name, one in messages.items()}


def _unchecked(message: common_pb2.AttributeValue, path: str) -> AttributeValue:
    match message.WhichOneof("kind"):
        case "text":
            return message.text
        case "number":
            return message.number
        case "texts":
            return tuple(message.texts.values)
    raise InvalidField(path, "has no value")
