"""Where relevant items are lost on the way to the page, and what each source brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.answers import Answer
from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.exams import Exam
from training.evaluation.hits import Hits

__all__ = ["Funnel", "shares_of"]

Rows = npt.NDArray[np.int32]
Booleans = npt.NDArray[np.bool_]
Shares = dict[str, dict[str, float]]

_SHORT = 100


def shares_of(proposed: Sequence[Booleans], sources: Sequence[str]) -> Shares:
    """Each source's share of the items of lists; `proposed` holds a bool [S, n] for each list.

    `any`: items that it proposed; `fractional`: an item counts 1/m for each of its m sources;
    `only`: items that no other source proposed.
    """
    bits = np.concatenate([np.zeros((len(sources), 0), np.bool_), *proposed], axis=1)
    proposers = bits.sum(axis=0)
    items = max(1, bits.shape[1])
    fractions = bits / np.maximum(proposers, 1)
    return {
        name: {
            "any": float(mine.sum() / items),
            "fractional": float(part.sum() / items),
            "only": float((mine & (proposers == 1)).sum() / items),
        }
        for name, mine, part in zip(sources, bits, fractions, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """Follows the relevant items of all users from stage to stage."""

    sources: Sequence[str]
    exams: Sequence[Exam]
    answers: Sequence[Answer]
    pages: Sequence[Rows]  # as served
    default: Hits  # of the default ranker's order

    def figures(self, *, items: int, limit: int, resamples: Resamples) -> dict[str, Any]:
        """The `funnel` of the documentation."""
        wanted = np.array([len(exam.relevant) for exam in self.exams], np.float64)
        recall = np.array([answer.liked.sum() for answer in self.answers]) / wanted
        blend = shares_of([answer.sources for answer in self.answers], self.sources)
        page = self.page_shares()
        sources = {}
        for place, name in enumerate(self.sources):
            left = np.array([answer.without[name] for answer in self.answers]) / wanted
            sources[name] = {
                **self._hits(place),
                "recall_without": mean_of(left),
                "recall_lost": mean_of(recall - left),
                "ci": resamples.interval(recall - left),
                "blend_any": blend[name]["any"],
                "blend_fractional": blend[name]["fractional"],
                "page_any": page[name]["any"],
                "page_fractional": page[name]["fractional"],
            }
        return {
            "limit": limit,
            "recall": mean_of(recall),
            "stages": self._stages(items),
            "sources": sources,
        }

    def page_shares(self) -> Shares:
        """The `page_sources` of the documentation."""
        proposed = [
            answer.sources_of(page) for answer, page in zip(self.answers, self.pages, strict=True)
        ]
        return shares_of(proposed, self.sources)

    def _stages(self, items: int) -> list[dict[str, Any]]:
        answers = self.answers
        blended = [len(answer.blended) for answer in answers]
        sizes = {
            "catalogue": [items],
            "proposed": [answer.united for answer in answers],
            "blend": blended,
            f"top_{_SHORT}": np.minimum(_SHORT, blended),
            "page": [len(page) for page in self.pages],
        }
        relevant = {
            "catalogue": sum(len(exam.relevant) for exam in self.exams),
            "proposed": sum(answer.proposers.any(axis=0).sum() for answer in answers),
            "blend": sum(answer.liked.sum() for answer in answers),
            f"top_{_SHORT}": self.default.found(_SHORT).sum(),
            "page": sum(mine.sum() for mine in self._liked_on_page()),
        }
        return [
            {
                "stage": stage,
                "items": float(np.mean(sizes[stage])),
                "relevant": int(found),
                "share": float(found / relevant["catalogue"]),
            }
            for stage, found in relevant.items()
        ]

    def _hits(self, place: int) -> dict[str, int]:
        """Of the source at `place`: relevant items proposed, by it alone, and shown on pages."""
        proposed = [answer.proposers for answer in self.answers]
        alone = [one[place] & (one.sum(axis=0) == 1) for one in proposed]
        shown = [
            answer.sources_of(page[mine])[place].sum()
            for answer, page, mine in zip(
                self.answers, self.pages, self._liked_on_page(), strict=True
            )
        ]
        return {
            "hits": int(sum(one[place].sum() for one in proposed)),
            "unique_hits": int(sum(mine.sum() for mine in alone)),
            "page_hits": int(sum(shown)),
        }

    def _liked_on_page(self) -> list[Booleans]:
        return [
            np.isin(page, exam.relevant) for page, exam in zip(self.pages, self.exams, strict=True)
        ]
