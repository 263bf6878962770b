"""From an imported data set to the profiles and items that the serving path reads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from shortlist.live import CatalogItem
from shortlist.stores import Profile
from training.dataset import UNKNOWN_TIME_MS, Dataset
from training.histories import UserRows, entity_attributes, history_of, user_attributes

__all__ = ["items_of", "profiles_of"]

_ITEMS_A_PIECE = 10_000


def profiles_of(
    dataset: Dataset,
    *,
    history_length: int,
    seen_length: int | None = None,
    rows: npt.NDArray[np.int64] | None = None,
) -> Iterator[tuple[str, Profile]]:
    """Every user's id and profile: all of their interactions, or those among `rows` (ascending).

    The history keeps the newest `history_length` events; `seen` keeps every item, or those of the
    newest `seen_length` events.
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
                seen=np.unique(dataset.item_keys[events.item[mine[-(seen_length or len(mine)) :]]]),
                attributes=attributes[user],
            ),
        )


def items_of(dataset: Dataset) -> Iterator[CatalogItem]:
    """The catalogue by key: every item with its title and what its features say."""
    for start in range(0, dataset.n_items, _ITEMS_A_PIECE):
        piece = dataset.items.slice(start, _ITEMS_A_PIECE)
        attributes = entity_attributes(piece, dataset.schema.item_features)
        published = dataset.published_ms[start : start + _ITEMS_A_PIECE]
        ids, titles = piece["id"].to_pylist(), piece["title"].to_pylist()
        for row, id in enumerate(ids):
            yield CatalogItem(
                id=id,
                title=titles[row] or "",
                attributes=attributes[row],
                published_ms=0 if published[row] == UNKNOWN_TIME_MS else int(published[row]),
            )
