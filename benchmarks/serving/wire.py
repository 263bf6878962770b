"""What systems are asked, as bytes, and what their answers say that the benchmark looks at."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.serving.peers import messages
from shortlist.v1 import common_pb2, orchestrator_pb2

__all__ = ["Answer", "Api", "of_peers", "of_shortlist"]

_PAGE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one page that was looked at."""

    items: int
    covered: float  # share of the items that were searched
    degraded: bool
    stages_ms: dict[str, float]  # none of the peers

    @property
    def complete(self) -> bool:
        return self.items == _PAGE and self.covered == 1.0 and not self.degraded


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """How to ask a system for pages. Requests are in base64, one a user."""

    method: str
    plain: list[str]
    looked_at: list[str]  # requests whose answers are parsed
    parse: Callable[[bytes], Answer]

    def parse_all(self, answers: Sequence[str]) -> list[Answer]:
        """Of answers in base64."""
        return [self.parse(base64.b64decode(one)) for one in answers]


def of_shortlist(users: Sequence[str]) -> Api:
    def requests(*, trace: bool) -> list[str]:
        messages = (
            orchestrator_pb2.RecommendRequest(
                user=common_pb2.User(id=user), page_size=_PAGE, trace=trace
            )
            for user in users
        )
        return [_text(one.SerializeToString()) for one in messages]

    return Api(
        method="/shortlist.v1.Orchestrator/Recommend",
        plain=requests(trace=False),
        looked_at=requests(trace=True),
        parse=_parse_page,
    )


def of_peers(users: Sequence[str]) -> Api:
    requests = [_text(messages.Query(user=user).SerializeToString()) for user in users]
    return Api(
        method=messages.METHODS["recommend"],
        plain=requests,
        looked_at=requests,
        parse=_parse_peers_page,
    )


def _parse_page(data: bytes) -> Answer:
    page = orchestrator_pb2.RecommendResponse.FromString(data)
    return Answer(
        items=len(page.items),
        covered=page.coverage.items_searched / max(1, page.coverage.items_total),
        degraded=bool(page.degradations),
        stages_ms={one.stage: one.duration_us / 1000 for one in page.trace.stages},
    )


def _parse_peers_page(data: bytes) -> Answer:
    page = messages.Page.FromString(data)
    return Answer(items=len(page.ids), covered=1.0, degraded=False, stages_ms={})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
