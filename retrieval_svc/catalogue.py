"""Items as the catalogue's log has them, in the columns of a data set's tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrieval_svc.rows import Keys, Rows
from shortlist.ids import keys_of
from shortlist.live import CatalogItem
from shortlist.places import coordinates_of
from shortlist.tiers import AttributeValue

__all__ = ["CatalogueReader", "ReadItems"]

Times = npt.NDArray[np.int64]
Columns = dict[str, list[Any]]

_FEATURE = "f_"
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadItems:
    """n items by ascending key; values that a feature cannot have are missing."""

    keys: Keys  # uint64 [n]
    items: tuple[CatalogItem, ...]  # [n]
    columns: Mapping[str, Sequence[Any]]  # feature -> a value a row, None = missing; for encoders
    published_ms: Times  # int64 [n], 0 = unknown
    expires_ms: Times  # int64 [n], 0 = never
    misfits: int  # values of attributes that were of a wrong type

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Rows) -> ReadItems:
        """The items of `rows`, which ascend."""
        return ReadItems(
            keys=self.keys[rows],
            items=tuple(self.items[row] for row in rows.tolist()),
            columns={
                name: [values[row] for row in rows.tolist()]
                for name, values in self.columns.items()
            },
            published_ms=self.published_ms[rows],
            expires_ms=self.expires_ms[rows],
            misfits=self.misfits,
        )


class CatalogueReader:
    """Reads items as an import with the same schema would have read them."""

    def __init__(self, layout: pa.Schema, roles: Mapping[str, str]) -> None:
        """`layout` is that of a slice's item table, `roles` says what its features are."""
        self._layout, self._roles = layout, roles
        self._published = next((name for name, role in roles.items() if role == "timestamp"), None)

    def read(self, items: Sequence[CatalogItem]) -> ReadItems:
        keys = keys_of([item.id for item in items])
        order = np.argsort(keys)
        ordered = tuple(items[place] for place in order.tolist())
        columns: Columns = {}
        misfits = 0
        for name, role in self._roles.items():
            if read := self._reader(name, role):
                given = [_given(item, name, role) for item in ordered]
                columns[name] = [None if value is None else read(value) for value in given]
                missing = zip(given, columns[name], strict=True)
                misfits += sum(one is not None and got is None for one, got in missing)
        return ReadItems(
            keys=keys[order],
            items=ordered,
            columns=columns,
            published_ms=self._published_ms(ordered, columns),
            expires_ms=np.array([item.expires_ms for item in ordered], np.int64),
            misfits=misfits,
        )

    def table(self, read: ReadItems) -> pa.Table:
        """The items in the layout of the slice's table."""
        nothing = [None] * len(read)
        known: Columns = {
            "id": [item.id for item in read.items],
            "title": [item.title or None for item in read.items],
            "published_ms": [int(ms) or None for ms in read.published_ms],
        }
        for name, values in read.columns.items():
            if f"{_FEATURE}{name}_lat" in self._layout.names:
                known[f"{_FEATURE}{name}_lat"] = [one and one[0] for one in values]
                known[f"{_FEATURE}{name}_lon"] = [one and one[1] for one in values]
            elif self._roles[name] == "title":
                known["title"] = list(values)
            else:
                known[_FEATURE + name] = list(values)
        if self._published in read.columns:  # dates may be given in either way
            known[f"{_FEATURE}{self._published}"] = known["published_ms"]
        arrays = [pa.array(known.get(one.name, nothing), one.type) for one in self._layout]
        return pa.Table.from_arrays(arrays, schema=self._layout)

    def _reader(self, name: str, role: str) -> Callable[[AttributeValue], Any] | None:
        """What makes a cell of an attribute, None for one that does not fit; none for features that
        the slice does not have.
        """
        if role == "title":
            return _text
        if f"{_FEATURE}{name}_lat" in self._layout.names:
            return _point
        if _FEATURE + name not in self._layout.names:
            return None
        kind = self._layout.field(_FEATURE + name).type
        if pa.types.is_list(kind):
            return _texts
        if pa.types.is_floating(kind):
            return _number
        return _moment if pa.types.is_integer(kind) else _text

    def _published_ms(self, items: Sequence[CatalogItem], columns: Columns) -> Times:
        """Of the item itself, else of the feature that dates are imported from."""
        dates = columns.get(self._published or "", [None] * len(items))
        pairs = zip(items, dates, strict=True)
        return np.array([item.published_ms or date or 0 for item, date in pairs], np.int64)


def _given(item: CatalogItem, name: str, role: str) -> AttributeValue | None:
    value = item.attributes.get(name)
    return (item.title or value) if role == "title" else value


def _text(value: AttributeValue) -> str | None:
    if isinstance(value, tuple) and len(value) == 1:
        return value[0]
    return value if isinstance(value, str) and value else None


def _texts(value: AttributeValue) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    return list(value) if isinstance(value, tuple) else None


def _number(value: AttributeValue) -> float | None:
    """As float32 holds it, like all numbers of a data set."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Comparing first: beyond float32 the conversion would warn, and give infinity.
    fits = math.isfinite(value) and abs(value) <= _LARGEST
    return float(np.float32(value)) if fits else None


def _moment(value: AttributeValue) -> int | None:
    number = None if isinstance(value, bool) or not isinstance(value, int | float) else value
    fits = number is not None and math.isfinite(number) and abs(number) < 2**62
    return int(number) if fits and number is not None else None


def _point(value: AttributeValue) -> tuple[float, float] | None:
    point = coordinates_of(value)
    return None if point is None else (float(np.float32(point[0])), float(np.float32(point[1])))
