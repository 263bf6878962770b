"""How each candidate source is trained: one file a source, all of the form `train(lesson)`.

The two-tower is none of them: it has a training loop, and cards and ranker need its vectors, too
(see `training.two_tower`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from training.sources import (
    content,
    cooccurrence,
    creator,
    fresh,
    geographic,
    mf,
    popular,
    trending,
)
from training.sources.base import Absent, SourceLesson, TrainedSource

__all__ = ["TRAINERS", "Absent", "SourceLesson", "TrainedSource"]

TRAINERS: Mapping[str, Callable[[SourceLesson], TrainedSource | Absent]] = {
    module.NAME: module.train
    for module in (mf, cooccurrence, content, popular, trending, fresh, geographic, creator)
}
"""In the order in which we list the sources."""
