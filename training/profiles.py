"""From an imported data set to the profiles that the serving path reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shortlist.stores import Profile
from shortlist.tiers import AttributeValue
from training.dataset import Dataset
from training.encoding import entity_columns
from training.histories import history_of

__all__ = ["profiles_of"]


def profiles_of(
    dataset: Dataset, *, history_length: int, rows: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[str, Profile]]:
    """Every user's id and profile: all of their interactions, or those among `rows` (ascending).

    The history keeps the newest `history_length` events; `seen` keeps every item. Coordinates of a
    user are left out: an attribute is a text, a number or a list of texts.
    """
    events = dataset.events
    rows = np.arange(len(events)) if rows is None else rows
    by_user = rows[np.argsort(events.user[rows], kind="stable")]  # each user's, oldest first
    ends = np.cumsum(np.bincount(events.user[rows], minlength=dataset.n_users))
    attributes = _attribute_columns(dataset)
    start = 0
    for row, (user_id, end) in enumerate(zip(dataset.user_ids.to_pylist(), ends, strict=True)):
        mine = by_user[start:end]
        start = end
        yield (
            user_id,
            Profile(
                user_key=int(dataset.user_keys[row]),
                history=history_of(dataset, mine).last(history_length),
                seen=np.unique(dataset.item_keys[events.item[mine]]),
                attributes=_attributes(attributes, row),
            ),
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
