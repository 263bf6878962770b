"""The `Index` protocol and the exact index that all others are measured against."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from retrieval_svc.rows import EVERY_ROW, NO_ROWS, Allowed, Rows
from shortlist.errors import InvalidField

__all__ = ["BruteForceIndex", "Floats", "Hits", "Index", "best", "check_query"]

Floats = npt.NDArray[np.float32]

Hits = tuple[Rows, Floats]
"""Rows int64 [k'], best first, and their dot products float32 [k']."""


# With a smaller share of the rows than this, to gather them is faster than to score them all:
# 4.6 ms against 6.2 ms for 60 k of 200 k x 64, 1.0 ms against 9.8 ms for 20 k.
_FEW = 0.3
_PIECE = 2048  # rows gathered at once: half a megabyte of 64 dimensions


class Index(Protocol):
    """Finds the rows with the largest dot products."""

    @property
    def kind(self) -> str:
        """`exact` or `scann`."""
        ...

    @property
    def exact(self) -> Index:
        """One over the same rows that misses nothing."""
        ...

    def search(self, query: Floats, k: int, allowed: Allowed = EVERY_ROW) -> Hits:
        """The best `k` rows for `query` of those that are allowed.

        Fewer than `k` come back only when no more are allowed. Scores are exact float32 dot
        products whatever the index is, so hits of several shards may be merged by score.

        Args:
            query: float32 [dim], finite.
            k: at least 1; may exceed the number of rows.
            allowed: which rows may come back.

        Raises:
            InvalidField: `query` has another dimension, or a NaN or Inf.
        """
        ...


class BruteForceIndex:
    """Every allowed dot product, then a partial sort: exact, deterministic, O(n dim)."""

    kind = "exact"

    def __init__(self, vectors: Floats) -> None:
        self._vectors = vectors  # float32 [n, dim]

    @property
    def exact(self) -> BruteForceIndex:
        return self

    def search(self, query: Floats, k: int, allowed: Allowed = EVERY_ROW) -> Hits:
        check_query(query, self._vectors.shape[1])
        n = len(self._vectors)
        count = allowed.count(n)
        if count < _FEW * n:
            rows = allowed.rows(n)
            scores = _scores_of(self._vectors, rows, query)
            top = best(scores, min(k, count))
            return rows[top], scores[top]
        scores = self._vectors @ query
        if allowed.mask is not None:
            scores[~allowed.mask.passes] = -np.inf
        scores[allowed.exclude] = -np.inf
        top = best(scores, min(k, count))
        return top, scores[top]


def _scores_of(vectors: Floats, rows: Rows, query: Floats) -> Floats:
    """float32 [len(rows)], in pieces that stay in the cache."""
    scores = np.empty(len(rows), np.float32)
    for first in range(0, len(rows), _PIECE):
        piece = slice(first, first + _PIECE)
        scores[piece] = vectors.take(rows[piece], axis=0) @ query
    return scores


def best(scores: Floats, k: int) -> Rows:
    """int64 [k]: the places of the `k` largest scores, descending; equal scores in row order."""
    if k <= 0:
        return NO_ROWS
    if k < len(scores):
        places = _places_of_largest(scores, k)
        return places[np.argsort(-scores[places], kind="stable")]
    return np.argsort(-scores, kind="stable")[:k]


def _places_of_largest(scores: Floats, k: int) -> Rows:
    """The same as a partition, but ties at the border go to the lowest rows, not to any."""
    border = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = np.flatnonzero(scores > border)
    at_border = np.flatnonzero(scores == border)[: k - len(above)]
    return np.sort(np.concatenate([above, at_border]))


def check_query(query: Floats, dim: int) -> None:
    """Raise `InvalidField` unless `query` is a finite vector of `dim` numbers."""
    if query.shape != (dim,):
        raise InvalidField("vector", f"must have shape ({dim},), got {query.shape}")
    if not np.isfinite(query).all():
        raise InvalidField("vector", "holds a NaN or Inf")
