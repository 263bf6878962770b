"""Logs as JSON lines on stderr, each with the id of the request it belongs to; and the watches,
through which the parts of a process say what they do to whoever counts it (`shortlist.metrics`)."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shortlist.page import Page, Ranking, SimilarItems, Trace

__all__ = [
    "AttemptWatch",
    "CallWatch",
    "EventWatch",
    "JsonLinesFormatter",
    "PageWatch",
    "RecallWatch",
    "Unwatched",
    "Watches",
    "request_id",
    "setup_logging",
]

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request being answered; set by `shortlist.serving`, empty outside of one."""


class JsonLinesFormatter(logging.Formatter):
    """One JSON object a record: time, level, process, logger, message, request_id, exception."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            line["request_id"] = request_id.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def setup_logging(process: str, level: str = "INFO") -> None:
    """Send every logger of this process to stderr as JSON lines; call once, in `__main__`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLinesFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class CallWatch(Protocol):
    """Hears of the calls of a gRPC server. Called on the event loop, for every call."""

    def serves(self, service: str, running: Callable[[], int], limit: int) -> None:
        """Once a service: `running` says, to any thread, how many of its calls run."""
        ...

    def adapts(self, service: str, limit: Callable[[], int]) -> None:
        """Once a service whose limit moves: `limit` says, to any thread, where it is."""
        ...

    def answered(self, service: str, method: str, status: str, seconds: float | None) -> None:
        """A call has ended with a gRPC status; streams have no duration."""
        ...

    def refused(self, service: str) -> None:
        """A call found all places taken."""
        ...


class PageWatch(Protocol):
    """Hears of what the orchestrator's pipelines did."""

    def answered(
        self, pipeline: str, trace: Trace, answer: Page | Ranking | SimilarItems | None
    ) -> None:
        """A pipeline has run to its end."""
        ...


class EventWatch(Protocol):
    """Hears of events that are taken in."""

    def reads_queue(self, waiting: Callable[[], int], limit: int) -> None:
        """Once: `waiting` says, to any thread, how many events wait to become durable."""
        ...

    def counted(self, outcome: str, events: int) -> None:
        """So many events were `accepted`, a `duplicate`, `refused` or `turned_away`."""
        ...


class AttemptWatch(Protocol):
    """Hears of the orchestrator's calls to replicas. Called on the event loop, for every call."""

    def attempted(self, tier: str, what: str) -> None:
        """`what` is `first` of every call; `hedge`, `retry` or `version` when another replica was
        asked as well, `hedge_won` when that one answered first, `not_allowed` when there had been
        too many; `rest` when a replica is left out for a while."""
        ...


class RecallWatch(Protocol):
    """Hears of queries to a shard that were asked again, exactly. Called from one thread."""

    def compared(self, source: str, found: int, true: int) -> None:
        """Of the `true` best items of a source, the answer had `found`."""
        ...


class Unwatched:
    """Every watch of a process that nobody asks for its metrics."""

    def serves(self, service: str, running: Callable[[], int], limit: int) -> None: ...

    def adapts(self, service: str, limit: Callable[[], int]) -> None: ...

    def refused(self, service: str) -> None: ...

    def reads_queue(self, waiting: Callable[[], int], limit: int) -> None: ...

    def counted(self, outcome: str, events: int) -> None: ...

    def answered(self, *_: object) -> None: ...

    def compared(self, source: str, found: int, true: int) -> None: ...

    def attempted(self, tier: str, what: str) -> None: ...


_UNWATCHED = Unwatched()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watches:
    """What the parts of a process tell what they do."""

    pages: PageWatch = _UNWATCHED
    events: EventWatch = _UNWATCHED
    recall: RecallWatch = _UNWATCHED
    attempts: AttemptWatch = _UNWATCHED
