from __future__ import annotations

import asyncio

import pytest

from orchestrator.budget import Budgets, Deadline
from orchestrator.replicas import Replicas
from shortlist.config import ServingConfig
from shortlist.errors import BudgetExceeded, InvalidField, TierUnavailable, VersionNotServed


class Replica:
    def __init__(self, *, fails: Exception | None = None) -> None:
        self.fails = fails
        self.asked = 0
        self.hold = asyncio.Event()
        self.hold.set()

    async def answer(self) -> Replica:
        self.asked += 1
        await self.hold.wait()
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
    group = Replicas([stopped, good])
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
