"""Items that are made like what the user liked: also such that nobody has liked yet."""

from __future__ import annotations

from typing import Self

import numpy as np

from retrieval_svc.brute_force import Floats, Hits, Index
from retrieval_svc.content_encoder import ContentEncoder
from retrieval_svc.index import load_source_index
from retrieval_svc.item_vectors import ItemVectors
from retrieval_svc.rows import Keys
from retrieval_svc.source_data import SourceData
from retrieval_svc.sources.base import (
    NO_HITS,
    CatalogueItems,
    Describer,
    SliceView,
    SourceQuery,
)
from retrieval_svc.sources.history import Recency
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.features import FeatureEncoder
from shortlist.tiers import History

__all__ = ["ContentSource", "ContentTaste", "content_vectors"]

_UNIT_TOLERANCE = 1e-3


class ContentTaste:
    """What a user likes, as a direction in the space of contents."""

    def __init__(
        self,
        recency: Recency,
        keys: Keys,
        vectors: Floats,
        *,
        everybody: Floats | None = None,
        typical: Floats | None = None,
    ) -> None:
        self._recency = recency
        # Keys uint64 [N], ascending; float32 [N, d], unit length or zero.
        self.items = ItemVectors(keys, vectors)
        self.everybody = everybody  # float32 [d], the taste of whom nothing is known of
        # float32 [d]: what liking anything at all has in it, which says nothing of a taste.
        self.typical = np.zeros(self.dim, np.float32) if typical is None else typical

    @classmethod
    def open(cls, view: SliceView) -> Self:
        keys, vectors = view.shared_keys(), view.array("vectors", np.float32, 2)
        if len(keys) != len(vectors):
            raise ArtifactCorrupt(
                f"{view.shared_path('vectors')}: {len(vectors)} rows for {len(keys)} keys"
            )
        return cls(
            Recency.of(view),
            keys,
            vectors,
            everybody=_direction(view, "everybody", vectors.shape[1]),
            typical=_direction(view, "typical", vectors.shape[1]),
        )

    @property
    def dim(self) -> int:
        return self.items.dim

    def once(self, query: SourceQuery) -> Floats | None:
        """`of` the query's user, whichever source asks first."""
        return query.once("content/taste", lambda: self.of(query.user.history))

    def of(self, history: History) -> Floats | None:
        """float32 [d], the unit vector along the mean of the liked items' vectors, less what is
        typical of any item (Rocchio 1971).

        When no liked item has content, or they have nothing in common, what everybody likes now;
        None where that is not known.
        """
        liked = self._recency.liked(history)
        vectors, known = self.items.of(liked.keys)
        if not known.any():
            return self.everybody
        shares = liked.shares[known]
        mean = shares @ vectors.astype(np.float64) - shares.sum() * self.typical
        length = float(np.linalg.norm(mean))
        return (mean / length).astype(np.float32) if length > 1e-9 else self.everybody


def _direction(view: SliceView, name: str, dim: int) -> Floats | None:
    """float32 [dim] that all shards share; None in a version that has none."""
    if name not in view.shared.arrays:
        return None
    values = view.array(name, np.float32)
    if values.shape != (dim,):
        raise ArtifactCorrupt(
            f"{view.shared_path(name)}: {len(values)} dimensions, not the {dim} of the vectors"
        )
    return values


class ContentSource:
    """Scores are cosines between the user's taste and the item."""

    name = "content"

    def __init__(self, taste: ContentTaste, index: Index) -> None:
        self._taste = taste
        self.index = index

    @classmethod
    def open(cls, view: SliceView) -> Self:
        return cls._of(ContentTaste.open(view), view)

    def over(self, view: SliceView) -> Self:
        return self._of(self._taste, view)

    @classmethod
    def _of(cls, taste: ContentTaste, view: SliceView) -> Self:
        vectors = content_vectors(view, taste.dim)
        return cls(taste, load_source_index(view.index_folder, vectors))

    def describer(self, view: SliceView) -> Describer:
        return _ContentDescriber(_encoder_of(view), self._taste.items)

    def exact(self) -> Self:
        return type(self)(self._taste, self.index.exact)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        taste = self._taste.once(query)
        return NO_HITS if taste is None else self.index.search(taste, k, query.allowed)


class _ContentDescriber:
    """Vectors of what is said of items."""

    def __init__(self, encoder: ContentEncoder | None, known: ItemVectors) -> None:
        self._encoder = encoder
        self._known = known

    def describe(self, items: CatalogueItems) -> SourceData:
        vectors = np.zeros((len(items), self._known.dim), np.float32)
        if self._encoder is not None:
            vectors = self._encoder.encode(items.columns, len(items))
        return SourceData(columns={"vectors": vectors})

    def remember(self, items: CatalogueItems, data: SourceData) -> None:
        self._known.add(items.keys, data.columns["vectors"])


def _encoder_of(view: SliceView) -> ContentEncoder | None:
    """None of a version from before items could be encoded: nothing is said of changed ones."""
    if "basis" not in view.shared.arrays:
        return None
    return ContentEncoder(
        features=FeatureEncoder.of_document(
            view.shared.settings.get("items"), str(view.shared_path("items"))
        ),
        idf=view.array("idf", np.float32),
        basis=view.array("basis", np.float32, 2),
    )


def content_vectors(view: SliceView, dim: int) -> Floats:
    """float32 [n, dim] of the slice, each of unit length, or zero where an item has no content."""
    path = view.slice_folder / view.source / "vectors.npy"
    vectors = view.column("vectors", np.float32, 2)
    if vectors.shape[1] != dim:
        raise ArtifactCorrupt(f"{path}: {vectors.shape[1]} dimensions, not the {dim} of the others")
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if (bad := np.flatnonzero((lengths > 0) & (np.abs(lengths - 1) > _UNIT_TOLERANCE))).size:
        raise ArtifactRefused(f"{path}: row {bad[0]} has length {lengths[bad[0]]:.4f}, not 0 or 1")
    return vectors
