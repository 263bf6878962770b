"""Makes one list of candidates of what the sources propose.

The fused order is weighted reciprocal rank fusion (Cormack, Clarke & Buettcher, SIGIR 2009): it
needs no scores that can be compared between sources. What a rank of a source is worth comes with
the source's answer, because the index version has learned it; plain fusion is weight 1, offset 60.
Everything is columns; nothing loops over candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.stages import Ask, Counts, Draft
from shortlist.tiers import Candidates, Floats, Keys, SourceCandidates

__all__ = ["Blend", "blend", "fit_guarantees"]

Rows = npt.NDArray[np.intp]

_SLOTS = 1 << 17  # 1 MB; of 9000 keys, 300 share a slot with another
_MOST_GUARANTEED = 0.5  # share of the candidates that guarantees may take; the rest is earned


class Blend:
    """Unites the sources, at most `limit` candidates in fused order."""

    name = "blend"

    def __init__(self, limit: int, guaranteed: Mapping[str, int]) -> None:
        self._limit = limit
        self._guaranteed = guaranteed

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        proposed = sum(len(one.keys) for one in draft.proposals)
        weighed = [_weighed(one, draft.ask) for one in draft.proposals]
        united, candidates = blend(weighed, self._limit, self._guaranteed)
        counts = Counts(
            items_in=proposed,
            items_out=len(candidates),
            dropped={"duplicate": proposed - united, "quota": united - len(candidates)},
            by_source={
                name: int(np.count_nonzero(ranks >= 0))
                for name, ranks in zip(candidates.source_names, candidates.ranks, strict=True)
            },
        )
        return replace(draft, candidates=candidates, scores=candidates.fused), counts


def _weighed(one: SourceCandidates, ask: Ask) -> SourceCandidates:
    """With the weight that the request's arm gives its source."""
    learned = ask.weights.get(one.source, one.weight)
    return replace(one, weight=learned * ask.multipliers.get(one.source, 1.0))


def blend(
    proposals: Sequence[SourceCandidates], limit: int, guaranteed: Mapping[str, int]
) -> tuple[int, Candidates]:
    """How many different items are proposed, and the best `limit` of them.

    An item's fused score is the sum of `weight / (offset + 1 + rank)` over the sources that propose
    it; ties go to the smaller key. The first `guaranteed[source]` of each source are always in,
    whatever the others propose; guarantees of more than half of the candidates shrink alike.
    """
    keys, rows_of = _unite(proposals)
    fused = _fused_scores(proposals, rows_of, len(keys))
    kept = np.arange(len(keys))
    sure = np.zeros(len(keys), np.bool_)
    if len(keys) > limit:
        promised = [guaranteed.get(one.source, 0) for one in proposals]
        counts = fit_guarantees(promised, [len(rows) for rows in rows_of], limit)
        for rows, count in zip(rows_of, counts, strict=True):
            sure[rows[:count]] = True
        # Only what can be among the best is sorted: a tenth, where ten sources hardly agree.
        least = np.partition(fused, len(fused) - limit)[len(fused) - limit]
        kept = np.flatnonzero(sure | (fused >= least))
    order = kept[np.lexsort((keys[kept], -fused[kept]))]
    others = ~sure[order]
    order = order[~others | (np.cumsum(others) <= limit - np.count_nonzero(sure))]
    return len(keys), _candidates(proposals, keys, rows_of, fused, order)


def _unite(proposals: Sequence[SourceCandidates]) -> tuple[Keys, list[Rows]]:
    """All proposed keys once, in any order, and of each source the rows of its candidates.

    Every key looks into one slot of a table, by its last bits, for the key that stands for it;
    the few that find another key there are sorted out by `np.unique`. 9 x 1000 keys take 0.1 ms,
    where sorting them all takes 0.5 ms.
    """
    columns = [one.keys for one in proposals]
    proposed = np.concatenate([np.empty(0, np.uint64), *columns])
    numbers = np.arange(len(proposed))
    slots = (proposed & np.uint64(_SLOTS - 1)).astype(np.intp)
    table = np.empty(_SLOTS, np.intp)  # only slots that are written are read
    table[slots] = numbers
    found = table[slots]
    standing = found == numbers
    rows = (np.cumsum(standing) - 1)[found]
    strangers = np.flatnonzero(proposed[found] != proposed)
    more, rows_of_more = np.unique(proposed[strangers], return_inverse=True)
    keys = np.concatenate([proposed[standing], more])
    rows[strangers] = len(keys) - len(more) + rows_of_more
    ends = np.cumsum([len(column) for column in columns], dtype=np.intp)
    return keys, np.split(rows, ends)[:-1]


def _fused_scores(
    proposals: Sequence[SourceCandidates], rows_of: Sequence[Rows], total: int
) -> Floats:
    """float32 [total]. Where no source that proposes has a weight, all count alike."""
    plain = float(not any(one.weight for one in proposals))
    fused = np.zeros(total, np.float64)
    for one, rows in zip(proposals, rows_of, strict=True):
        fused[rows] += (one.weight or plain) / (one.offset + 1.0 + np.arange(len(rows)))
    return fused.astype(np.float32)


def fit_guarantees(guaranteed: Sequence[int], proposed: Sequence[int], limit: int) -> list[int]:
    """Of each source, how many of its first candidates are sure of a place among `limit`.

    `guaranteed` is what each source was promised, `proposed` how many candidates it has.
    """
    wanted = list(map(min, guaranteed, proposed))
    scale = min(1.0, _MOST_GUARANTEED * limit / max(1, sum(wanted)))
    return [int(scale * count) for count in wanted]


def _candidates(
    proposals: Sequence[SourceCandidates],
    keys: Keys,
    rows_of: Sequence[Rows],
    fused: Floats,
    order: Rows,
) -> Candidates:
    """The items of `order`, with every source's score and rank."""
    place = np.full(len(keys), -1, np.intp)
    place[order] = np.arange(len(order))
    shape = (len(proposals), len(order))
    scores, ranks = np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int32)
    sources = np.zeros(len(order), np.uint32)
    for bit, (one, rows) in enumerate(zip(proposals, rows_of, strict=True)):
        places = place[rows]
        kept = np.flatnonzero(places >= 0)
        places = places[kept]
        scores[bit, places] = one.scores[kept]
        ranks[bit, places] = kept
        sources[places] |= np.uint32(1 << bit)
    return Candidates(
        keys=keys[order],
        source_names=tuple(one.source for one in proposals),
        sources=sources,
        scores=scores,
        ranks=ranks,
        fused=fused[order],
    )
