"""Choosing how hard ScaNN has to search: the least work that reaches a recall target."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrieval_svc.brute_force import BruteForceIndex, Floats
from retrieval_svc.scann_index import ScannIndex, ScannSettings, leaves_for, nearest, train_searcher

__all__ = ["build_scann"]

# What the tuner may choose: the share of the leaves to search, and how many times k rows to score
# again.
_LEAF_SHARES = (0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.22, 0.3, 0.45, 0.65, 1.0)
_REORDER_FACTORS = (1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0)
# Scoring a row again costs as much as looking at this many rows in the leaves:
# 27 ns against 2 ns a row at 30 k x 32.
_REORDER_COST = 13.0
# How far above the target to aim, as parts of the gap to 1, until other queries reach it too.
_MARGINS = (0.25, 0.5, 0.75, 1.0)


def build_scann(
    vectors: Floats, *, recall_target: float, k: int, queries: Floats, threads: int
) -> ScannIndex:
    """Train an index and choose the cheapest search that reaches the target.

    The first half of `queries` chooses, the second half measures `settings.recall`. That may fall
    short of the target even with the strongest search; the caller decides what to do then.
    """
    searcher = train_searcher(vectors, k, threads)
    half = len(queries) // 2
    lessons, exam = (_Exam.of(vectors, part, k) for part in (queries[:half], queries[half:]))
    for margin in _MARGINS:
        settings = _cheapest(searcher, lessons, recall_target + margin * (1.0 - recall_target))
        settings = replace(settings, recall=exam.recall(searcher, settings))
        if settings.recall >= recall_target:
            break
    return ScannIndex(searcher, vectors, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exam:
    """Queries and, for each, the score of its k-th best row: whatever reaches it is a true hit."""

    vectors: Floats  # float32 [n, dim]
    queries: Floats  # float32 [q, dim]
    borders: Floats  # float32 [q]
    k: int

    @classmethod
    def of(cls, vectors: Floats, queries: Floats, k: int) -> _Exam:
        exact = BruteForceIndex(vectors)
        last = [tuple(part[-1] for part in exact.search(query, k)) for query in queries]
        rows, borders = map(np.array, zip(*last, strict=True))
        # Matrix products of different shapes differ in the last bits.
        lengths = np.linalg.norm(queries, axis=1) * np.linalg.norm(vectors[rows], axis=1)
        return cls(vectors=vectors, queries=queries, borders=borders - 1e-6 * lengths, k=k)

    def recall(self, searcher: Any, settings: ScannSettings) -> float:
        """Mean share of the true best k that ScaNN finds."""
        pairs = zip(self.queries, self.borders, strict=True)
        return float(np.mean([self._found(searcher, settings, *pair) for pair in pairs])) / self.k

    def _found(
        self, searcher: Any, settings: ScannSettings, query: Floats, border: np.float32
    ) -> int:
        rows = nearest(searcher, settings, query, self.k)
        return int(np.count_nonzero(self.vectors.take(rows, axis=0) @ query >= border))


def _cheapest(searcher: Any, exam: _Exam, aim: float) -> ScannSettings:
    """The settings of least cost that reach the recall `aim`, or the strongest when none does."""
    return min(_passing(searcher, exam, aim), key=_cost, default=_options(exam)[-1][-1])


def _passing(searcher: Any, exam: _Exam, aim: float) -> Iterator[ScannSettings]:
    """For each reorder the fewest leaves that reach `aim`; recall grows with the leaves."""
    for options in _options(exam):
        if exam.recall(searcher, options[-1]) < aim:
            continue
        low, high = 0, len(options) - 1
        while low < high:
            middle = (low + high) // 2
            if exam.recall(searcher, options[middle]) >= aim:
                high = middle
            else:
                low = middle + 1
        yield options[high]


def _options(exam: _Exam) -> list[list[ScannSettings]]:
    """One list a reorder, each with growing shares of the leaves."""
    items, dim = exam.vectors.shape
    leaves = leaves_for(items)
    shares = sorted({max(1, math.ceil(leaves * share)) for share in _LEAF_SHARES})
    reorders = sorted({min(items, math.ceil(exam.k * factor)) for factor in _REORDER_FACTORS})
    shape = ScannSettings(
        items=items, dim=dim, leaves=leaves, k=exam.k, leaves_to_search=1, reorder=1, recall=0.0
    )
    return [
        [replace(shape, reorder=reorder, leaves_to_search=share) for share in shares]
        for reorder in reorders
    ]


def _cost(settings: ScannSettings) -> float:
    """Rows looked at, in units of one row of a leaf."""
    share = settings.leaves_to_search / settings.leaves
    return share * settings.items + _REORDER_COST * settings.reorder
