"""What the lists of each system are worth: relevance, variety, novelty, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.catalogue import Catalogue
from training.evaluation.hits import Hits
from training.metrics import gini

__all__ = [
    "PAGE",
    "Judge",
    "System",
    "comparisons",
    "difference",
    "mean_over",
    "pages_of",
    "with_intervals",
]

Rows = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]

PAGE = 20
_NOBODY = -1


@dataclass(frozen=True, kw_only=True)
class System:
    """A system under test: where its hits are, and its pages."""

    hits: Hits
    pages: Rows  # int32 [users, PAGE]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Measures systems on the same users; figures are by user where that makes sense."""

    catalogue: Catalogue
    relevant: Sequence[Rows]
    worth: Sequence[Doubles]  # aligned with `relevant`
    resamples: Resamples

    def system(self, lists: Sequence[Rows]) -> System:
        hits = Hits.of(lists, self.relevant, len(self.catalogue), self.worth)
        return System(hits=hits, pages=pages_of(lists))

    def figures(self, system: System) -> dict[str, Any]:
        """All figures of `systems.<list>`."""
        hits = system.hits
        by_user = {
            "recall@20": hits.recall(20),
            "recall@100": hits.recall(100),
            "ndcg@10": hits.ndcg(10),
            "ndcg@20": hits.ndcg(20),
            "ndcg@100": hits.ndcg(100),
            "mrr": hits.mrr(),
            "value@20": hits.value(20),
            "diversity": self.diversity(system.pages),
            "novelty": self.novelty(system.pages),
        }
        exposed = self.exposures(system.pages)
        overall = {"coverage": float((exposed > 0).mean()), "gini": gini(exposed)}
        return with_intervals(by_user, self.resamples, overall)

    def diversity(self, pages: Rows) -> Doubles:
        """Each page's mean of 1 - cosine over pairs; NaN for pages of fewer than two."""
        filled = pages != _NOBODY
        n = filled.sum(axis=1).astype(np.float64)
        vectors = self.catalogue.vectors
        sums = np.stack([vectors[page[page != _NOBODY]].sum(axis=0) for page in pages])
        pairs = n * (n - 1)
        cosines = np.square(sums.astype(np.float64)).sum(axis=1) - n
        return 1 - np.divide(cosines, pairs, out=np.full(len(n), np.nan), where=pairs > 0)

    def novelty(self, pages: Rows) -> Doubles:
        """Each page's mean self-information, in bits; NaN for empty pages."""
        return mean_over(self.catalogue.information, pages)

    def exposures(self, pages: Rows) -> npt.NDArray[np.int64]:
        """On how many pages each item is."""
        return np.bincount(pages[pages != _NOBODY], minlength=len(self.catalogue))


def pages_of(lists: Sequence[Rows]) -> Rows:
    """The first places of each list, int32 [users, PAGE]; -1 = nothing there."""
    pages = np.full((len(lists), PAGE), _NOBODY, np.int32)
    for page, ranked in zip(pages, lists, strict=True):
        first = ranked[:PAGE]
        page[: len(first)] = first
    return pages


def mean_over(column: Doubles, pages: Rows) -> Doubles:
    """The mean of a column over each page's items that have a value; NaN where none has."""
    values = np.where(pages != _NOBODY, column[pages], np.nan)
    known = np.isfinite(values)
    n = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(sums, n, out=np.full(len(n), np.nan), where=n > 0)


def with_intervals(
    by_user: Mapping[str, Doubles], resamples: Resamples, overall: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The mean of each figure, the figures that are not by user, and `ci`."""
    return {
        **{name: mean_of(values) for name, values in by_user.items()},
        **(overall or {}),
        "ci": {name: resamples.interval(values) for name, values in by_user.items()},
    }


def difference(ours: Doubles, theirs: Doubles, resamples: Resamples) -> dict[str, Any]:
    """The paired difference of two systems' figures of the same users."""
    gaps = ours - theirs
    return {"difference": mean_of(gaps), "ci": resamples.interval(gaps)}


def comparisons(
    systems: Mapping[str, System], sources: Sequence[str], rankers: Sequence[str], judge: Judge
) -> dict[str, Any]:
    """How far the page is ahead of every other system."""
    figures = {
        name: {
            f"ndcg@{PAGE}": system.hits.ndcg(PAGE),
            f"recall@{PAGE}": system.hits.recall(PAGE),
            f"value@{PAGE}": system.hits.value(PAGE),
        }
        for name, system in systems.items()
    }

    def best(names: Sequence[str]) -> str:
        return max(names, key=lambda name: mean_of(figures[name][f"ndcg@{PAGE}"]))

    return {
        "best_source": best(sources),
        "best_ranker": best(rankers),
        "page_minus": {
            name: {
                what: difference(figures["page"][what], theirs, judge.resamples)
                for what, theirs in of_system.items()
            }
            for name, of_system in figures.items()
            if name != "page"
        },
    }
