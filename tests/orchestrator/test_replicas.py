from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.attempts import ExtraAttempts
from orchestrator.budget import Budgets, Deadline
from orchestrator.replicas import Replicas
from shortlist.config import ServingConfig
from shortlist.errors import BudgetExceeded, InvalidField, TierUnavailable, VersionNotServed


class Replica:
    def __init__(self, *, fails: Exception | None = None, delay_s: float = 0.0) -> None:
        self.fails = fails
        self.delay_s = delay_s
        self.asked = 0
        self.cancelled = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def answer(self) -> Replica:
        self.asked += 1
        try:
            await self.hold.wait()
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fails:
            raise self.fails
        return self


def soon() -> Deadline:
    return Deadline.after(5000)


async def test_idle_replicas_take_turns() -> None:
    replicas = [Replica() for _ in range(3)]
    group = Replicas(replicas)
    for _ in range(30):
        await group.call(Replica.answer, soon())
    assert [one.asked for one in replicas] == [10, 10, 10]


async def test_the_replica_with_the_fewest_calls_outstanding_is_asked() -> None:
    slow, fast = Replica(), Replica()
    slow.hold.clear()
    group = Replicas([slow, fast])
    first = [asyncio.create_task(group.call(Replica.answer, soon())) for _ in range(2)]
    await asyncio.sleep(0)
    for _ in range(10):
        assert await group.call(Replica.answer, soon()) is fast
    slow.hold.set()
    await asyncio.gather(*first)


@pytest.mark.parametrize("error", [TierUnavailable("x"), VersionNotServed("x")])
async def test_one_failure_is_made_good_by_one_other_replica(error: Exception) -> None:
    for replicas in ([Replica(fails=error), Replica()], [Replica(), Replica(fails=error)]):
        good = next(one for one in replicas if one.fails is None)
        assert await Replicas(replicas).call(Replica.answer, soon()) is good


async def test_two_failures_are_not_followed_by_a_third_attempt() -> None:
    replicas = [Replica(fails=TierUnavailable(f"{n}")) for n in range(4)]
    with pytest.raises(TierUnavailable):
        await Replicas(replicas).call(Replica.answer, soon())
    assert sum(one.asked for one in replicas) == 2


async def test_a_failed_replica_rests() -> None:
    bad, good = Replica(fails=TierUnavailable("x")), Replica()
    group = Replicas([bad, good])
    for _ in range(20):
        await group.call(Replica.answer, soon())
    assert bad.asked == 1


async def test_the_only_replica_never_rests() -> None:
    only = Replica(fails=TierUnavailable("x"))
    group = Replicas([only])
    for _ in range(3):
        with pytest.raises(TierUnavailable):
            await group.call(Replica.answer, soon())
    assert only.asked == 3


async def test_a_mistake_of_the_caller_is_not_repeated_elsewhere() -> None:
    replicas = [Replica(fails=InvalidField("k", "bad")) for _ in range(2)]
    with pytest.raises(InvalidField):
        await Replicas(replicas).call(Replica.answer, soon())
    assert sum(one.asked for one in replicas) == 1


async def test_the_deadline_ends_a_call_and_the_slow_replica_rests() -> None:
    stopped, good = Replica(), Replica()
    stopped.hold.clear()
    group = Replicas([stopped, good], extra_share=0.0)
    while not stopped.asked:
        try:
            await group.call(Replica.answer, Deadline.after(20))
        except BudgetExceeded:
            break
    assert [await group.call(Replica.answer, soon()) for _ in range(4)] == [good] * 4


async def test_no_replicas_are_an_unavailable_tier() -> None:
    empty: Replicas[Replica] = Replicas([])
    with pytest.raises(TierUnavailable, match="no replica"):
        await empty.call(Replica.answer, soon())


def test_budgets_that_fit_are_the_configured_ones() -> None:
    budgets = Budgets.of(ServingConfig(), None)
    assert (budgets.retrieval_ms, budgets.ranking_ms, budgets.describe_ms) == (200, 400, 200)


def test_a_short_deadline_shrinks_every_stage_alike() -> None:
    budgets = Budgets.of(ServingConfig(reserve_ms=20), 100)
    assert (budgets.retrieval_ms, budgets.ranking_ms, budgets.describe_ms) == (20, 40, 20)
    assert budgets.total.remaining_ms <= 80


def test_a_deadline_cannot_buy_more_than_the_configuration() -> None:
    assert Budgets.of(ServingConfig(), 60_000).total.remaining_ms <= 1000


@pytest.mark.parametrize("deadline_ms", [0, 5, -1])
def test_no_time_left_is_an_error_at_once(deadline_ms: float) -> None:
    with pytest.raises(BudgetExceeded):
        Budgets.of(ServingConfig(), deadline_ms)


# -- slow replicas ---------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Attempts:
    """An `AttemptWatch` that counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def attempted(self, tier: str, what: str) -> None:
        assert tier == "t"
        self.counts[what] += 1


async def a_group(
    *replicas: Replica, warm: int = 60, clock: Clock | None = None, share: float = 0.05
) -> tuple[Replicas[Replica], Attempts]:
    """One whose replicas have answered at once so far."""
    watch = Attempts()
    group = Replicas(replicas, extra_share=share, tier="t", watch=watch, clock=clock or Clock())
    for _ in range(warm):
        await group.call(Replica.answer, soon())
    watch.counts.clear()
    for one in replicas:
        one.asked = 0
    return group, watch


def stop(replica: Replica) -> None:
    replica.hold.clear()


async def test_a_slow_replica_is_hedged_and_its_call_cancelled() -> None:
    stopped, good = Replica(), Replica()
    group, watch = await a_group(stopped, good)
    stop(stopped)
    for _ in range(2):  # they take turns
        assert await group.call(Replica.answer, soon()) is good
    await asyncio.sleep(0)
    # On a busy machine the good one may be late, too, and a call goes both ways.
    assert stopped.asked == stopped.cancelled > 0
    assert watch.counts["hedge"] >= watch.counts["hedge_won"] > 0
    assert watch.counts["first"] == 2


async def test_an_answer_that_comes_before_the_hedges_counts() -> None:
    slow, stopped = Replica(), Replica()
    group, watch = await a_group(slow, stopped)
    stop(slow)
    stop(stopped)
    call = asyncio.create_task(group.call(Replica.answer, soon()))
    while not (slow.asked and stopped.asked):
        await asyncio.sleep(0.001)
    slow.hold.set()
    assert await call is slow
    assert stopped.cancelled == 1
    assert watch.counts["hedge"] == 1


async def test_a_replica_that_is_late_again_and_again_rests_and_is_tried_by_one_call() -> None:
    stopped, good = Replica(), Replica()
    clock = Clock()
    group, watch = await a_group(stopped, good, clock=clock)
    stop(stopped)
    while not watch.counts["rest"]:
        assert await group.call(Replica.answer, soon()) is good
    asked = stopped.asked
    assert asked >= 3

    async def asked_by(calls: int) -> int:
        for _ in range(calls):
            await group.call(Replica.answer, soon())
        return stopped.asked - asked

    assert await asked_by(20) == 0
    clock.now += 1.5
    assert await asked_by(20) == 1, "one call tries it, and it rests for longer"
    clock.now += 1.5
    assert await asked_by(20) == 1
    clock.now += 5.0
    stopped.hold.set()
    assert await asked_by(20) > 5, "it has answered, and takes its turns again"


async def test_without_answers_yet_half_of_the_time_belongs_to_a_sibling() -> None:
    stopped, good = Replica(), Replica()
    group, _ = await a_group(stopped, good, warm=0)
    stop(stopped)
    for _ in range(2):
        assert await group.call(Replica.answer, Deadline.after(200)) is good


async def test_a_tier_that_has_become_slow_everywhere_is_not_asked_twice() -> None:
    replicas = [Replica(delay_s=0.003), Replica(delay_s=0.003)]
    group, watch = await a_group(*replicas)
    for one in replicas:
        one.delay_s = 0.02
    for _ in range(20):
        await asyncio.gather(*(group.call(Replica.answer, soon()) for _ in range(20)))
    assert 0 < watch.counts["hedge"] < 100, "what is slow is learned"


async def test_extra_attempts_are_a_share_of_the_calls_but_for_a_burst() -> None:
    extra = ExtraAttempts(0.05)
    burst = sum(extra.spend() for _ in range(1000))
    assert 0 < burst < 200
    allowed = 0
    for _ in range(1000):
        extra.earn()
        allowed += extra.spend()
    assert allowed in (49, 50)


async def test_without_a_share_nobody_is_asked_twice() -> None:
    stopped, good = Replica(), Replica()
    group, watch = await a_group(stopped, good, share=0.0)
    stop(stopped)
    outcomes = await asyncio.gather(
        *(group.call(Replica.answer, Deadline.after(50)) for _ in range(2)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, BudgetExceeded) for one in outcomes) == 1
    assert watch.counts["hedge"] == 0


async def test_a_storm_of_failures_is_not_doubled() -> None:
    replicas = [Replica(fails=TierUnavailable("x")) for _ in range(3)]
    group, watch = await a_group(*replicas, warm=0)
    for _ in range(500):
        with pytest.raises(TierUnavailable):
            await group.call(Replica.answer, soon())
    assert sum(one.asked for one in replicas) <= 505
    assert watch.counts["first"] == 500


async def test_who_lacks_a_version_is_not_to_blame() -> None:
    old, new = Replica(fails=VersionNotServed("x")), Replica()
    group, watch = await a_group(old, new, warm=0, share=0.0)
    for _ in range(50):
        assert await group.call(Replica.answer, soon()) is new
    assert watch.counts["rest"] == 0
    assert watch.counts["version"] == old.asked > 0


async def test_a_caller_that_leaves_says_nothing_about_a_replica() -> None:
    slow, other = Replica(), Replica()
    group, watch = await a_group(slow, other)
    stop(slow)
    stop(other)
    calls = [asyncio.create_task(group.call(Replica.answer, soon())) for _ in range(2)]
    await asyncio.sleep(0.001)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await asyncio.sleep(0)
    assert (slow.asked, slow.cancelled) == (other.asked, other.cancelled)
    assert watch.counts["rest"] == 0


async def test_kinds_of_calls_have_their_own_patience() -> None:
    slow, other = Replica(), Replica()
    group, watch = await a_group(slow, other)
    for one in (slow, other):
        one.delay_s = 0.01
    for _ in range(10):
        await group.call(Replica.answer, soon(), "another kind")
    assert watch.counts["hedge"] == 0
