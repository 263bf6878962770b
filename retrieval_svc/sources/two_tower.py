"""Items near the user in the space that both towers of one artifact share."""

from __future__ import annotations

from typing import Self

from retrieval_svc.brute_force import Floats, Hits, Index
from retrieval_svc.encoder import UserEncoder
from retrieval_svc.index import load_index
from retrieval_svc.source_data import SourceData
from retrieval_svc.sources.base import NO_HITS, CatalogueItems, Describer, SliceView, SourceQuery
from shortlist.tiers import UserContext

__all__ = ["TwoTowerSource"]


class TwoTowerSource:
    """Scores are dot products of user and item vector (Yi et al., RecSys 2019)."""

    name = "two_tower"

    def __init__(self, encoder: UserEncoder, index: Index) -> None:
        self._encoder = encoder
        self.index = index

    @classmethod
    def open(cls, view: SliceView) -> Self:
        encoder = UserEncoder.open(view.artifact / "tower")
        return cls(encoder, load_index(view.index_folder, view.vectors))

    def over(self, view: SliceView) -> Self:
        return type(self)(self._encoder, load_index(view.index_folder, view.vectors))

    def exact(self) -> Self:
        return type(self)(self._encoder, self.index.exact)

    def describer(self, view: SliceView) -> Describer:
        del view  # the encoder knows every item
        return _TowerDescriber(self._encoder)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        vector = query.once("two_tower/user", lambda: self._vector(query.user))
        return NO_HITS if vector is None else self.index.search(vector, k, query.allowed)

    def _vector(self, user: UserContext) -> Floats | None:
        """None of a user of whom nothing is known: popularity is what popular is for."""
        return self._encoder.encode(user) if self._encoder.tells_apart(user) else None


class _TowerDescriber:
    """The vectors are part of the slice; the source has nothing else of an item."""

    def __init__(self, encoder: UserEncoder) -> None:
        self._encoder = encoder

    def describe(self, items: CatalogueItems) -> SourceData:
        del items  # their vectors are the slice's
        return SourceData()

    def remember(self, items: CatalogueItems, data: SourceData) -> None:
        del data
        self._encoder.items.add(items.keys, items.vectors)
