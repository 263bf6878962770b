"""Matrix factorisation of who liked what, with a user's factor made from the live history.

Hu, Koren & Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from retrieval_svc.brute_force import Floats, Hits, Index
from retrieval_svc.index import load_source_index
from retrieval_svc.rows import Keys, rows_of
from retrieval_svc.sources.base import NO_HITS, SliceView, SourceQuery
from retrieval_svc.sources.history import Liked, Recency
from shortlist.errors import ArtifactCorrupt, ArtifactRefused
from shortlist.tiers import History

__all__ = ["FoldIn", "MfSource"]

# Of one item: beyond it, solving in float64 would no longer see the gram matrix beside the item.
_MOST_CONFIDENCE = 1e6


class FoldIn:
    """A user's factor from a history: one half-step of alternating least squares.

    x = (G + sum_i c_i y_i y_i')^-1 sum_i (1 + c_i) y_i,  c_i = confidence * strength of item i,
    G = Y'Y + regularisation * I.
    """

    def __init__(self, *, keys: Keys, factors: Floats, gram: Floats, confidence: float) -> None:
        self._keys = keys  # uint64 [N], ascending
        self._factors = factors  # float32 [N, d]
        self._gram = gram.astype(np.float64)  # [d, d], positive definite
        self._confidence = confidence

    @classmethod
    def open(cls, view: SliceView) -> Self:
        keys, factors = view.shared_keys(), view.array("factors", np.float32, 2)
        gram, dim = view.array("gram", np.float32, 2), factors.shape[1]
        if len(factors) != len(keys):
            raise ArtifactCorrupt(
                f"{view.shared_path('factors')}: {len(factors)} rows for {len(keys)} keys"
            )
        _check_gram(gram, dim, view.shared_path("gram"))
        confidence = view.number("confidence")
        if confidence < 0:
            raise ArtifactCorrupt(f"{view.artifact}/mf/settings.json: confidence {confidence} < 0")
        return cls(keys=keys, factors=factors, gram=gram, confidence=confidence)

    @property
    def dim(self) -> int:
        return int(self._factors.shape[1])

    def factor(self, liked: Liked) -> Floats | None:
        """float32 [d]; None when no item of `liked` has a factor."""
        rows, known = rows_of(self._keys, liked.keys)
        items: npt.NDArray[Any] = self._factors[rows[known]].astype(np.float64)
        if not items.any():
            return None
        confidence = np.minimum(self._confidence * liked.strengths[known], _MOST_CONFIDENCE)
        system = self._gram + (items.T * confidence) @ items
        factor: npt.NDArray[Any] = np.linalg.solve(system, (1 + confidence) @ items)
        return factor.astype(np.float32)


class MfSource:
    """Scores are dot products of the user's and the item's factor."""

    name = "mf"

    def __init__(self, recency: Recency, fold_in: FoldIn, index: Index) -> None:
        self._recency = recency
        self._fold_in = fold_in
        self.index = index

    @classmethod
    def open(cls, view: SliceView) -> Self:
        return cls._of(Recency.of(view), FoldIn.open(view), view)

    def over(self, view: SliceView) -> Self:
        return self._of(self._recency, self._fold_in, view)

    @classmethod
    def _of(cls, recency: Recency, fold_in: FoldIn, view: SliceView) -> Self:
        vectors = view.column("vectors", np.float32, 2)
        if vectors.shape[1] != fold_in.dim:
            raise ArtifactCorrupt(
                f"{view.slice_folder}/mf/vectors.npy: {vectors.shape[1]} dimensions, "
                f"but the shared factors have {fold_in.dim}"
            )
        return cls(recency, fold_in, load_source_index(view.index_folder, vectors))

    def exact(self) -> Self:
        return type(self)(self._recency, self._fold_in, self.index.exact)

    def propose(self, query: SourceQuery, k: int) -> Hits:
        factor = query.once("mf/user", lambda: self._factor(query.user.history))
        return NO_HITS if factor is None else self.index.search(factor, k, query.allowed)

    def _factor(self, history: History) -> Floats | None:
        return self._fold_in.factor(self._recency.liked(history))


def _check_gram(gram: Floats, dim: int, path: Path) -> None:
    """Refuse what is no Gram matrix: the system to solve would not have one solution."""
    if gram.shape != (dim, dim):
        raise ArtifactCorrupt(f"{path}: has shape {gram.shape} instead of {(dim, dim)}")
    matrix = gram.astype(np.float64)
    if not np.allclose(matrix, matrix.T, rtol=1e-4, atol=1e-5 * np.abs(matrix).max(initial=0)):
        raise ArtifactRefused(f"{path}: is not symmetric")
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise ArtifactRefused(f"{path}: is not positive definite") from None
