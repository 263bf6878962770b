"""Who liked this also liked that: a list of similar items for every item that was liked.

cosine    Sarwar et al., WWW 2001; shrunk as by Bell & Koren, KDD Cup 2007
bm25      Robertson & Zaragoza 2009, with items as documents and users as words
rp3beta   Paudel et al., TiiS 2017: a random walk item - user - item, less for popular ends
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from retrieval_svc.source_data import PostingLists, SharedData, SourceData
from shortlist.config import CooccurrenceConfig
from training.sources.base import (
    Absent,
    Floats,
    Rows,
    SourceLesson,
    TrainedSource,
    liked_matrix,
    newest_per_user,
)
from training.sparse_top import top_per_row

__all__ = ["train"]

NAME = "cooccurrence"
_USER_CAP = 500  # newest items of a user that co-occur: heavy users cost quadratic work
_BM25_K, _BM25_B = 1.2, 0.75  # the constants of the book
_PRODUCTS = 20_000_000  # multiplications at a time: bounds the memory of a product


def train(lesson: SourceLesson) -> TrainedSource | Absent:
    """Lists from the newest likes of every user."""
    liked = lesson.liked
    if len(liked) == 0:
        return Absent(name=NAME, reason="no positive interactions")
    rows = newest_per_user(lesson.dataset.events.user[liked], liked, _USER_CAP)
    seen = liked_matrix(lesson, rows)
    seen.data[:] = 1  # who liked it, not how often
    config = lesson.config.cooccurrence
    walk = _walk(seen, config)
    blocks: list[tuple[Rows, npt.NDArray[np.int32], Floats]] = []
    for start, stop in _blocks(seen):
        together = (walk.there[start:stop] @ walk.back).tocsr()
        if walk.shrinkage:
            _shrink(together, seen, start, stop, walk.shrinkage)
        blocks.append(_best(together, start, config.neighbours))
        lesson.progress(stop, seen.shape[1])
    items, others, weights = (np.concatenate(column) for column in zip(*blocks, strict=True))
    if len(items) == 0:
        return Absent(name=NAME, reason="no user liked two items")
    timed = lesson.dataset.has_time
    return TrainedSource(
        name=NAME,
        data=SourceData(
            lists={"similar": PostingLists.of(lesson.dataset.item_keys[items], others, weights)}
        ),
        shared=SharedData(
            settings={
                "half_life_events": config.half_life_events if timed else None,
                "history": lesson.history["history"],
            }
        ),
        notes={"lists": len(np.unique(items)), "postings": len(items)},
    )


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """Similarity of items i, j = sum over users u of there[i, u] back[u, j]."""

    there: sp.csr_matrix  # items x users
    back: sp.csr_matrix  # users x items
    shrinkage: float = 0.0


def _walk(seen: sp.csr_matrix, config: CooccurrenceConfig) -> _Walk:
    per_user = np.maximum(np.diff(seen.indptr), 1).astype(np.float32)
    per_item = np.maximum(np.bincount(seen.indices, minlength=seen.shape[1]), 1).astype(np.float32)
    if config.weighting == "rp3beta":
        from_item, via_user = per_item**-config.alpha, per_user**-config.alpha
        return _Walk(
            there=_scaled(seen, rows=via_user, columns=from_item).T.tocsr(),
            back=_scaled(seen, columns=per_item**-config.beta),
        )
    if config.weighting == "bm25":
        users_idf = np.log1p(seen.shape[1] / per_user)
        length = 1 - _BM25_B + _BM25_B * per_item / per_item.mean()
        weighted = _scaled(seen, rows=users_idf, columns=(_BM25_K + 1) / (_BM25_K * length + 1))
        return _Walk(there=weighted.T.tocsr(), back=weighted)
    unit = _scaled(seen, columns=per_item**-0.5)
    return _Walk(there=unit.T.tocsr(), back=unit, shrinkage=config.shrinkage)


def _scaled(
    matrix: sp.csr_matrix,
    *,
    rows: npt.NDArray[np.floating] | None = None,
    columns: npt.NDArray[np.floating],
) -> sp.csr_matrix:
    data = matrix.data * columns[matrix.indices]
    if rows is not None:
        data *= np.repeat(rows, np.diff(matrix.indptr))
    return sp.csr_matrix(
        (data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape
    )


def _blocks(seen: sp.csr_matrix) -> Iterator[tuple[int, int]]:
    """Spans of items whose products have about `_PRODUCTS` multiplications each."""
    cost = np.cumsum(seen.T @ np.diff(seen.indptr).astype(np.float64))
    edges = np.searchsorted(cost, np.arange(_PRODUCTS, cost[-1], _PRODUCTS)) + 1
    edges = np.unique(np.concatenate([[0], edges, [seen.shape[1]]]))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def _shrink(
    together: sp.csr_matrix, seen: sp.csr_matrix, start: int, stop: int, shrinkage: float
) -> None:
    """Times n / (n + shrinkage), n = users that the two items share."""
    per_item = np.maximum(np.bincount(seen.indices, minlength=seen.shape[1]), 1) ** 0.5
    counts = together.data * per_item[together.indices]
    counts *= np.repeat(per_item[start:stop], np.diff(together.indptr))
    together.data *= (counts / (counts + shrinkage)).astype(np.float32)


def _best(
    together: sp.csr_matrix, start: int, most: int
) -> tuple[Rows, npt.NDArray[np.int32], Floats]:
    """The `most` best others of each item of a block: items, others and weights, aligned."""
    together.setdiag(0, k=start)  # an item says nothing of itself
    together.eliminate_zeros()
    top = top_per_row(together, most)
    items = np.repeat(np.arange(start, start + top.shape[0]), np.diff(top.indptr))
    return items, top.indices, top.data
