"""Users and answers made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shortlist.tiers import History, UserContext
from training.evaluation.answers import Answer
from training.evaluation.exams import Exam


def exam_of(relevant: Sequence[int], *, known_events: int = 0) -> Exam:
    history = History(
        keys=np.arange(known_events, dtype=np.uint64),
        times_ms=np.arange(known_events, dtype=np.int64),
        weights=np.ones(known_events, np.float32),
    )
    return Exam(
        user_id="somebody",
        user=UserContext(user_key=7, history=history, attributes={"age": 30.0}, time_ms=99),
        seen=np.unique(history.keys),
        known_events=known_events,
        relevant=np.array(relevant, np.int32),
        worth=np.ones(len(relevant)),
    )


def answer_of(
    exam: Exam,
    *,
    found: Mapping[str, Sequence[int]],
    blended: Sequence[int],
    without: Mapping[str, int],
) -> Answer:
    """What sources and blend would say; the ranker `none` keeps the order."""
    lists = {name: np.array(rows, np.int32) for name, rows in found.items()}
    candidates = np.array(blended, np.int32)
    return Answer(
        found=lists,
        united=len(np.unique(np.concatenate(list(lists.values())))),
        proposers=np.stack([np.isin(exam.relevant, rows) for rows in lists.values()]),
        blended=candidates,
        sources=np.stack([np.isin(candidates, rows) for rows in lists.values()]),
        liked=np.isin(candidates, exam.relevant),
        scores={"none": -np.arange(len(candidates), dtype=np.float32)},
        without=without,
    )
