"""Events and items as lines of JSON: one object a line, with the fields of the contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

from shortlist.errors import InvalidField
from shortlist.feed import RecordedEvent
from shortlist.live import CatalogItem
from shortlist.tiers import AttributeValue

__all__ = ["Line", "event_of", "item_document", "item_of", "read_lines"]

T = TypeVar("T")

_EVENT_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "event_id": str,
    "user_id": str,
    "item_id": str,
    "event_type": str,
    "time_ms": int,
    "value": (int, float),
    "attribution_token": str,
    "context": dict,
}
_ITEM_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "id": str,
    "title": str,
    "attributes": dict,
    "published_ms": int,
    "expires_ms": int,
    "hidden": bool,
}
_LARGEST = 2**63 - 1
_ID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Line(Generic[T]):
    """One line of a file: a value, or why it is none."""

    number: int  # from 1
    value: T | None = None
    problem: str = ""


def read_lines(
    lines: Iterable[bytes], value_of: Callable[[Mapping[str, object]], T]
) -> Iterator[Line[T]]:
    """Every line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            if not isinstance(document, dict):
                raise InvalidField("line", "is no JSON object")
            yield Line(number=number, value=value_of(document))
        except InvalidField as error:
            yield Line(number=number, problem=str(error))
        except (ValueError, RecursionError) as error:
            yield Line(number=number, problem=f"is not JSON: {error}")


def event_of(document: Mapping[str, object]) -> RecordedEvent:
    """Raises `InvalidField`. An event without an id gets one made of all that the line says, so
    that a file may be sent again; lines that say the same are the same event."""
    _check(document, _EVENT_FIELDS)
    fields = {**document, "context": _attributes(document, "context")}
    if not document.get("event_id"):
        text = json.dumps(document, sort_keys=True).encode()
        fields["event_id"] = blake2b(text, digest_size=_ID_BYTES).hexdigest()
    for required in ("user_id", "item_id"):
        fields.setdefault(required, "")  # the server says that it is empty
    return RecordedEvent(**fields)  # type: ignore[arg-type]  # checked above


def item_of(document: Mapping[str, object]) -> CatalogItem:
    """Raises `InvalidField`."""
    _check(document, _ITEM_FIELDS)
    fields = {"id": "", **document, "attributes": _attributes(document, "attributes")}
    return CatalogItem(**fields)  # type: ignore[arg-type]  # checked above


def item_document(item: CatalogItem) -> dict[str, object]:
    """The line that `item_of` reads."""
    return {
        "id": item.id,
        "title": item.title,
        "attributes": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in item.attributes.items()
        },
        "published_ms": item.published_ms,
        "expires_ms": item.expires_ms,
        "hidden": item.hidden,
    }


def _check(document: Mapping[str, object], fields: Mapping[str, type | tuple[type, ...]]) -> None:
    for name, value in document.items():
        if name not in fields:
            raise InvalidField(name, f"unknown field; there are: {', '.join(fields)}")
        wanted = fields[name]
        if isinstance(value, bool) is not (wanted is bool) or not isinstance(value, wanted):
            raise InvalidField(name, f"has the wrong type: {value!r}")
        if wanted is int and not -_LARGEST <= value <= _LARGEST:  # type: ignore[operator]
            raise InvalidField(name, f"is too large: {value}")
        _check_text(name, value)


def _attributes(document: Mapping[str, object], field: str) -> dict[str, AttributeValue]:
    given = document.get(field, {})
    assert isinstance(given, dict)
    return {name: _attribute(f'{field}["{name}"]', value) for name, value in given.items()}


def _attribute(path: str, value: object) -> AttributeValue:
    _check_text(path, value)
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        for one in value:
            _check_text(path, one)
        return tuple(value)
    raise InvalidField(path, f"is neither text, number, nor a list of texts: {value!r}")


def _check_text(name: str, value: object) -> None:
    """JSON can escape half a character; no other place can hold it."""
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidField(name, "is not text that UTF-8 can hold") from None
