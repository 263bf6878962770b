"""Building and opening the index of one slice: exact where that is fast enough, else ScaNN."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from retrieval_svc.brute_force import BruteForceIndex, Floats, Hits, Index
from retrieval_svc.rows import EVERY_ROW, Allowed, RowMask, Rows, places_of
from retrieval_svc.scann_index import (
    ScannIndex,
    ScannSettings,
    ScannUnavailable,
    train_searcher,
)
from retrieval_svc.scann_tuning import build_scann
from shortlist.errors import ArtifactRefused

__all__ = [
    "BruteForceIndex",
    "Hits",
    "Index",
    "IndexReport",
    "ScannIndex",
    "ScannUnavailable",
    "SubsetIndex",
    "build_index",
    "build_source_index",
    "check_vectors",
    "load_index",
    "load_source_index",
    "rebuild_source_index",
]

# A tree of a few leaves saves nothing, and ScaNN's training wants points enough for a codebook.
_FEWEST_FOR_SCANN = 1024
_QUERIES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexReport:
    """How an index came out. For an exact index the last four are 0."""

    kind: str  # "exact" or "scann"
    reason: str  # why it is of that kind
    items: int
    dim: int
    k: int  # what the recall was measured at
    recall: float  # share of the true best k that is found
    build_s: float
    leaves: int = 0
    leaves_to_search: int = 0
    reorder: int = 0


def build_index(
    vectors: Floats,
    folder: Path,
    *,
    exact_below: int,
    recall_target: float,
    k: int,
    seed: int,
    queries: Floats | None = None,
    threads: int = 1,
) -> IndexReport:
    """Build the index of one slice into `folder`; an exact index needs no files and writes none.

    Args:
        vectors: float32 [n, dim], contiguous, finite, none of length 0. n = 0 is an empty slice.
        folder: where the files go; must not exist or be empty.
        exact_below: with fewer rows than this the index is exact.
        recall_target: least recall at `k`, 0 to 1; exact if ScaNN does not reach it.
        k: how many hits a query will ask for.
        seed: of the sampled queries. ScaNN seeds itself: two builds differ a little.
        queries: float32 [q, dim], real user vectors to tune with, at least 2. Default: mixtures of
            items, which are harder than items and about as hard as users.
        threads: for training the tree.

    Raises:
        ArtifactRefused: `vectors` or `queries` is not what is asked for above. ScaNN never sees
            such vectors: a NaN would abort the process.
        ScannUnavailable: the package is missing.
    """
    started = time.perf_counter()
    check_vectors(vectors, "vectors")
    items, dim = vectors.shape
    if reason := _why_exact(items, exact_below, k):
        return _exact_report(vectors, k, reason, started)
    queries = _mixtures(vectors, seed) if queries is None else queries
    check_vectors(queries, "queries")
    index = build_scann(vectors, recall_target=recall_target, k=k, queries=queries, threads=threads)
    chosen = index.settings
    if chosen.recall < recall_target:
        reason = f"ScaNN's recall {chosen.recall:.4f} is below {recall_target}"
        return _exact_report(vectors, k, reason, started)
    index.save(folder)
    return IndexReport(
        kind=index.kind,
        reason=f"{items} items",
        items=items,
        dim=dim,
        k=k,
        recall=chosen.recall,
        build_s=time.perf_counter() - started,
        leaves=chosen.leaves,
        leaves_to_search=chosen.leaves_to_search,
        reorder=chosen.reorder,
    )


def load_index(folder: Path, vectors: Floats) -> Index:
    """The index that `build_index` made of `vectors`; without a folder it is an exact one.

    Raises `ArtifactCorrupt`, `ArtifactRefused` or `ScannUnavailable`.
    """
    return ScannIndex.load(folder, vectors) if folder.exists() else BruteForceIndex(vectors)


class SubsetIndex:
    """An index of some rows of a slice, asked and answering in the row numbers of the slice."""

    def __init__(self, inner: Index, rows: Rows) -> None:
        self._inner = inner
        self._rows = rows  # int64 [m], ascending; row j of `inner` is row rows[j] of the slice
        self._narrowed: WeakKeyDictionary[RowMask, RowMask] = WeakKeyDictionary()

    @property
    def kind(self) -> str:
        return self._inner.kind

    @property
    def exact(self) -> SubsetIndex:
        return SubsetIndex(self._inner.exact, self._rows)

    def search(self, query: Floats, k: int, allowed: Allowed = EVERY_ROW) -> Hits:
        mine = Allowed(
            exclude=places_of(self._rows, allowed.exclude), mask=self._narrow(allowed.mask)
        )
        hits, scores = self._inner.search(query, k, mine)
        return self._rows[hits], scores

    def _narrow(self, mask: RowMask | None) -> RowMask | None:
        """The mask of the slice as one of `inner`; remembered as long as the slice's is in use."""
        if mask is None:
            return None
        found = self._narrowed.get(mask)
        if found is None:
            found = self._narrowed[mask] = RowMask(mask.passes[self._rows])
        return found


def build_source_index(vectors: Floats, folder: Path, **options: Any) -> IndexReport:
    """`build_index` of the rows that are not zero: a zero row is an item that a source knows
    nothing of. `options` are those of `build_index`; the report counts the rows indexed.
    """
    rows = _rows_with_content(vectors)
    if rows is not None:
        vectors = np.ascontiguousarray(vectors[rows])
    return build_index(vectors, folder, **options)


def rebuild_source_index(vectors: Floats, folder: Path, like: ScannSettings, threads: int) -> None:
    """Index the rows of `vectors` that are not zero with the settings of an older index, untuned.

    With too few rows for a tree nothing is written: `load_source_index` then searches exactly.
    Raises `ArtifactRefused` for vectors that are not finite, or `ScannUnavailable`.
    """
    rows = _rows_with_content(vectors)
    if rows is not None:
        vectors = np.ascontiguousarray(vectors[rows])
    if _why_exact(len(vectors), 0, like.k):
        return
    check_vectors(vectors, "vectors")
    searcher = train_searcher(vectors, like.k, threads)
    ScannIndex(searcher, vectors, like.of_size(len(vectors))).save(folder)


def load_source_index(folder: Path, vectors: Floats) -> Index:
    """The index that `build_source_index` made of `vectors`; it never finds zero rows.

    Raises `ArtifactCorrupt`, `ArtifactRefused` or `ScannUnavailable`.
    """
    rows = _rows_with_content(vectors)
    if rows is None:
        return load_index(folder, vectors)
    return SubsetIndex(load_index(folder, np.ascontiguousarray(vectors[rows])), rows)


def check_vectors(vectors: Floats, name: str) -> None:
    """Raise `ArtifactRefused`, naming the row, unless all rows are finite and none has length 0."""
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ArtifactRefused(
            f"{name}: must be float32 [rows, dim], got {vectors.dtype} {vectors.shape}"
        )
    if not vectors.flags.c_contiguous:
        raise ArtifactRefused(f"{name}: must be contiguous, row by row")
    # One pass: a NaN or Inf anywhere in a row shows in its length.
    lengths = np.einsum("ij,ij->i", vectors, vectors)
    if (bad := np.flatnonzero(~np.isfinite(lengths))).size:
        raise ArtifactRefused(f"{name}: row {bad[0]} holds a NaN or Inf ({bad.size} such rows)")
    if (bad := np.flatnonzero(lengths == 0)).size:
        raise ArtifactRefused(f"{name}: row {bad[0]} is a zero vector ({bad.size} such rows)")


def _rows_with_content(vectors: Floats) -> Rows | None:
    """The rows that are not zero, ascending; None for all."""
    some = vectors.any(axis=1)
    return None if some.all() else np.flatnonzero(some)


def _why_exact(items: int, exact_below: int, k: int) -> str:
    if items < exact_below:
        return f"{items} items, fewer than {exact_below}"
    if items < _FEWEST_FOR_SCANN:
        return f"{items} items, too few for a tree"
    return f"{items} items, {k} wanted of them" if k >= items else ""


def _exact_report(vectors: Floats, k: int, reason: str, started: float) -> IndexReport:
    items, dim = vectors.shape
    return IndexReport(
        kind=BruteForceIndex.kind,
        reason=reason,
        items=items,
        dim=dim,
        k=k,
        recall=1.0,
        build_s=time.perf_counter() - started,
    )


def _mixtures(vectors: Floats, seed: int) -> Floats:
    """float32 [q, dim], half of them items, half between two items.

    A user with two tastes lies between clusters, where a tree has to search more leaves.
    """
    rng = np.random.default_rng(seed)
    first, second = vectors[rng.integers(len(vectors), size=(2, _QUERIES))]
    mixed = np.where(np.arange(_QUERIES)[:, None] % 2 == 0, first, first + second)
    lengths, least = (np.linalg.norm(one, axis=1, keepdims=True) for one in (mixed, first))
    # Opposite items cancel out.
    return np.ascontiguousarray(np.where(lengths > 1e-3 * least, mixed, first), np.float32)
