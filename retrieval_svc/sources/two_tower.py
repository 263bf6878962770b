"""Items near the user in the space that both towers of one artifact share."""

from __future__ import annotations

from typing import Self

from retrieval_svc.brute_force import Hits, Index
from retrieval_svc.encoder import UserEncoder
from retrieval_svc.index import load_index
from retrieval_svc.sources.base import SliceView, SourceQuery

__all__ = ["TwoTowerSource"]


class TwoTowerSource:
    """Scores are dot products of user and item vector (Yi et al., RecSys 2019)."""

    name = "two_tower"

    def __init__(self, encoder: UserEncoder, index: Index) -> None:
        self._encoder = encoder
        self._index = index

    @classmethod
    def open(cls, view: SliceView) -> Self:
        encoder = UserEncoder.open(view.artifact / "tower")
        return cls(encoder, load_index(view.index_folder, view.vectors))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        return self._index.search(self._encoder.encode(query.user), k, query.allowed)
