"""How good the system is where nothing is known: of the user, of the item, of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluation.answers import DEPTH, Answer
from training.evaluation.bench import Bench, Scored
from training.evaluation.bootstrap import Resamples, mean_of
from training.evaluation.catalogue import Catalogue
from training.evaluation.exams import Exam, sample
from training.evaluation.hits import Hits
from training.evaluation.systems import PAGE, with_intervals

__all__ = ["ColdStart"]

Rows = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]

_CUTS = (0, 1, 3, 5)  # newest events of a history that are kept
_ENOUGH_EVENTS = 6  # of a history that is cut
_MOST_USERS = 300
_RANDOM = "random"
_NO_EVENT = 0


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Asks the parts that make a page, with less known than there is."""

    bench: Bench
    catalogue: Catalogue
    exams: Sequence[Exam]
    answers: Sequence[Answer]
    pages: Sequence[Rows]  # as served, with everything known
    resamples: int
    seed: int

    def new_users(self, progress: Progress) -> dict[str, Any]:
        """The `cold_start.users` of the documentation."""
        able = [
            place for place, exam in enumerate(self.exams) if exam.known_events >= _ENOUGH_EVENTS
        ]
        if not able:
            return {"absent": f"no test user has {_ENOUGH_EVENTS} known events"}
        chosen = sample(able, _MOST_USERS, self.seed)
        cuts = []
        for part, events in enumerate(_CUTS):
            lists: dict[str, list[Rows]] = {}
            for number, place in enumerate(chosen):
                for name, rows in self._lists(self.exams[place].cut(events)).items():
                    lists.setdefault(name, []).append(rows)
                progress(part * len(chosen) + number + 1, len(_CUTS) * len(chosen))
            cuts.append(self._cut(events, lists, chosen))
        cuts.append(self._cut(None, self._known(chosen), chosen))
        return {"users": len(chosen), "cuts": cuts}

    def new_items(self, progress: Progress, *, new_users: bool = False) -> dict[str, Any]:
        """The `cold_start.items` of the documentation; with `new_users`, its `both`."""
        cold = self.catalogue.cold
        able = [place for place, exam in enumerate(self.exams) if cold[exam.relevant].any()]
        if not able:
            return {"absent": "no test user liked an item without known interactions"}
        chosen = sample(able, _MOST_USERS, self.seed)
        warm = self.catalogue.keys[~cold]
        among: dict[str, list[Rows]] = {}
        whole: dict[str, list[Rows]] = {}
        rng = np.random.default_rng(self.seed)
        for number, place in enumerate(chosen):
            exam = self.exams[place].cut(_NO_EVENT) if new_users else self.exams[place]
            for name, rows in self._among_cold(exam, warm).items():
                among.setdefault(name, []).append(rows)
            among.setdefault(_RANDOM, []).append(
                rng.permutation(np.flatnonzero(cold)).astype(np.int32)[:DEPTH]
            )
            for name, rows in self._whole(exam, None if new_users else self.answers[place]).items():
                whole.setdefault(name, []).append(rows)
            progress(number + 1, len(chosen))
        relevant = [self.exams[place].relevant for place in chosen]
        relevant = [rows[cold[rows]] for rows in relevant]
        draws = self._draws(len(chosen))
        return {
            "users": len(chosen),
            "relevant": sum(map(len, relevant)),
            "cold_items": int(cold.sum()),
            "among_cold": {
                name: _cold_figures(self._hits(lists, relevant), draws)
                for name, lists in among.items()
            },
            "whole_catalogue": {
                name: {f"recall@{DEPTH}": mean_of(self._hits(lists, relevant).recall(DEPTH))}
                for name, lists in whole.items()
            },
        }

    def _lists(self, exam: Exam) -> dict[str, Rows]:
        """The page, and each source's list."""
        proposals = self.bench.shards.ask(exam.user, self.bench.quotas, exam.seen)
        _, candidates = self.bench.blend(proposals)
        default = self.bench.rankers.default
        scores = self.bench.rankers.score(exam.user, candidates, (default,))[default]
        scored = Scored(keys=candidates.keys, scores=scores, sources=candidates.ranks >= 0)
        places = self.bench.page(scored, PAGE, self.bench.rules)
        found = {name: self.catalogue.rows_of(one.keys) for name, one in proposals.items()}
        return {"page": self.catalogue.rows_of(candidates.keys[places]), **found}

    def _known(self, chosen: Sequence[int]) -> dict[str, list[Rows]]:
        """The same lists with the whole history."""
        names = self.bench.quotas
        found = {name: [self.answers[place].found[name] for place in chosen] for name in names}
        return {"page": [self.pages[place] for place in chosen], **found}

    def _cut(
        self, events: int | None, lists: Mapping[str, Sequence[Rows]], chosen: Sequence[int]
    ) -> dict[str, Any]:
        relevant = [self.exams[place].relevant for place in chosen]
        draws = self._draws(len(chosen))
        figures = {}
        for name, mine in lists.items():
            hits = self._hits(mine, relevant)
            by_user = {f"ndcg@{PAGE}": hits.ndcg(PAGE), f"recall@{PAGE}": hits.recall(PAGE)}
            figures[name] = with_intervals(by_user, draws)
        intervals = {name: row.pop("ci") for name, row in figures.items()}
        return {"events": events, "systems": figures, "ci": intervals}

    def _among_cold(self, exam: Exam, warm: npt.NDArray[np.uint64]) -> dict[str, Rows]:
        """Each source's list of items that nobody has touched; what was seen is warm."""
        quotas = dict.fromkeys(self.bench.quotas, DEPTH)
        proposals = self.bench.shards.ask(exam.user, quotas, warm)
        return {name: self.catalogue.rows_of(one.keys) for name, one in proposals.items()}

    def _whole(self, exam: Exam, answer: Answer | None) -> dict[str, Rows]:
        """Each source's list over the whole catalogue, and the blend's."""
        if answer is not None:
            return {**answer.found, "blend": answer.blended}
        quotas = self.bench.depths(DEPTH)
        proposals = self.bench.shards.ask(exam.user, quotas, exam.seen)
        _, candidates = self.bench.blend(proposals)
        found = {name: self.catalogue.rows_of(one.keys[:DEPTH]) for name, one in proposals.items()}
        return {**found, "blend": self.catalogue.rows_of(candidates.keys)}

    def _hits(self, lists: Sequence[Rows], relevant: Sequence[Rows]) -> Hits:
        return Hits.of(lists, relevant, len(self.catalogue))

    def _draws(self, users: int) -> Resamples:
        return Resamples(users, resamples=self.resamples, seed=self.seed)


def _cold_figures(hits: Hits, draws: Resamples) -> dict[str, Any]:
    by_user = {
        f"recall@{PAGE}": hits.recall(PAGE),
        f"ndcg@{PAGE}": hits.ndcg(PAGE),
        "mrr": hits.mrr(),
    }
    return with_intervals(by_user, draws)
