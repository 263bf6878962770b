"""What of a history a source looks at, and how much each item of it counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval_svc.rows import Keys
from retrieval_svc.sources.base import SliceView
from shortlist.errors import ArtifactCorrupt
from shortlist.tiers import History

__all__ = ["Liked", "Recency"]


class Liked(NamedTuple):
    """The items that a user liked, each once."""

    keys: Keys  # uint64 [m], ascending
    strengths: npt.NDArray[np.float64]  # float64 [m], above 0

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """float64 [m]: the strengths as parts of their sum, the same on every shard."""
        return self.strengths / self.strengths.sum()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recency:
    """The newest liked event has strength 1 times its weight; older ones less and less."""

    events: int | None  # only so many of the newest liked events count; None = all
    half_life_events: float | None  # half as strong for each so many newer ones; None = no decay

    @staticmethod
    def of(view: SliceView) -> Recency:
        """From the settings `history` and `half_life_events`; absent or null is no limit."""
        events = view.optional_number("history")
        half_life = view.optional_number("half_life_events")
        if (events is not None and events < 1) or (half_life is not None and half_life <= 0):
            raise ArtifactCorrupt(
                f"{view.artifact / view.source}/settings.json: history {events} or "
                f"half_life_events {half_life} is not positive"
            )
        return Recency(events=None if events is None else int(events), half_life_events=half_life)

    def liked(self, history: History) -> Liked:
        """Strengths of several events of one item add up. What nobody knows counts, too: all
        shards must agree, and each knows other items."""
        liked = history.weights > 0
        keys, weights = history.keys[liked], history.weights[liked].astype(np.float64)
        if self.events is not None:
            keys, weights = keys[-self.events :], weights[-self.events :]
        if self.half_life_events is not None:
            newer = np.arange(len(keys) - 1, -1, -1)
            weights = weights * np.exp2(-newer / self.half_life_events)
        items, which = np.unique(keys, return_inverse=True)
        strengths = np.zeros(len(items))
        np.add.at(strengths, which, weights)
        counts = strengths > 0  # a strong decay makes nothing of what is long ago
        return Liked(items[counts], strengths[counts])
