"""Users' histories as the tiers see them, from rows of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shortlist.places import coordinates_of, coordinates_text
from shortlist.schema import Feature
from shortlist.tiers import AttributeValue, History
from training.dataset import Dataset
from training.encoding import entity_columns

__all__ = ["UserRows", "entity_attributes", "history_of", "user_attributes", "user_histories"]

Rows = npt.NDArray[np.int64]


class UserRows:
    """Finds the interactions of a user among some rows, by binary search."""

    def __init__(self, dataset: Dataset, rows: Rows) -> None:
        users = dataset.events.user[rows]
        order = np.argsort(users, kind="stable")  # rows are by time, so each user's are, too
        self._users, self._rows = users[order], rows[order]

    def of(self, user: int) -> Rows:
        """Rows of `user`, oldest first."""
        # Of the column's own type: another one would make numpy copy the column at every call.
        key = self._users.dtype.type(user)
        start, stop = (np.searchsorted(self._users, key, side=side) for side in ("left", "right"))
        return self._rows[start:stop]


def history_of(dataset: Dataset, rows: Rows) -> History:
    """The interactions `rows`, which stand oldest first."""
    events = dataset.events
    return History(
        keys=dataset.item_keys[events.item[rows]],
        times_ms=events.time_ms[rows],
        weights=events.weight[rows],
    )


def user_histories(dataset: Dataset, rows: Rows, users: Sequence[int] | Rows) -> list[History]:
    """The histories that `users` have among `rows`."""
    index = UserRows(dataset, rows)
    return [history_of(dataset, index.of(int(user))) for user in users]


def user_attributes(
    dataset: Dataset, users: Sequence[int] | Rows
) -> list[Mapping[str, AttributeValue]]:
    """The attributes that profiles hold of `users`, by feature name, without the missing ones.

    Coordinates are the texts of `shortlist.places`.
    """
    chosen = dataset.users.take(np.asarray(users, np.int64))
    return entity_attributes(chosen, dataset.schema.user_features)


def entity_attributes(
    table: pa.Table, features: Mapping[str, Feature]
) -> list[Mapping[str, AttributeValue]]:
    """What the features say of each row, by name, without what is missing and without titles."""
    said = {name: feature for name, feature in features.items() if feature.role != "title"}
    columns = {
        name: [_attribute(value) for value in column]
        for name, column in entity_columns(table, said).items()
    }
    return [
        {name: value for name, column in columns.items() if (value := column[row]) is not None}
        for row in range(table.num_rows)
    ]


def _attribute(value: Any) -> AttributeValue | None:
    """A table's value as profiles hold it."""
    if isinstance(value, tuple):  # coordinates, known or not
        point = coordinates_of(value)
        return coordinates_text(*point) if point else None
    return tuple(value) if isinstance(value, list) else value
