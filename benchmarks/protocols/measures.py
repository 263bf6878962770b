"""What papers count on a ranked list, best first; `relevant` is never empty."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from training.metrics import ndcg, recall

__all__ = ["MEASURES", "Measure", "capped_recall"]

Measure = Callable[[Sequence[int], Collection[int], int], float]


def capped_recall(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Share of what could be found in `k` places: 1 is possible for every user (Liang et al.,
    WWW 2018)."""
    return len(set(ranked[:k]) & set(relevant)) / min(k, len(relevant))


MEASURES: Final[Mapping[str, Measure]] = {
    "recall": recall,  # of all relevant items
    "capped_recall": capped_recall,
    "ndcg": ndcg,  # the ideal list has min(k, relevant items) hits
}
