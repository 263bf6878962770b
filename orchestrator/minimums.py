"""Places of a page that are kept for a source, whatever the ranking says: `slate.minimums`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.stages import Draft
from shortlist.tiers import Candidates

__all__ = ["needed", "proposed_by", "with_enough_of"]

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


def needed(
    proposed: Mapping[str, npt.NDArray[np.bool_]],
    minimums: Mapping[str, int],
    head: int,
    total: int,
) -> npt.NDArray[np.intp]:
    """Places behind the first `head` of `total` that have to be offered, too, ascending.

    `proposed` says by source which places it proposed, in ranking order, bool [total]; a source
    without them is left out.
    """
    wanted = np.zeros(total, np.bool_)
    for source, mine in proposed.items():
        missing = _SPARE * minimums[source] - np.count_nonzero(mine[:head])
        if missing > 0:
            wanted[head + np.flatnonzero(mine[head:])[:missing]] = True
    return np.flatnonzero(wanted)


def with_enough_of(draft: Draft) -> tuple[Draft, int]:
    """The draft with enough candidates of the sources with a minimum, and how many come first.

    Where the draft's head holds too few of a source, its best others follow right behind the head,
    in ranking order.
    """
    minimums, head, total = draft.ask.minimums, draft.head, len(draft.candidates)
    promoted = needed(proposed_by(draft.candidates, minimums), minimums, head, total)
    if not len(promoted):
        return draft, head
    rest = np.setdiff1d(np.arange(head, total), promoted, assume_unique=True)
    order = np.concatenate([np.arange(head), promoted, rest])
    draft = replace(draft, candidates=draft.candidates.take(order), scores=draft.scores[order])
    return draft, head + len(promoted)
