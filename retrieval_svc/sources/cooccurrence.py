"""Items that others liked together with what this user liked."""

from __future__ import annotations

from typing import Self

from retrieval_svc.brute_force import Hits
from retrieval_svc.source_data import PostingLists
from retrieval_svc.sources.base import SliceView, SourceQuery
from retrieval_svc.sources.history import Recency

__all__ = ["CooccurrenceSource"]


class CooccurrenceSource:
    """Scores are mean similarities to the history, newer items counting more.

    Item-based collaborative filtering: Sarwar et al., WWW 2001.
    """

    name = "cooccurrence"

    def __init__(self, recency: Recency, similar: PostingLists) -> None:
        self._recency = recency
        self._similar = similar  # from any shard's item to items of this slice

    @classmethod
    def open(cls, view: SliceView) -> Self:
        return cls(Recency.of(view), view.lists("similar"))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        liked = self._recency.liked(query.user.history)
        return self._similar.best(liked.keys, liked.shares, k, query.allowed)
