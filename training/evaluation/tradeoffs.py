"""What variety and freshness cost: the slate's dials turned, everything else as it serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.answers import Answer
from training.evaluation.bench import Bench, Scored, SlateRules
from training.evaluation.bootstrap import mean_of
from training.evaluation.systems import PAGE, Judge, mean_over, pages_of

__all__ = ["Tradeoffs"]

Rows = npt.NDArray[np.int32]

_STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7)
_MINIMUMS = (0, 1, 2, 4, 8)
_FRESH = "fresh"
_DAY_MS = 86_400_000


@dataclass(frozen=True, kw_only=True)
class Tradeoffs:
    """Makes pages of the same ranked candidates by other rules."""

    bench: Bench
    answers: Sequence[Answer]
    judge: Judge  # of the same users
    progress: Callable[[int, int], None]  # points done, points in all

    def diversity(self) -> dict[str, Any]:
        """The `tradeoffs.diversity` of the documentation."""
        served = self.bench.rules
        points = []
        for done, strength in enumerate(_STRENGTHS):
            pages = self._pages(replace(served, diversity=strength))
            self.progress(done + 1, len(_STRENGTHS) + len(_MINIMUMS))
            points.append({"strength": strength, **self._figures(pages)})
        return {"users": len(self.answers), "served": served.diversity, "points": points}

    def freshness(self) -> dict[str, Any]:
        """The `tradeoffs.freshness` of the documentation."""
        after_ms = self.bench.shards.fresh_after_ms
        if after_ms is None or _FRESH not in self.bench.quotas:
            return {"absent": self.bench.shards.absent.get(_FRESH, "the source `fresh` is off")}
        served, catalogue = self.bench.rules, self.judge.catalogue
        fresh = (catalogue.first_ms > 0) & (catalogue.first_ms >= after_ms)
        points = []
        for done, least in enumerate(_MINIMUMS):
            minimums = {name: n for name, n in served.minimums.items() if name != _FRESH}
            if least:
                minimums[_FRESH] = least
            pages = self._pages(replace(served, minimums=minimums))
            self.progress(len(_STRENGTHS) + done + 1, len(_STRENGTHS) + len(_MINIMUMS))
            shares = mean_over(fresh.astype(np.float64), pages_of(pages))
            points.append(
                {
                    "minimum": least,
                    **self._figures(pages),
                    "fresh_share": mean_of(shares),
                    "mean_age_days": mean_of(mean_over(catalogue.age_days, pages_of(pages))),
                }
            )
        return {
            "users": len(self.answers),
            "served": served.minimums.get(_FRESH, 0),
            "fresh_days": (catalogue.as_of_ms - after_ms) / _DAY_MS,
            "points": points,
        }

    def _pages(self, rules: SlateRules) -> list[Rows]:
        default = self.bench.rankers.default
        keys = self.judge.catalogue.keys
        pages = []
        for answer in self.answers:
            scored = Scored(
                keys=keys[answer.blended], scores=answer.scores[default], sources=answer.sources
            )
            pages.append(answer.blended[self.bench.page(scored, PAGE, rules)])
        return pages

    def _figures(self, lists: Sequence[Rows]) -> dict[str, float]:
        judge = self.judge
        system = judge.system(lists)
        return {
            f"ndcg@{PAGE}": mean_of(system.hits.ndcg(PAGE)),
            f"recall@{PAGE}": mean_of(system.hits.recall(PAGE)),
            "diversity": mean_of(judge.diversity(system.pages)),
            "coverage": float((judge.exposures(system.pages) > 0).mean()),
            "novelty": mean_of(judge.novelty(system.pages)),
        }
