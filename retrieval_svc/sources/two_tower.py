"""Items near the user in the space that both towers of one artifact share."""

from __future__ import annotations

from typing import Protocol

from retrieval_svc.brute_force import Floats, Hits, Index
from retrieval_svc.sources.base import SourceQuery
from shortlist.tiers import UserContext

__all__ = ["Encoder", "TwoTowerSource"]


class Encoder(Protocol):
    """A user tower."""

    def encode(self, user: UserContext) -> Floats:
        """float32 [dim], unit length; an empty history is a user like any other."""
        ...


class TwoTowerSource:
    """Scores are dot products of user and item vector (Yi et al., RecSys 2019)."""

    name = "two_tower"

    def __init__(self, encoder: Encoder, index: Index) -> None:
        self._encoder = encoder
        self._index = index

    def propose(self, query: SourceQuery, k: int) -> Hits:
        return self._index.search(self._encoder.encode(query.user), k, query.exclude)
