"""The items of a slice as people see them: ids, titles, attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval_svc.rows import Keys, Rows
from shortlist.errors import ArtifactCorrupt, InvalidField
from shortlist.tiers import AttributeValue

__all__ = ["CardColumns", "ItemTable"]

_FEATURE = "f_"
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
        self._fields = {
            name.removeprefix(_FEATURE): name
            for name in table.column_names
            if name.startswith(_FEATURE)
        }
        # Places given by coordinates have columns <name>_lat and <name>_lon, and are no groups.
        self._groups = [
            name for name, role in roles.items() if role in _GROUP_ROLES and name in self._fields
        ]

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
        if not np.array_equal(table["key"].to_numpy(), keys) or table["id"].null_count:
            raise ArtifactCorrupt(f"{path}: its rows are not aligned with keys.npy")
        return cls(table.drop_columns(["key"]), roles)

    def cards(self, rows: Rows, fields: Sequence[str]) -> CardColumns:
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
                for name in self._groups
            },
            attributes=self._attributes(rows, fields),
        )

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
