"""What must never be shown. Filters fail closed: one that cannot run fails the request.

The shards leave these items out already, so that none of their quotas is wasted; these filters
are the second lock, and the only one on the cached popular items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from orchestrator.stages import Counts, Draft
from shortlist.tiers import Keys

__all__ = [
    "ExcludedItemsFilter",
    "Filter",
    "Filters",
    "SeenItemsFilter",
    "ShownItemsFilter",
    "contains",
    "never_shown",
]


class Filter(Protocol):
    """Names the items that may not be shown."""

    reason: str

    def unwanted(self, draft: Draft) -> Keys:
        """uint64, in any order."""
        ...


class SeenItemsFilter:
    """What the user has interacted with, unless the request wants it."""

    reason = "seen"

    def unwanted(self, draft: Draft) -> Keys:
        return draft.seen


class ExcludedItemsFilter:
    """What the request excludes."""

    reason = "excluded"

    def unwanted(self, draft: Draft) -> Keys:
        return draft.ask.excluded


class ShownItemsFilter:
    """What earlier pages of the listing have shown."""

    reason = "shown"

    def unwanted(self, draft: Draft) -> Keys:
        return draft.ask.listing.shown


class Filters:
    """Runs filters over the candidates."""

    name = "filter"

    def __init__(self, filters: Sequence[Filter]) -> None:
        self._filters = tuple(filters)

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        keep = np.ones(len(draft.candidates), np.bool_)
        dropped: dict[str, int] = {}
        for one in self._filters:
            hit = keep & contains(one.unwanted(draft), draft.candidates.keys)
            dropped[one.reason] = int(np.count_nonzero(hit))
            keep &= ~hit
        rows = np.flatnonzero(keep)
        counts = Counts(items_in=len(keep), items_out=len(rows), dropped=dropped)
        if len(rows) == len(keep):
            return draft, counts
        candidates, scores = draft.candidates.take(rows), draft.scores[rows]
        return replace(draft, candidates=candidates, scores=scores), counts


def never_shown(draft: Draft, filters: Sequence[Filter]) -> Keys:
    """The union of what the filters name, ascending: for the shards to leave out."""
    return np.unique(np.concatenate([one.unwanted(draft) for one in filters]))


def contains(unwanted: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Which of `keys` are among `unwanted`: bool [n]. Faster than `np.isin` for few keys."""
    if not len(unwanted):
        return np.zeros(len(keys), np.bool_)
    ordered = np.sort(unwanted)
    at = np.searchsorted(ordered, keys)
    return ordered[np.minimum(at, len(ordered) - 1)] == keys
