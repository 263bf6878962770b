"""What is measured of real shards stands beside what the simulator says of them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.fanout import main


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_small_run_measures_real_shards_and_plans_for_many() -> None:
    words = (
        "--items 4000 --users 260 --candidates 100 --shards 4 --calls 30 --seconds 1.5 "
        "--grown 4000 20000 --simulated 200 --json"
    )
    done = CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert 25 < result["asked_of_a_shard"] < 100
    assert result["shard_cpu_ms"] > 0
    assert result["growth"]["search_ms"] > 0
    assert [one["rps"] > 0 for one in result["checks"]] == [False, True, True, True]
    for check in result["checks"]:
        for kind in ("measured_ms", "predicted_ms"):
            assert 0 < check[kind]["p50"] <= check[kind]["p99"]
    plans = {(one["shards"], one["fan_out"] > 0): one for one in result["plans"]}
    assert plans.keys() == {(n, tree) for n in (100, 200, 500, 1000) for tree in (False, True)}
    for plan in plans.values():
        assert plan["items_a_shard"] * plan["shards"] == 1_000_000_000
        assert plan["hedged"]["share"] <= 0.05
    # One process that asks a thousand shards itself is slower than hosts that share the work.
    assert plans[1000, True]["plain"]["p50"] < plans[1000, False]["plain"]["p50"]
