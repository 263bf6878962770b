"""The items of a slice as people see them: ids, titles, attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_svc.item_filter import FilterColumn, ItemFilter, Kind
from retrieval_svc.rows import Keys, RowMask, Rows
from shortlist.errors import ArtifactCorrupt, InvalidField
from shortlist.tiers import AttributeValue

__all__ = ["CardColumns", "ItemTable"]

_FEATURE = "f_"
_EXPIRES = "expires_ms"  # a column of slices with items that were known to expire
_OF_EVERY_ITEM = {"id": "id", "title": "title", "published_at": "published_ms"}
_KINDS: Mapping[pa.DataType, Kind] = {
    pa.string(): "text",
    pa.float32(): "number",
    pa.int64(): "time",
}
_GROUP_ROLES = frozenset({"categorical", "multi_categorical", "creator", "geo"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CardColumns:
    """Aligned columns of some items; see `shortlist.tiers.ItemCards`."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    groups: Mapping[str, tuple[tuple[str, ...], ...]]
    attributes: tuple[Mapping[str, AttributeValue], ...]


class ItemTable:
    """Columns `id`, `title` and `f_<feature>` of a slice, in Arrow; rows as everywhere else."""

    def __init__(self, table: pa.Table, roles: Mapping[str, str]) -> None:
        self._table = table.combine_chunks()
        self._roles = roles
        self._fields = {
            name.removeprefix(_FEATURE): name
            for name in table.column_names
            if name.startswith(_FEATURE)
        }
        # Places given by coordinates have columns <name>_lat and <name>_lon, and are no groups.
        self._groups = [
            name for name, role in roles.items() if role in _GROUP_ROLES and name in self._fields
        ]
        self._filter = ItemFilter(self._filter_columns(), repeating=self._groups)

    @classmethod
    def open(cls, path: Path, keys: Keys, roles: Mapping[str, str]) -> ItemTable:
        """Read a Parquet file whose rows are aligned with `keys`. Raises `ArtifactCorrupt`."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactCorrupt(f"{path}: {error}") from None
        for name, kind in (("key", pa.uint64()), ("id", pa.string()), ("title", pa.string())):
            if name not in table.column_names or table.schema.field(name).type != kind:
                raise ArtifactCorrupt(f"{path}: no column {name!r} of type {kind}")
        if _EXPIRES in table.column_names and table.schema.field(_EXPIRES).type != pa.int64():
            raise ArtifactCorrupt(f"{path}: column {_EXPIRES!r} is not of type {pa.int64()}")
        if not np.array_equal(table["key"].to_numpy(), keys) or table["id"].null_count:
            raise ArtifactCorrupt(f"{path}: its rows are not aligned with keys.npy")
        return cls(table.drop_columns(["key"]), roles)

    def over(self, table: pa.Table) -> ItemTable:
        """Other items in the same layout."""
        return ItemTable(table, self._roles)

    @property
    def expires_ms(self) -> npt.NDArray[np.int64]:
        """From when on each item is shown no more, as it was published: int64 [n], 0 = never."""
        if _EXPIRES not in self._table.column_names:
            return np.zeros(self._table.num_rows, np.int64)
        return np.asarray(self._table[_EXPIRES].fill_null(0).to_numpy(), np.int64)

    @property
    def columns(self) -> pa.Table:
        """All there is, without the keys."""
        return self._table

    def matching(self, filter: str) -> RowMask | None:
        """The rows that match a filter in normal form, see `shortlist.filters`; None = all.

        Raises `InvalidField` for a filter that these items cannot answer.
        """
        return self._filter.matching(filter)

    def cards(self, rows: Rows, fields: Sequence[str], groups: bool = True) -> CardColumns:
        """The items of `rows`. Raises `InvalidField` for a field that no item has."""
        for field in fields:
            if field not in self._fields:
                known = ", ".join(self._fields) or "none"
                raise InvalidField("return_attributes", f"no feature {field!r}; there are: {known}")
        return CardColumns(
            ids=tuple(self._values("id", rows)),
            titles=tuple(title or "" for title in self._values("title", rows)),
            groups={
                name: tuple(map(_as_group, self._values(self._fields[name], rows)))
                for name in (self._groups if groups else ())
            },
            attributes=self._attributes(rows, fields),
        )

    def _filter_columns(self) -> dict[str, FilterColumn]:
        """What filters may ask about. A feature goes before what every item has of that name."""
        columns = _OF_EVERY_ITEM | self._fields
        return {
            name: FilterColumn(self._table[column].combine_chunks(), kind)
            for name, column in columns.items()
            if column in self._table.column_names
            and (kind := _kind_of(self._table.schema.field(column).type))
        }

    def _attributes(
        self, rows: Rows, fields: Sequence[str]
    ) -> tuple[Mapping[str, AttributeValue], ...]:
        columns = {field: self._values(self._fields[field], rows) for field in fields}
        return tuple(
            {
                field: value
                for field, column in columns.items()
                if (value := _as_attribute(column[at])) is not None
            }
            for at in range(len(rows))
        )

    def _values(self, column: str, rows: Rows) -> list[Any]:
        return self._table[column].take(pa.array(rows)).to_pylist()


def _kind_of(type: pa.DataType) -> Kind | None:
    """None for a type that the importer never writes."""
    return _KINDS.get(type.value_type if pa.types.is_list(type) else type)


def _as_group(value: str | list[str | None] | None) -> tuple[str, ...]:
    """No, one or several values as a tuple."""
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in values if text is not None)


def _as_attribute(value: str | float | list[str | None] | None) -> AttributeValue | None:
    """None for what the item does not have: null, NaN, no values."""
    if isinstance(value, list):
        return _as_group(value) or None
    if value is None or isinstance(value, str):
        return value
    return float(value) if np.isfinite(value) else None
