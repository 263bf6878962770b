"""Deadlines: the gRPC deadline is the budget, and no stage can eat another's share (I5)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shortlist.config import ServingConfig
from shortlist.errors import BudgetExceeded

__all__ = ["Budgets", "Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock."""

    at: float  # seconds, time.monotonic()

    @staticmethod
    def after(milliseconds: float) -> Deadline:
        return Deadline(time.monotonic() + milliseconds / 1000)

    @property
    def remaining_ms(self) -> float:
        """Never negative."""
        return max(0.0, (self.at - time.monotonic()) * 1000)

    def or_after(self, milliseconds: float) -> Deadline:
        """This deadline or `milliseconds` from now, whichever comes first."""
        return min(self, Deadline.after(milliseconds), key=lambda deadline: deadline.at)

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Cancels the body when the deadline passes and raises `BudgetExceeded`."""
        try:
            async with asyncio.timeout_at(self.at):
                yield
        except TimeoutError:
            raise BudgetExceeded("no answer inside the budget") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What each stage may take of one request's time."""

    total: Deadline
    retrieval_ms: float
    ranking_ms: float
    describe_ms: float

    @staticmethod
    def of(config: ServingConfig, deadline_ms: float | None) -> Budgets:
        """Divide what the caller leaves of `deadline_ms` (None = it set none) among the stages.

        When the configured budgets do not fit, all of them shrink by the same factor. Raises
        `BudgetExceeded` when nothing is left.
        """
        given_ms = config.request_budget_ms if deadline_ms is None else deadline_ms
        total_ms = min(float(config.request_budget_ms), given_ms - config.reserve_ms)
        if total_ms <= 0:
            raise BudgetExceeded(f"{given_ms:.1f} ms are not enough to begin")
        wanted_ms = (
            config.retrieval_budget_ms + config.ranking_budget_ms + config.describe_budget_ms
        )
        scale = min(1.0, total_ms / wanted_ms)
        return Budgets(
            total=Deadline.after(total_ms),
            retrieval_ms=config.retrieval_budget_ms * scale,
            ranking_ms=config.ranking_budget_ms * scale,
            describe_ms=config.describe_budget_ms * scale,
        )

    def retrieval(self) -> Deadline:
        """The deadline of a retrieval that begins now."""
        return self.total.or_after(self.retrieval_ms)

    def ranking(self) -> Deadline:
        return self.total.or_after(self.ranking_ms)

    def describe(self) -> Deadline:
        return self.total.or_after(self.describe_ms)
