"""Makes one list of candidates of what the sources propose.

The fused order is reciprocal rank fusion (Cormack, Clarke & Buettcher, SIGIR 2009): it needs no
scores that can be compared between sources. Everything is columns; nothing loops over candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from orchestrator.stages import Counts, Draft
from shortlist.tiers import Candidates, Floats, SourceCandidates

__all__ = ["Blend", "blend", "fused_scores"]

_RRF_K = 60  # the paper's constant
_RESERVED = 0.25  # share of the candidates kept free for the sources' guaranteed shares


class Blend:
    """Unites the sources, at most `limit` candidates in fused order."""

    name = "blend"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    async def run(self, draft: Draft) -> tuple[Draft, Counts]:
        proposed = sum(len(one.keys) for one in draft.proposals)
        united, candidates = blend(draft.proposals, self._limit)
        counts = Counts(
            items_in=proposed,
            items_out=len(candidates),
            dropped={"duplicate": proposed - united, "quota": united - len(candidates)},
            by_source={
                name: int(np.count_nonzero(ranks >= 0))
                for name, ranks in zip(candidates.source_names, candidates.ranks, strict=True)
            },
        )
        return (
            replace(draft, candidates=candidates, scores=fused_scores(candidates.ranks)),
            counts,
        )


def blend(proposals: Sequence[SourceCandidates], limit: int) -> tuple[int, Candidates]:
    """How many different items are proposed, and the best `limit` of them.

    Each of S sources is sure of its best `limit / (4 S)` candidates, whatever the others propose.
    """
    united = _unite(proposals)
    # Stable over ascending keys: ties go to the smaller key.
    order = np.argsort(-fused_scores(united.ranks), kind="stable")
    if len(order) > limit:
        share = int(limit * _RESERVED / len(proposals))
        ranks = united.ranks[:, order]
        sure = ((ranks >= 0) & (ranks < share)).any(axis=0)
        order = order[sure | (np.cumsum(~sure) <= limit - np.count_nonzero(sure))]
    return len(united), united.take(order)


def fused_scores(ranks: npt.NDArray[np.int32]) -> Floats:
    """Reciprocal rank fusion of int32 [S, n] ranks, -1 = not proposed: float32 [n]."""
    reciprocal = np.where(ranks >= 0, 1.0 / (_RRF_K + 1 + ranks), 0.0)
    return reciprocal.sum(axis=0, dtype=np.float64).astype(np.float32)


def _unite(proposals: Sequence[SourceCandidates]) -> Candidates:
    """All proposed items once, by ascending key, with every source's score and rank."""
    columns = [one.keys for one in proposals]
    keys, inverse = np.unique(
        np.concatenate(columns or [np.empty(0, np.uint64)]), return_inverse=True
    )
    shape = (len(proposals), len(keys))
    scores, ranks = np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int32)
    sources = np.zeros(len(keys), np.uint32)
    rows_of = np.split(inverse, np.cumsum([len(column) for column in columns])[:-1])
    for bit, (one, rows) in enumerate(zip(proposals, rows_of, strict=False)):
        scores[bit, rows] = one.scores
        ranks[bit, rows] = np.arange(len(rows))
        sources[rows] |= np.uint32(1 << bit)
    return Candidates(
        keys=keys,
        source_names=tuple(one.source for one in proposals),
        sources=sources,
        scores=scores,
        ranks=ranks,
    )
