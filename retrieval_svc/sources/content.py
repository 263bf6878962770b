"""Items that are made like what the user liked: also such that nobody has liked yet."""

from __future__ import annotations

from typing import Self

import numpy as np

from retrieval_svc.brute_force import Floats, Hits, Index
from retrieval_svc.index import load_source_index
from retrieval_svc.rows import Keys, rows_of
from retrieval_svc.sources.base import NO_HITS, SliceView, SourceQuery
from retrieval_svc.sources.history import Recency
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.tiers import History

__all__ = ["ContentSource", "ContentTaste", "content_vectors"]

_UNIT_TOLERANCE = 1e-3


class ContentTaste:
    """What a user likes, as a direction in the space of contents."""

    def __init__(
        self, recency: Recency, keys: Keys, vectors: Floats, everybody: Floats | None = None
    ) -> None:
        self._recency = recency
        self._keys = keys  # uint64 [N], ascending
        self._vectors = vectors  # float32 [N, d], unit length or zero
        self._everybody = everybody  # float32 [d], the taste of whom nothing is known of

    @classmethod
    def open(cls, view: SliceView) -> Self:
        keys, vectors = view.shared_keys(), view.array("vectors", np.float32, 2)
        if len(keys) != len(vectors):
            raise ArtifactCorrupt(
                f"{view.shared_path('vectors')}: {len(vectors)} rows for {len(keys)} keys"
            )
        everybody = None
        if "everybody" in view.shared.arrays:
            everybody = view.array("everybody", np.float32)
            if everybody.shape != vectors.shape[1:]:
                raise ArtifactCorrupt(
                    f"{view.shared_path('everybody')}: {len(everybody)} dimensions, "
                    f"not the {vectors.shape[1]} of the vectors"
                )
        return cls(Recency.of(view), keys, vectors, everybody)

    @property
    def dim(self) -> int:
        return int(self._vectors.shape[1])

    def of(self, history: History) -> Floats | None:
        """float32 [d], the unit vector along the mean of the liked items' vectors.

        When no liked item has content, or they have nothing in common, what everybody likes now;
        None where that is not known.
        """
        liked = self._recency.liked(history)
        rows, known = rows_of(self._keys, liked.keys)
        if not known.any():
            return self._everybody
        mean = liked.shares[known] @ self._vectors[rows[known]].astype(np.float64)
        length = float(np.linalg.norm(mean))
        return (mean / length).astype(np.float32) if length > 1e-9 else self._everybody


class ContentSource:
    """Scores are cosines between the user's taste and the item."""

    name = "content"

    def __init__(self, taste: ContentTaste, index: Index) -> None:
        self._taste = taste
        self._index = index

    @classmethod
    def open(cls, view: SliceView) -> Self:
        taste = ContentTaste.open(view)
        vectors = content_vectors(view, taste.dim)
        return cls(taste, load_source_index(view.index_folder, vectors))

    def propose(self, query: SourceQuery, k: int) -> Hits:
        taste = self._taste.of(query.user.history)
        return NO_HITS if taste is None else self._index.search(taste, k, query.allowed)


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
