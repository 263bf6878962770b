"""From an imported data set to the profiles that the serving path reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from shortlist.stores import Profile
from shortlist.tiers import AttributeValue, History
from training.dataset import Dataset
from training.encoding import entity_columns

__all__ = ["profiles_of"]


def profiles_of(dataset: Dataset, *, history_length: int) -> Iterator[tuple[str, Profile]]:
    """Every user's id and profile: all of their interactions, whatever split they are in.

    The history keeps the newest `history_length` events; `seen` keeps every item. Coordinates of a
    user are left out: an attribute is a text, a number or a list of texts.
    """
    events = dataset.events
    by_user = np.argsort(events.user, kind="stable")  # the rows of one user stay oldest first
    ends = np.cumsum(np.bincount(events.user, minlength=dataset.n_users))
    attributes = _attribute_columns(dataset)
    start = 0
    for row, (user_id, end) in enumerate(zip(dataset.user_ids.to_pylist(), ends, strict=True)):
        rows = by_user[start:end]
        start = end
        yield (
            user_id,
            Profile(
                user_key=int(dataset.user_keys[row]),
                history=_history(dataset, rows).last(history_length),
                seen=np.unique(dataset.item_keys[events.item[rows]]),
                attributes=_attributes(attributes, row),
            ),
        )


def _history(dataset: Dataset, rows: np.ndarray) -> History:
    events = dataset.events
    return History(
        keys=dataset.item_keys[events.item[rows]],
        times_ms=events.time_ms[rows],
        weights=events.weight[rows],
    )


def _attribute_columns(dataset: Dataset) -> Mapping[str, Sequence[Any]]:
    features = {
        name: feature
        for name, feature in dataset.schema.user_features.items()
        if not feature.has_coordinates
    }
    return entity_columns(dataset.users, features)


def _attributes(columns: Mapping[str, Sequence[Any]], row: int) -> dict[str, AttributeValue]:
    present = {name: column[row] for name, column in columns.items() if column[row] is not None}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in present.items()
    }
