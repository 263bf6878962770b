"""The adaptive limit, with a clock of the test's own."""

from __future__ import annotations

import pytest

from shortlist.concurrency import AdaptiveLimit

LEAST, MOST = 16, 256


class Traffic:
    """Windows of calls that take as long as they are told to."""

    def __init__(self, *, least: int = LEAST, most: int = MOST) -> None:
        self._now = 0.0
        self._adaptive = AdaptiveLimit(least=least, most=most, clock=lambda: self._now)

    @property
    def limit(self) -> int:
        return self._adaptive.limit

    def windows(
        self,
        count: int,
        seconds: float,
        *,
        running: int,
        method: str = "Recommend",
        calls: int = 100,
    ) -> Traffic:
        for _ in range(count):
            for _ in range(calls):
                self._now += 0.6 / calls
                self._adaptive.finished(method, seconds, running)
        return self


def test_it_begins_at_the_ceiling() -> None:
    assert Traffic().limit == MOST


def test_it_stays_there_while_calls_take_as_long_as_ever() -> None:
    assert Traffic().windows(50, 0.01, running=MOST).limit == MOST


def test_calls_that_wait_for_each_other_lower_it_to_the_floor() -> None:
    traffic = Traffic().windows(1, 0.01, running=1)
    limits = [traffic.windows(1, 0.5, running=traffic.limit).limit for _ in range(20)]
    assert limits[:3] == [144, 84, 51]  # halved, and the square root of what it was
    assert min(limits) == LEAST
    assert max(limits[6:]) <= LEAST + 8  # it goes on to try whether more are good


def test_it_finds_the_limit_at_which_calls_are_twice_as_slow() -> None:
    """A machine that does 8 calls at once: more of them wait in line."""
    traffic = Traffic(least=4).windows(1, 0.01, running=1)
    for _ in range(60):
        running = traffic.limit
        traffic.windows(1, 0.01 * max(1.0, running / 8), running=running)
    assert 16 <= traffic.limit <= 24


def test_calls_that_are_slow_and_few_change_nothing() -> None:
    """A tier that hangs makes calls slow without making this process busy."""
    traffic = Traffic().windows(1, 0.01, running=1)
    assert traffic.windows(50, 0.6, running=LEAST).limit == MOST


def test_it_falls_from_what_is_in_use() -> None:
    """A process that is busy reads calls late, so that few of those that wait are running."""
    traffic = Traffic().windows(1, 0.01, running=1)
    assert traffic.windows(1, 0.6, running=36).limit == 36 // 2 + 6


def test_it_comes_back_when_calls_are_quick_again() -> None:
    traffic = Traffic().windows(1, 0.01, running=1).windows(30, 0.5, running=MOST)
    assert traffic.limit == LEAST
    assert traffic.windows(2, 0.01, running=LEAST).limit > LEAST
    assert traffic.windows(60, 0.01, running=LEAST).limit == MOST


def test_it_comes_back_when_hardly_anybody_calls() -> None:
    traffic = Traffic().windows(1, 0.01, running=1).windows(30, 0.5, running=MOST)
    assert traffic.windows(60, 0.5, running=1).limit == MOST


def test_each_method_is_compared_with_itself() -> None:
    traffic = Traffic().windows(1, 0.001, running=1, method="Similar")
    assert traffic.windows(50, 0.1, running=MOST, method="Recommend").limit == MOST


def test_a_few_calls_change_nothing() -> None:
    traffic = Traffic().windows(1, 0.01, running=1)
    assert traffic.windows(1, 5.0, running=MOST, calls=19).limit == MOST


def test_what_calls_cost_is_learned_anew_within_hours() -> None:
    """A new ranker takes three times as long, and always will."""
    traffic = Traffic().windows(10, 0.01, running=MOST).windows(20, 0.03, running=MOST)
    assert traffic.limit == LEAST
    traffic.windows(3600, 0.03, running=MOST, calls=20)
    assert traffic.limit == MOST


@pytest.mark.parametrize(("least", "most", "floor"), [(16, 4, 4), (1, 1, 1)])
def test_the_floor_is_never_above_the_ceiling(least: int, most: int, floor: int) -> None:
    traffic = Traffic(least=least, most=most).windows(1, 0.01, running=1)
    assert traffic.windows(20, 1.0, running=most).limit == floor
