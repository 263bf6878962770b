"""Replicas of one shard or of the ranker: which to ask, and whom else if it fails or is slow."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.attempts import ExtraAttempts, Patience, Standing
from orchestrator.budget import Deadline
from shortlist.errors import BudgetExceeded, TierUnavailable, VersionNotServed
from shortlist.serving import Overloaded
from shortlist.telemetry import AttemptWatch, Unwatched

__all__ = ["Replicas"]

T = TypeVar("T")
R = TypeVar("R")

_EXTRA_SHARE = 0.05


@dataclass(slots=True, kw_only=True)
class _Member(Generic[T]):
    """One replica and what is known of it."""

    replica: T
    standing: Standing


class Replicas(Generic[T]):
    """Interchangeable replicas; asks the one with the fewest calls outstanding.

    A call is answered by one replica. When that one fails, or takes longer than 95 of 100 answers
    did, one other is asked, too, and the first answer counts; the other call is cancelled.
    """

    def __init__(
        self,
        replicas: Sequence[T],
        *,
        extra_share: float = _EXTRA_SHARE,
        tier: str = "",
        watch: AttemptWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Second attempts are at most `extra_share` of the calls, but for a burst. `watch` hears of
        attempts, under the name of the `tier`."""
        self._members = [_Member(replica=one, standing=Standing(clock)) for one in replicas]
        self._patience: defaultdict[str, Patience] = defaultdict(Patience)
        self._extra = ExtraAttempts(extra_share)
        self._tier = tier
        self._watch = watch or Unwatched()
        self._turn = 0  # breaks ties, so that idle replicas take turns

    @property
    def all(self) -> tuple[T, ...]:
        return tuple(member.replica for member in self._members)

    async def call(self, ask: Callable[[T], Awaitable[R]], deadline: Deadline, kind: str = "") -> R:
        """The first answer of one or two replicas, within the deadline.

        Calls of one `kind` take about as long as each other. Raises what the last replica raised,
        `BudgetExceeded` when the deadline passes, and `TierUnavailable` when there are no replicas.
        """
        first = self._choose()
        if first is None:
            raise TierUnavailable("no replica is configured")
        self._tell("first")
        if len(self._members) == 1:
            async with deadline.enforced():
                return await ask(first.replica)
        self._extra.earn()
        race = _Race(ask, self._patience[kind], lambda why: self._helper(first, why), self._tell)
        try:
            async with deadline.enforced():
                return await race.run(first, deadline)
        except BudgetExceeded:
            race.give_up()
            raise
        finally:
            race.stop()

    def _choose(self, but: _Member[T] | None = None) -> _Member[T] | None:
        self._turn += 1
        count = len(self._members)
        places = [at for at in range(count) if self._members[at] is not but]
        if not places:
            return None

        def rank(at: int) -> tuple[bool, int, int]:
            standing = self._members[at].standing
            return standing.avoided, standing.outstanding, (at + self._turn) % count

        return self._members[min(places, key=rank)]

    def _helper(self, first: _Member[T], why: str) -> _Member[T] | None:
        """Whom to ask besides `first`; None when nobody, or not so often.

        To go on to whoever has the version costs those nothing that lack it: it is not counted.
        """
        member = self._choose(but=first)
        if member is None or member.standing.avoided:
            return None
        if why != _OTHER_VERSION and not self._extra.spend():
            self._tell("not_allowed")
            return None
        self._tell(why)
        return member

    def _tell(self, what: str) -> None:
        self._watch.attempted(self._tier, what)


# Why a second replica is asked.
_SLOW, _FAILED, _OTHER_VERSION = "hedge", "retry", "version"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt(Generic[T]):
    member: _Member[T]
    begun: float


class _Race(Generic[T, R]):
    """One call, by one replica or by two."""

    def __init__(
        self,
        ask: Callable[[T], Awaitable[R]],
        patience: Patience,
        helper: Callable[[str], _Member[T] | None],
        tell: Callable[[str], None],
    ) -> None:
        self._ask = ask
        self._patience = patience
        self._helper = helper
        self._tell = tell
        self._running: dict[asyncio.Task[R], _Attempt[T]] = {}

    async def run(self, first: _Member[T], deadline: Deadline) -> R:
        """Raises as `Replicas.call`; what still runs then is to be stopped."""
        self._start(first)
        limit_s = self._patience.seconds(deadline.remaining_ms / 1000)
        done, _ = await asyncio.wait(self._running, timeout=limit_s)
        if not done:
            return await self._first_of_two(self._helper(_SLOW))
        (task,) = done
        if (error := self._ended(task)) is None:
            return task.result()
        helper = self._helper(_reason(error))
        if helper is None:
            raise error
        return await self._first_of_two(helper)

    def give_up(self) -> None:
        """Who still runs did not answer in time."""
        for attempt in self._running.values():
            attempt.member.standing.failed()
            self._tell("rest")

    def stop(self) -> None:
        """Nobody waits for those that still run."""
        for task in self._running:
            task.cancel()

    async def _first_of_two(self, helper: _Member[T] | None) -> R:
        """The first answer of those that run and the helper; the last error when none answers."""
        if helper is not None:
            self._start(helper)
        while True:
            done, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                by_helper = self._running[task].member is helper
                if (error := self._ended(task)) is None:
                    self._leave_behind(by_helper)
                    return task.result()
                if not self._running or not isinstance(error, TierUnavailable | VersionNotServed):
                    raise error

    def _start(self, member: _Member[T]) -> None:
        standing = member.standing
        standing.outstanding += 1

        async def attempt() -> R:
            return await self._ask(member.replica)

        def ended(task: asyncio.Task[R]) -> None:
            standing.outstanding -= 1
            if not task.cancelled():
                task.exception()  # whoever lost may fail unheard

        task = asyncio.create_task(attempt())
        task.add_done_callback(ended)
        self._running[task] = _Attempt(member=member, begun=time.perf_counter())

    def _ended(self, task: asyncio.Task[R]) -> BaseException | None:
        """Learn from an attempt that has ended; its error."""
        attempt = self._running.pop(task)
        error = task.exception()
        if error is None:
            attempt.member.standing.answered()
            self._patience.learn(time.perf_counter() - attempt.begun)
        elif isinstance(error, TierUnavailable | BudgetExceeded):
            # One that is busy is no worse than before when it is busy again.
            attempt.member.standing.failed(again=not isinstance(error, Overloaded))
            self._tell("rest")
        return error

    def _leave_behind(self, by_helper: bool) -> None:
        """When a helper answers first, what still runs is slower. A helper that was not needed had
        less time, and that tells nothing of it."""
        if not by_helper or not self._running:
            return
        self._tell("hedge_won")
        for attempt in self._running.values():
            self._patience.learn(time.perf_counter() - attempt.begun)
            if attempt.member.standing.was_late():
                self._tell("rest")


def _reason(error: BaseException) -> str:
    """Why another replica may be asked. Raises an error that none can make good."""
    if isinstance(error, VersionNotServed):
        return _OTHER_VERSION
    if isinstance(error, TierUnavailable):
        return _FAILED
    raise error
