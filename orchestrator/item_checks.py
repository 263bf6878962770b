"""Which items the catalogue takes: ids, texts, and attributes as the schema has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from orchestrator.event_checks import text_violations
from orchestrator.validation import MAX_ATTRIBUTES, Violation, bad_id, too_long, too_many
from shortlist.errors import InvalidField, InvalidRequest
from shortlist.feed import CatalogRefusal
from shortlist.live import CatalogItem
from shortlist.schema import Feature, Schema
from shortlist.tiers import AttributeValue

__all__ = ["ItemChecker", "check_count", "check_ids"]

MAX_ITEMS = 10_000  # of one change
MAX_READ = 1000  # ids of one GetItems, items of one ListItems, users of one DeleteUsers
MAX_TITLE_BYTES = 1024
MAX_NAME_BYTES = 512  # of a category, a creator, a place
MAX_TEXT_BYTES = 64 * 1024
MAX_VALUES = 1000  # of a feature with several
LATEST_MS = 2**53  # what a double tells from its neighbours; 285,000 years


class ItemChecker:
    """Knows the schema's item features; without a schema every attribute will do."""

    def __init__(self, schema: Schema | None) -> None:
        self._features = schema.item_features if schema else None

    def checked(
        self, items: Sequence[CatalogItem]
    ) -> tuple[list[CatalogItem], list[CatalogRefusal]]:
        """The items as they are stored, and those refused. Of an id that comes twice, the first one
        stands and the others are refused."""
        taken: list[CatalogItem] = []
        refused: list[CatalogRefusal] = []
        first: dict[str, int] = {}
        for index in range(len(items)):
            path, item_id = f"items[{index}]", ""
            try:
                item = items[index]
                item_id = item.id
                violation = next(self._violations(item), None)
            except InvalidRequest as error:  # a message that is no item
                violation = error.violations[0]
            if violation is None and first.setdefault(item_id, index) != index:
                violation = "id", f"repeats items[{first[item_id]}]"
            if violation is not None:
                name, text = violation
                refused.append(CatalogRefusal(id=item_id, field=f"{path}.{name}", message=text))
                continue
            taken.append(replace(item, attributes=self._as_stored(item.attributes)))
        return taken, refused

    def _violations(self, item: CatalogItem) -> Iterator[Violation]:
        """By the field's path within the item; the first one refuses it."""
        yield from bad_id("id", item.id)
        yield from too_long("title", item.title, MAX_TITLE_BYTES)
        for name, time_ms in (("published_ms", item.published_ms), ("expires_ms", item.expires_ms)):
            if not 0 <= time_ms <= LATEST_MS:
                yield name, f"must be Unix milliseconds, got {time_ms}"
        yield from too_many("attributes", item.attributes, MAX_ATTRIBUTES)
        for name, value in item.attributes.items():
            yield from self._attribute_violations(name, value)

    def _attribute_violations(self, name: str, value: AttributeValue) -> Iterator[Violation]:
        path = f'attributes["{name}"]'
        if isinstance(value, int | float) and not math.isfinite(value):
            yield path, f"must be finite, got {value}"
        if isinstance(value, tuple) and len(value) > MAX_VALUES:
            yield path, f"must be at most {MAX_VALUES} values, got {len(value)}"
        if self._features is None:
            yield from text_violations(path, value, MAX_TEXT_BYTES)
        elif name not in self._features:
            known = ", ".join(self._features) or "none"
            yield path, f"items have no such feature; there are: {known}"
        else:
            yield from _typed(path, value, self._features[name])

    def _as_stored(self, attributes: Mapping[str, AttributeValue]) -> dict[str, AttributeValue]:
        """Every value in the one form that readers expect: a list even of one value."""
        features = self._features or {}
        return {
            name: (value,)
            if isinstance(value, str) and name in features and features[name].is_list
            else value
            for name, value in attributes.items()
        }


def check_count(name: str, values: Sequence[object], most: int) -> None:
    """Raises `InvalidField` unless there are 1 to `most`."""
    if not 1 <= len(values) <= most:
        raise InvalidField(name, f"must be 1 to {most}, got {len(values)}")


def check_ids(ids: Sequence[str]) -> tuple[list[str], list[CatalogRefusal]]:
    """The ids that may be ids, and those refused."""
    taken: list[str] = []
    refused: list[CatalogRefusal] = []
    for index, one in enumerate(ids):
        violation = next(bad_id(f"ids[{index}]", one), None)
        if violation is None:
            taken.append(one)
        else:
            field, text = violation
            refused.append(CatalogRefusal(id=one[:MAX_NAME_BYTES], field=field, message=text))
    return taken, refused


def _typed(path: str, value: AttributeValue, feature: Feature) -> Iterator[Violation]:
    role = feature.role
    if role == "title":
        yield path, "is the title: it goes into `title`"
    elif role in ("numeric", "timestamp"):
        if not isinstance(value, int | float):
            yield path, f"must be a number ({role}{_UNITS.get(role, '')})"
        elif role == "timestamp" and not 0 <= value <= LATEST_MS:
            yield path, f"must be Unix milliseconds, got {value}"
    elif isinstance(value, str) or (feature.is_list and isinstance(value, tuple)):
        most = MAX_TEXT_BYTES if role == "text" else MAX_NAME_BYTES
        yield from text_violations(path, value, most)
        if role != "text" and "" in ((value,) if isinstance(value, str) else value):
            yield path, "has an empty value; leave the attribute out instead"
    else:
        yield path, f"must be {'a list of texts' if feature.is_list else 'a text'} ({role})"


_UNITS = {"timestamp": ", Unix milliseconds"}
