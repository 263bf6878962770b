"""What the system's parts answer to a test user: asked once, used by every figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shortlist.tiers import SourceCandidates
from training.evaluation.bench import Bench, ordered
from training.evaluation.catalogue import Catalogue
from training.evaluation.exams import Exam

__all__ = ["DEPTH", "Answer", "answer_to", "random_list"]

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Booleans = npt.NDArray[np.bool_]

DEPTH = 1000  # items that a single source is asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one user. Items are rows; lists are best first; S sources, r relevant items."""

    found: Mapping[str, Rows]  # each source's list, at most `DEPTH`
    united: int  # different items that the sources propose within their quotas
    proposers: Booleans  # [S, r], which source proposes which relevant item within its quota
    blended: Rows  # [n], the candidates
    sources: Booleans  # [S, n], which source proposed which candidate
    liked: Booleans  # [n], which candidates are relevant
    scores: Mapping[str, Floats]  # ranker -> [n]
    without: Mapping[str, int]  # relevant candidates if the source were left out

    def ranked(self, ranker: str) -> Rows:
        """The candidates in a ranker's order."""
        return self.blended[ordered(self.blended, self.scores[ranker])]

    def sources_of(self, page: Rows) -> Booleans:
        """Which source proposed which item of a page, [S, items]."""
        order = np.argsort(self.blended)
        return self.sources[:, order[np.searchsorted(self.blended, page, sorter=order)]]


def answer_to(exam: Exam, bench: Bench, catalogue: Catalogue) -> Answer:
    """Ask every source, blend with and without each, and let every ranker score."""
    proposals = bench.shards.ask(exam.user, bench.depths(DEPTH), exam.seen)
    united, candidates = bench.blend(proposals)
    blended = catalogue.rows_of(candidates.keys)
    found = {name: catalogue.rows_of(one.keys) for name, one in proposals.items()}
    return Answer(
        found={name: rows[:DEPTH] for name, rows in found.items()},
        united=united,
        proposers=np.stack(
            [np.isin(exam.relevant, rows[: bench.quotas[name]]) for name, rows in found.items()]
        ),
        blended=blended,
        sources=candidates.ranks >= 0,
        liked=np.isin(blended, exam.relevant),
        scores=bench.rankers.score(exam.user, candidates),
        without=_without_each(proposals, bench, catalogue.keys[exam.relevant]),
    )


def _without_each(
    proposals: Mapping[str, SourceCandidates], bench: Bench, relevant: npt.NDArray[np.uint64]
) -> Mapping[str, int]:
    left = {}
    for name in proposals:
        others = {other: one for other, one in proposals.items() if other != name}
        _, candidates = bench.blend(others)
        left[name] = int(np.isin(relevant, candidates.keys).sum())
    return left


def random_list(exam: Exam, catalogue: Catalogue, rng: np.random.Generator) -> Rows:
    """Unseen items at random, at most `DEPTH`."""
    order = rng.permutation(len(catalogue)).astype(np.int32)[: DEPTH + len(exam.seen)]
    return order[~np.isin(order, catalogue.rows_of(exam.seen))][:DEPTH]
