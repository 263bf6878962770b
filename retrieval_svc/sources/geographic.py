"""What is liked, or is, where the user is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from retrieval_svc.brute_force import Hits
from retrieval_svc.source_data import PostingLists
from retrieval_svc.sources.base import SliceView, SourceQuery
from shortlist.ids import key_of
from shortlist.places import coordinates_of, place_names
from shortlist.tiers import AttributeValue

__all__ = ["GeographicSource"]

# What a cell of the grid counts beside the next finer one around the same point.
_COARSER = 0.5


class GeographicSource:
    """Scores are an item's shares of what happens in the user's places, added up."""

    name = "geographic"

    def __init__(self, features: Sequence[str], popular: PostingLists) -> None:
        self._features = tuple(features)  # geo features of users and contexts
        self._popular = popular  # from places to items

    @classmethod
    def open(cls, view: SliceView) -> Self:
        return cls(view.texts("features"), view.lists("popular"))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        places = _places({**query.user.attributes, **query.user.context}, self._features)
        keys = np.array(sorted(places), np.uint64)
        strengths = np.array([places[key] for key in sorted(places)], np.float64)
        return self._popular.best(keys, strengths, k, query.allowed)


def _places(about: Mapping[str, AttributeValue], features: Sequence[str]) -> dict[int, float]:
    """Keys of places, and how much each counts: of coordinates the finest cell most."""
    strengths: dict[int, float] = {}
    for value in (about[feature] for feature in features if feature in about):
        decay = _COARSER if coordinates_of(value) else 1.0
        for level, name in enumerate(place_names(value)):
            key = key_of(name)
            strengths[key] = max(strengths.get(key, 0.0), decay**level)
    return strengths
