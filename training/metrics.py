"""Measures of ranked lists. A list holds item rows, best first; `relevant` is a set of rows.

Recall, nDCG and reciprocal rank are those of trec_eval with gains 0 and 1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "auc",
    "catalogue_coverage",
    "gini",
    "intra_list_diversity",
    "log_loss",
    "ndcg",
    "recall",
    "reciprocal_rank",
    "self_information",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


def recall(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Share of the relevant items among the first `k`; `relevant` must not be empty."""
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def ndcg(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Normalised discounted cumulative gain with gains 0 and 1 (Jarvelin & Kekalainen 2002)."""
    wanted = set(relevant)
    gain = sum(1 / np.log2(rank + 2) for rank, item in enumerate(ranked[:k]) if item in wanted)
    ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(wanted))))
    return float(gain / ideal)


def reciprocal_rank(ranked: Sequence[int], relevant: Collection[int]) -> float:
    """1 / place of the first relevant item, counted from 1; 0 when none is on the list."""
    wanted = set(relevant)
    return next((1 / place for place, item in enumerate(ranked, 1) if item in wanted), 0.0)


def auc(scores: Floats, liked: Booleans) -> float:
    """Chance that a liked row scores above another, ties count half; NaN without both kinds."""
    positives, negatives = int(liked.sum()), int((~liked).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # 1 = smallest, ties share their mean
    above = ranks[liked].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def log_loss(probabilities: Doubles, liked: Booleans) -> float:
    """Mean -log of the probability given to what happened, in nats; NaN without rows."""
    if not len(liked):
        return float("nan")
    tiny = np.finfo(np.float64).tiny
    said = np.where(liked, probabilities, 1 - probabilities)
    return float(-np.log(np.maximum(said, tiny)).mean())


def catalogue_coverage(lists: Iterable[Iterable[int]], items: int) -> float:
    """Share of the catalogue that is on at least one list."""
    return len({item for one in lists for item in one}) / items


def gini(counts: npt.NDArray[np.int64]) -> float:
    """Inequality of counts: 0 = all equal, towards 1 = one has all; NaN when all are 0."""
    n, total = len(counts), counts.sum()
    if not total:
        return float("nan")
    ascending = np.sort(counts).astype(np.float64)
    return float(2 * (np.arange(1, n + 1) @ ascending) / (n * total) - (n + 1) / n)


def intra_list_diversity(ranked: Sequence[int], vectors: Floats) -> float:
    """Mean of 1 - cosine over the pairs of a list; `vectors` are of unit length, one an item.

    Ziegler et al., WWW 2005. NaN for a list of fewer than two.
    """
    n = len(ranked)
    if n < 2:
        return float("nan")
    chosen = vectors[np.asarray(ranked)].astype(np.float64)
    cosines = (np.square(chosen.sum(axis=0)).sum() - n) / (n * (n - 1))
    return float(1 - cosines)


def self_information(counts: npt.NDArray[np.int64]) -> Doubles:
    """-log2 of each item's share of all interactions, float64 [n]; one is added to each count.

    The mean over a list is its novelty (Zhou et al., PNAS 2010).
    """
    smoothed = counts + 1.0
    information: Doubles = -np.log2(smoothed / smoothed.sum())
    return information
