"""Measures of ranked lists. A list holds item rows, best first; `relevant` is a set of rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["auc", "catalogue_coverage", "intra_list_diversity", "ndcg", "recall"]


def recall(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Share of the relevant items among the first `k`; `relevant` must not be empty."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def ndcg(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Normalised discounted cumulative gain with gains 0 and 1 (Jarvelin & Kekalainen 2002)."""
    wanted = set(relevant)
    gain = sum(1 / np.log2(rank + 2) for rank, item in enumerate(ranked[:k]) if item in wanted)
    ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(wanted))))
    return float(gain / ideal)


def auc(scores: npt.NDArray[np.float32], liked: npt.NDArray[np.bool_]) -> float:
    """Chance that a liked row scores above another, ties count half; NaN without both kinds."""
    positives, negatives = int(liked.sum()), int((~liked).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # 1 = smallest, ties share their mean
    above = ranks[liked].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def catalogue_coverage(lists: Iterable[Iterable[int]], items: int) -> float:
    """Share of the catalogue that is on at least one list."""
    return len({item for one in lists for item in one}) / items


def intra_list_diversity(ranked: Sequence[int], vectors: npt.NDArray[np.float32]) -> float:
    """Mean of 1 - cosine over the pairs of a list; `vectors` are of unit length, one an item.

    Ziegler et al., WWW 2005. NaN for a list of fewer than two.
    """
    n = len(ranked)
    if n < 2:
        return float("nan")
    chosen = vectors[np.asarray(ranked)].astype(np.float64)
    cosines = (np.square(chosen.sum(axis=0)).sum() - n) / (n * (n - 1))
    return float(1 - cosines)
