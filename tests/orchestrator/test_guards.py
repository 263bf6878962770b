"""When a canary ends by itself, and when it must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.click_guard import Crowd, pages_until_ended
from orchestrator.guards import Guards, evidence_above, reason_to_end
from orchestrator.guards_clicks import ClickTest
from orchestrator.rollout_figures import Durations, Figures, RollingFigures
from shortlist.config import CanaryConfig
from shortlist.errors import InvalidRequest

GUARDS = Guards.of(CanaryConfig())


def figures(
    requests: int, *, failed: int = 0, degraded: int = 0, milliseconds: float = 10.0
) -> Figures:
    """Answered requests take from half to one and a half of `milliseconds`."""
    found = Figures()
    times = np.linspace(0.5, 1.5, max(1, requests - failed)) * milliseconds
    for at, time in enumerate(times[: requests - failed].tolist()):
        found.answered(time, degraded=at < degraded)
    for _ in range(failed):
        found.fail()
    return found


@pytest.mark.parametrize(
    ("canary", "others", "reason"),
    [
        (figures(400), figures(1600), ""),
        (figures(400, failed=2), figures(1600, failed=4), ""),
        (figures(400, failed=40), figures(1600, failed=160), ""),  # the tiers fail both alike
        (figures(400, failed=40), figures(1600, failed=4), "error rate 10.00% of 400 requests"),
        (figures(400, degraded=60), figures(1600, degraded=240), ""),
        (figures(400, degraded=60), figures(1600), "degradation rate 15.00% of 400 requests"),
        (figures(400, milliseconds=16.0), figures(1600), ""),
        (figures(400, milliseconds=30.0), figures(1600), "latency: p99"),
        (figures(400, failed=400), figures(1600), "error rate 100.00%"),
        (figures(199, failed=199), figures(1600), ""),  # too few to judge
        (figures(400, failed=100), figures(0), "error rate 25.00%"),  # a canary of everybody
        (figures(400, milliseconds=900.0), figures(0), ""),
    ],
)
def test_a_canary_ends_for_what_the_others_do_not_have(
    canary: Figures, others: Figures, reason: str
) -> None:
    found = reason_to_end(GUARDS, canary, others, ClickTest())
    assert found.startswith(reason) if reason else not found


def test_pages_that_another_release_had_to_make_count_as_degraded() -> None:
    canary = figures(300)
    for _ in range(100):
        canary.fell_back()
    assert "degradation rate 25.00%" in reason_to_end(GUARDS, canary, figures(1600), ClickTest())


def test_bounds_outside_of_their_ranges_are_refused_by_field() -> None:
    wrong = replace(GUARDS, max_error_rate_increase=float("nan"), max_p99_ratio=0.5)
    with pytest.raises(InvalidRequest) as refused:
        wrong.check()
    assert [field for field, _ in refused.value.violations] == [
        "guards.max_error_rate_increase",
        "guards.max_p99_ratio",
    ]


def test_chance_hardly_breaks_a_bound_however_often_it_is_looked_at() -> None:
    """A share exactly at the bound: evidence reaches 50 in at most 2 % of the runs."""
    rng = np.random.default_rng(7)
    bad = np.cumsum(rng.random((400, 1500)) < 0.02, axis=1)
    peaks = [
        max(evidence_above(int(row[at]), at + 1, 0.02) for at in range(0, 1500, 25)) for row in bad
    ]
    assert np.mean(np.array(peaks) >= 50) <= 0.02


def test_quantiles_are_right_within_a_hundredth() -> None:
    values = np.random.default_rng(1).lognormal(3, 1, 20_000)
    durations = Durations()
    for value in values.tolist():
        durations.add(value)
    for share in (0.5, 0.99):
        assert durations.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.02)
    assert durations.above(50.0) == pytest.approx(np.count_nonzero(values > 50.0), rel=0.02)
    assert durations.total == 20_000


def test_what_takes_no_time_or_forever_has_a_bucket_too() -> None:
    durations = Durations()
    for value in (0.0, 1e12):
        durations.add(value)
    assert durations.total == 2
    assert Durations().quantile(0.99) == 0.0


def test_what_goes_wrong_late_does_not_drown_in_what_went_well() -> None:
    rolling = RollingFigures(window=500)
    for at in range(10_000):
        for canary in (True, False):
            one = rolling.of(canary=canary)
            if canary and at >= 9_800:
                one.fail()
            else:
                one.answered(10.0, degraded=False)
    assert not reason_to_end(GUARDS, *rolling.all(), ClickTest()).startswith("error rate 20")
    assert reason_to_end(GUARDS, *rolling.newest(), ClickTest()).startswith("error rate")
    assert rolling.all()[0].requests == 10_000


# -- clicks ---------------------------------------------------------------------------------------


def run(change: float, seed: int, *, pages: int) -> int | None:
    """The canary's pages until its users' clicks end it; None = they never did. Users differ a lot
    in how often they come and how much they click, and they return."""
    return pages_until_ended(Crowd(), change, pages, seed, alpha=0.05)


@pytest.mark.slow
def test_an_equal_canary_is_ended_in_at_most_alpha_of_the_runs_however_often_one_looks() -> None:
    runs = [run(0.0, seed, pages=6000) for seed in range(200)]
    assert sum(shown is not None for shown in runs) <= 0.05 * len(runs)


@pytest.mark.slow
def test_a_worse_canary_is_found_out() -> None:
    shown = [run(-0.4, seed, pages=20_000) for seed in range(20)]
    found = sorted(one for one in shown if one is not None)
    assert len(found) >= 19
    assert found[len(found) // 2] < 1500


def test_a_better_canary_is_not_ended() -> None:
    assert [run(0.5, seed, pages=3000) for seed in range(5)] == [None] * 5


def test_a_canary_that_is_never_clicked_is_found_out_soon() -> None:
    shown = run(-1.0, 1, pages=6000)
    assert shown is not None
    assert shown < 1000


def test_the_same_click_counts_once() -> None:
    test = ClickTest()
    test.show(5, canary=True)
    assert test.click(5, 77, canary=True)
    assert not test.click(5, 77, canary=True)
    assert (test.pages(canary=True), test.clicks(canary=True)) == (1, 1)
    assert test.evidence() == 0.0  # far too little to tell
