"""Requests as bytes, and what answers say that the benchmark looks at."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shortlist.v1 import common_pb2, orchestrator_pb2

__all__ = ["METHOD", "Answer", "page_requests", "parse_answers"]

METHOD = "/shortlist.v1.Orchestrator/Recommend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one traced page."""

    items: int
    covered: float  # share of the items that were searched
    degraded: bool
    stages_ms: dict[str, float]


def page_requests(users: Sequence[str], *, trace: bool = False) -> list[str]:
    """In base64, one a user."""
    messages = (
        orchestrator_pb2.RecommendRequest(user=common_pb2.User(id=user), page_size=20, trace=trace)
        for user in users
    )
    return [base64.b64encode(one.SerializeToString()).decode() for one in messages]


def parse_answers(answers: Iterable[str]) -> list[Answer]:
    pages = (
        orchestrator_pb2.RecommendResponse.FromString(base64.b64decode(one)) for one in answers
    )
    return [
        Answer(
            items=len(page.items),
            covered=page.coverage.items_searched / max(1, page.coverage.items_total),
            degraded=bool(page.degradations),
            stages_ms={one.stage: one.duration_us / 1000 for one in page.trace.stages},
        )
        for page in pages
    ]
