"""The parts of the canary's benchmarks that need no training."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.canary import Trial
from benchmarks.click_guard import Crowd, main, pages_until_ended


def test_rates_are_told_apart_by_side_and_by_when_the_canary_ended() -> None:
    trial = Trial(
        share=0.5,
        alpha=0.05,
        same=False,
        mine=[True, False, True, False, True, False],
        clicks=[0, 2, 1, 4, 6, 8],
        by_canary=[True, False, True, False, False, False],
        ended_at=4,
        reason="click rate",
    )
    found = trial.summary()
    assert found["clicks_per_page"] == {
        "canary_users_during": 0.5,
        "canary_users_after": 6.0,
        "other_users_during": 3.0,
        "other_users_after": 8.0,
    }
    assert found["canary_pages_until_rollback"] == 2
    assert found["pages_by_canary_after"] == 0


def test_a_trial_without_an_end_has_no_rates_after_it() -> None:
    trial = Trial(
        share=0.5, alpha=0.05, same=True, mine=[True, False], clicks=[1, 1], by_canary=[True, False]
    )
    found = trial.summary()
    assert not found["rolled_back"]
    assert found["clicks_per_page"]["canary_users_after"] is None


def test_equal_seeds_give_equal_crowds() -> None:
    found = [pages_until_ended(Crowd(), -1.0, 8000, seed, alpha=0.05) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


@pytest.mark.slow
def test_the_distribution_of_pages_needed_is_printed() -> None:
    options = ["--json", "--equal", "1", "--worse", "2", "--change", "-0.9"]
    run = CliRunner().invoke(main, options)
    assert run.exit_code == 0, run.output
    runs = json.loads(run.stdout)["runs"]
    assert [(one["change"], one["ended"]) for one in runs] == [(0.0, 0.0), (-0.9, 1.0)] * 3
