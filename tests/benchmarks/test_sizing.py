from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.sizing import main

pytestmark = pytest.mark.slow


def test_a_small_run_tells_what_a_shard_takes() -> None:
    options = ["--items", "2000", "--queries", "5", "--json"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    (row,) = json.loads(done.stdout)["rows"]
    own, shared = row["own_bytes_per_item"], row["shared_bytes_per_item"]
    # 200 neighbours, each a row and a weight; a key and a start for each list of each shard.
    assert own["cooccurrence"] == pytest.approx(200 * 8 + 2 * 16, rel=0.01)
    assert own["mf"] == pytest.approx(64 * 4, rel=0.01)
    assert shared["mf"] == pytest.approx(8 + 64 * 4, rel=0.1)
    # Both towers know every item by its key and its vector.
    assert shared["tower"] > 2 * (8 + 64 * 4)
    assert row["served"]["memory_mb"] > row["files_mb"]
    assert set(row["served"]["cpu_ms_by_source"]) == {"two_tower", "mf", "cooccurrence"}
