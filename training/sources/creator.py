"""More by the people whose items the user liked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from shortlist.ids import keys_of
from training.sources.base import (
    Absent,
    SourceLesson,
    TrainedSource,
    add_up,
    top_of_each,
    unique_pairs,
)

__all__ = ["train"]

NAME = "creator"
_MOST = 2000  # items a creator


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """Lists of items by creator, and the creators of every item."""
    dataset = lesson.dataset
    names = [name for name, f in dataset.schema.item_features.items() if f.role == "creator"]
    if not names:
        return Absent(name=NAME, reason="no item feature has the role creator")
    items, creators = _creators({name: dataset.items[f"f_{name}"].to_pylist() for name in names})
    if len(items) == 0:
        return Absent(name=NAME, reason="no item has a creator")
    events, rows = dataset.events, lesson.liked
    liked = add_up(events.item[rows], events.weight[rows], dataset.n_items)
    weights = (1 + np.log1p(liked))[items].astype(np.float32)
    kept = top_of_each(creators, weights, _MOST)
    owners, starts = np.unique(items, return_index=True)
    return TrainedSource(
        name=NAME,
        data=SourceData(
            lists={
                "items": PostingLists.of(
                    creators[kept], items[kept].astype(np.int32), weights[kept]
                )
            }
        ),
        shared=SharedData(
            arrays={
                "keys": dataset.item_keys[owners],
                "starts": np.append(starts, len(items)).astype(np.int64),
                "creators": creators,
            },
            settings=lesson.history,
        ),
        notes={"creators": len(np.unique(creators)), "items": len(owners)},
    )


def _creators(
    columns: dict[str, Sequence[Any]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Item rows, ascending, and the keys of their creators, aligned; no pair twice."""
    # The same name in two features is two creators: an author and an actor.
    prefixes = {name: f"{name}:" if len(columns) > 1 else "" for name in columns}
    found = [
        (row, prefixes[name] + one)
        for name, values in columns.items()
        for row, value in enumerate(values)
        for one in (value if isinstance(value, list) else [value])
        if one
    ]
    rows = np.array([row for row, _ in found], np.int64)
    items, creators, _ = unique_pairs(rows, keys_of([one for _, one in found]))
    return items, creators
