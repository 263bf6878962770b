"""Replicas of one shard or of the ranker: which to ask, and whom to ask when it fails."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from orchestrator.budget import Deadline
from shortlist.errors import BudgetExceeded, TierUnavailable, VersionNotServed

__all__ = ["Replicas"]

T = TypeVar("T")
R = TypeVar("R")

_REST_S = 1.0  # a replica that failed is the last choice for so long


class Replicas(Generic[T]):
    """Interchangeable replicas; asks the one with the fewest calls outstanding."""

    def __init__(self, replicas: Sequence[T]) -> None:
        self._replicas = tuple(replicas)
        self._outstanding = [0] * len(self._replicas)
        self._resting_until = [0.0] * len(self._replicas)
        self._turn = 0  # breaks ties, so that idle replicas take turns

    @property
    def all(self) -> tuple[T, ...]:
        return self._replicas

    async def call(self, ask: Callable[[T], Awaitable[R]], deadline: Deadline) -> R:
        """The answer of one replica; when it fails, of one other, within the same deadline.

        Raises what the last replica raised, `BudgetExceeded` when the deadline passes, and
        `TierUnavailable` when there are no replicas.
        """
        first = self._choose(but=None)
        if first is None:
            raise TierUnavailable("no replica is configured")
        asked = first
        try:
            async with deadline.enforced():
                try:
                    return await self._ask(first, ask)
                except (TierUnavailable, VersionNotServed):
                    second = self._choose(but=first)
                    if second is None:
                        raise
                    asked = second
                    return await self._ask(second, ask)
        except BudgetExceeded:
            self._rest(asked)
            raise

    async def _ask(self, at: int, ask: Callable[[T], Awaitable[R]]) -> R:
        self._outstanding[at] += 1
        try:
            return await ask(self._replicas[at])
        except TierUnavailable:
            self._rest(at)
            raise
        finally:
            self._outstanding[at] -= 1

    def _rest(self, at: int) -> None:
        self._resting_until[at] = time.monotonic() + _REST_S

    def _choose(self, but: int | None) -> int | None:
        self._turn += 1
        now, count = time.monotonic(), len(self._replicas)
        return min(
            (at for at in range(count) if at != but),
            key=lambda at: (
                self._resting_until[at] > now,
                self._outstanding[at],
                (at + self._turn) % count,
            ),
            default=None,
        )
