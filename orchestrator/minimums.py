"""Places of a page that are kept for a source, whatever the ranking says: `slate.minimums`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.stages import Draft
from shortlist.tiers import Candidates

__all__ = ["proposed_by", "with_enough_of"]

_SPARE = 3  # times as many as needed: caps and missing cards may take some


def proposed_by(
    candidates: Candidates, sources: Mapping[str, int]
) -> dict[str, npt.NDArray[np.bool_]]:
    """By source which candidates it proposed, bool [n]; a source that was not asked is left out."""
    return {
        name: (candidates.sources >> np.uint32(bit) & np.uint32(1)).astype(np.bool_)
        for bit, name in enumerate(candidates.source_names)
        if name in sources
    }


def with_enough_of(draft: Draft) -> tuple[Draft, int]:
    """The draft with enough candidates of the sources with a minimum, and how many come first.

    Where the draft's head holds too few of a source, its best others follow right behind the head,
    in ranking order.
    """
    minimums, head = draft.ask.minimums, draft.head
    wanted = np.zeros(len(draft.candidates), np.bool_)
    for source, proposed in proposed_by(draft.candidates, minimums).items():
        missing = _SPARE * minimums[source] - np.count_nonzero(proposed[:head])
        if missing > 0:
            wanted[head + np.flatnonzero(proposed[head:])[:missing]] = True
    promoted = np.flatnonzero(wanted)
    if not len(promoted):
        return draft, head
    rest = head + np.flatnonzero(~wanted[head:])
    order = np.concatenate([np.arange(head), promoted, rest])
    draft = replace(draft, candidates=draft.candidates.take(order), scores=draft.scores[order])
    return draft, head + len(promoted)
