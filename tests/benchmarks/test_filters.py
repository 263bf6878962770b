from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks.filters import main


def test_a_small_run_finds_as_much_as_there_is_at_every_share() -> None:
    options = ["--items", "2500", "--dim", "8", "--k", "50", "--queries", "4", "--json"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    document = json.loads(done.stdout)
    assert {row["share"] for row in document["searches"]} >= {1.0, 0.5, 0.1}
    for row in document["searches"]:
        assert row["found"] == 1
        assert row["recall"] >= 0.9
    assert all(0 < row["matching"] < 2500 for row in document["masks"])
