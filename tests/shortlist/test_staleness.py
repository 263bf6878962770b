from __future__ import annotations

import math

import pytest

from shortlist.config import ServingConfig
from shortlist.staleness import believed_ms

DAY_MS = 86_400_000
HOUR_MS = DAY_MS // 24
WATERMARK_MS = 19_000 * DAY_MS + 5 * HOUR_MS


def believed(days: float, at_most: float) -> float:
    """Days after the watermark."""
    at = WATERMARK_MS + int(days * DAY_MS)
    return (believed_ms(at, WATERMARK_MS, at_most) - WATERMARK_MS) / DAY_MS


@pytest.mark.parametrize("days", [-3, 0, 0.5, 7])
def test_a_time_that_is_not_too_late_is_believed(days: float) -> None:
    assert believed(days, 7) == days


def test_the_hour_and_the_day_of_the_week_go_on() -> None:
    assert [believed(days, 7) for days in (7.25, 9, 14, 100.5)] == [0.25, 2, 7, 2.5]


def test_within_less_than_a_week_the_hour_goes_on() -> None:
    assert [believed(days, 2) for days in (2.25, 9, 9.5)] == [1.25, 2, 1.5]
    assert believed(9.25, 5) == 2.25  # and the day of the week, where it is among these days


def test_within_less_than_a_day_time_stands_still() -> None:
    assert [believed(days, 0.25) for days in (0.125, 0.5, 3.75)] == [0.125, 0.25, 0.25]
    assert believed(3, 0) == 0


def test_without_a_limit_every_time_is_believed() -> None:
    assert ServingConfig(max_staleness_days=0).staleness_days == math.inf
    assert believed(3000, math.inf) == 3000
