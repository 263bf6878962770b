"""The newest items: nothing that counts clicks can find them yet."""

from __future__ import annotations

import numpy as np

from retrieval_svc.source_data import SharedData, SourceData
from training.sources.base import (
    NEVER,
    Absent,
    SourceLesson,
    TrainedSource,
    appeared_ms,
    first_events,
)

__all__ = ["train"]

NAME = "fresh"
_SHARE = 0.05  # of the items with a known date, the newest
_FEWEST = 100
_POOL = 2000  # most items that a request looks at


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """When each item appeared, and from when on one is fresh."""
    since = appeared_ms(lesson.dataset, lesson.rows)
    met = np.full(lesson.dataset.n_items, NEVER)
    if lesson.dataset.has_time:
        met = first_events(lesson.dataset, lesson.rows)
    dates = np.sort(since[since != NEVER])[::-1]
    if len(dates) == 0 or dates[0] == dates[-1]:
        return Absent(name=NAME, reason="nothing says which items are new")
    count = min(max(int(_SHARE * len(dates)), _FEWEST), len(dates))
    return TrainedSource(
        name=NAME,
        data=SourceData(
            columns={
                "first_ms": np.where(since == NEVER, 0, since),
                "met_ms": np.where(met == NEVER, 0, met),
            }
        ),
        shared=SharedData(settings={"after_ms": int(dates[count - 1]), "pool": _POOL}),
        notes={"items": int((dates >= dates[count - 1]).sum())},
    )
