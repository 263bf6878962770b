"""From an imported data set to the profiles that the serving path reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from shortlist.stores import Profile
from training.dataset import Dataset
from training.histories import UserRows, history_of, user_attributes

__all__ = ["profiles_of"]


def profiles_of(
    dataset: Dataset, *, history_length: int, rows: npt.NDArray[np.int64] | None = None
) -> Iterator[tuple[str, Profile]]:
    """Every user's id and profile: all of their interactions, or those among `rows` (ascending).

    The history keeps the newest `history_length` events; `seen` keeps every item.
    """
    events = dataset.events
    index = UserRows(dataset, np.arange(len(events)) if rows is None else rows)
    attributes = user_attributes(dataset, np.arange(dataset.n_users))
    for user, user_id in enumerate(dataset.user_ids.to_pylist()):
        mine = index.of(user)
        yield (
            user_id,
            Profile(
                user_key=int(dataset.user_keys[user]),
                history=history_of(dataset, mine).last(history_length),
                seen=np.unique(dataset.item_keys[events.item[mine]]),
                attributes=attributes[user],
            ),
        )
