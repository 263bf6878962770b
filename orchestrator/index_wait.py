"""Waits until a change of the catalogue shows on every page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from orchestrator.budget import Deadline
from orchestrator.gone import UnavailableItems
from orchestrator.replicas import Replicas
from orchestrator.versions import status_of
from shortlist.errors import BudgetExceeded
from shortlist.tiers import Retriever

__all__ = ["IndexWait"]

_BUDGET_MS = 10_000.0  # without a deadline of the caller's
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.1
_STATUS_MS = 500.0  # a replica that takes longer is as good as dead


class IndexWait:
    """Asks every replica of every shard how much of the log it knows.

    A replica that does not answer is passed over if another one of its shard answers: it serves
    nobody now, and one that starts again catches up before it serves. Other orchestrators are not
    asked. Their filters are the second lock; the first one, the shards', is the same for all of
    them, and once it is shut nothing reaches their filters.
    """

    def __init__(
        self, groups: Sequence[Replicas[Retriever]], gone: UnavailableItems, reserve_ms: float
    ) -> None:
        self._groups = tuple(groups)
        self._gone = gone
        self._reserve_ms = reserve_ms

    async def until(self, sequence: int, deadline_ms: float | None) -> None:
        """Return when every shard and this orchestrator know the log up to `sequence`.

        Raises `BudgetExceeded`, naming who does not.
        """
        budget_ms = _BUDGET_MS if deadline_ms is None else deadline_ms - self._reserve_ms
        deadline = Deadline.after(budget_ms)
        waits = [_GroupWait(group, sequence) for group in self._groups]
        pause_s = _FIRST_PAUSE_S
        while True:
            await asyncio.gather(*(one.ask(deadline) for one in waits))
            missing = [text for one in waits for text in one.missing()]
            if self._gone.position.sequence < sequence:
                missing.append(f"this orchestrator ({self._gone.position.sequence})")
            if not missing:
                return
            if deadline.remaining_ms <= 1000 * pause_s:
                raise BudgetExceeded(
                    f"the change is durable, as number {sequence} of the log, and not on every "
                    f"page yet: {', '.join(missing)} will follow"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class _GroupWait:
    """The replicas of one shard that do not know the change yet, or were not asked yet."""

    def __init__(self, group: Replicas[Retriever], sequence: int) -> None:
        self._sequence = sequence
        self._open = list(group.all)
        self._reached = 0
        self._behind: dict[str, int | None] = {}  # name -> how far it is; None = no answer

    async def ask(self, deadline: Deadline) -> None:
        """Ask those that did not know it when they were last asked."""
        if not self.missing() and self._reached:
            return
        limit = deadline.or_after(_STATUS_MS)
        answers = await asyncio.gather(*(status_of(one, limit) for one in self._open))
        still: list[Retriever] = []
        self._behind = {}
        for replica, status in zip(self._open, answers, strict=True):
            if status is not None and status.log.sequence >= self._sequence:
                self._reached += 1
            else:
                still.append(replica)
                self._behind[replica.name] = status.log.sequence if status else None
        self._open = still

    def missing(self) -> list[str]:
        """Who holds the change up, and how far it is; empty when nobody does."""
        late = [f"{name} ({at})" for name, at in self._behind.items() if at is not None]
        if late or self._reached:
            return late
        return [f"{name} (no answer)" for name in self._behind] or ["a shard without replicas"]
