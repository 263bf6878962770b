"""Each thing that grows gets its points, of a system that really serves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.growth import AXES, main


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_run_has_a_point_for_every_value_and_draws_them(tmp_path: Path) -> None:
    plot = tmp_path / "growth.svg"
    words = (
        "--items 2000 --candidates 50 --shards 1 --in-flight 8 --base-items 2000 "
        f"--base-candidates 100 --users 300 --rankers 1 --seconds 1 --plot {plot} --json"
    )
    done = CliRunner().invoke(main, words.split(), catch_exceptions=False)
    assert done.exit_code == 0
    points = json.loads(done.stdout)["points"]
    assert [(one["axis"], one["value"]) for one in points] == [
        ("items", 2000),
        ("candidates", 50),
        ("shards", 1),
        ("in_flight", 8),
    ]
    assert tuple(one["axis"] for one in points) == AXES
    for one in points:
        assert one["pages"] > 0
        assert one["failed"] == 0
        assert one["p50_ms"] <= one["p99_ms"]
        assert one["cpu_ms"].keys() == {"retrieval", "ranking", "orchestrator"}
        assert all(ms > 0 for ms in one["cpu_ms"].values())
        assert all(mb > 0 for mb in one["memory_mb"].values())
    assert plot.read_text("utf-8").startswith("<?xml")
