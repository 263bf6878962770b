"""More by the people whose items the user liked."""

from __future__ import annotations

import numpy as np

from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from retrieval_svc.sources.creator import creators_of
from training.sources.base import (
    Absent,
    SourceLesson,
    TrainedSource,
    add_up,
    top_of_each,
)

__all__ = ["train"]

NAME = "creator"
_MOST = 2000  # items a creator


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """Lists of items by creator, and the creators of every item."""
    dataset = lesson.dataset
    features = [name for name, f in dataset.schema.item_features.items() if f.role == "creator"]
    if not features:
        return Absent(name=NAME, reason="no item feature has the role creator")
    names = {name: dataset.items[f"f_{name}"].to_pylist() for name in features}
    items, creators = creators_of(names)
    if len(items) == 0:
        return Absent(name=NAME, reason="no item has a creator")
    events, rows = dataset.events, lesson.liked
    liked = add_up(events.item[rows], events.weight[rows], dataset.n_items)
    worth = (1 + np.log1p(liked)).astype(np.float32)
    weights = worth[items]
    kept = top_of_each(creators, weights, _MOST)
    owners, starts = np.unique(items, return_index=True)
    return TrainedSource(
        name=NAME,
        data=SourceData(
            columns={"worth": worth},  # so that an item keeps it when its creators change
            lists={
                "items": PostingLists.of(
                    creators[kept], items[kept].astype(np.int32), weights[kept]
                )
            },
        ),
        shared=SharedData(
            arrays={
                "keys": dataset.item_keys[owners],
                "starts": np.append(starts, len(items)).astype(np.int64),
                "creators": creators,
            },
            settings={**lesson.history, "features": features},
        ),
        notes={"creators": len(np.unique(creators)), "items": len(owners)},
    )
