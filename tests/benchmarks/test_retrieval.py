from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks.retrieval import main


def test_a_small_run_prints_one_json_object_with_the_recall() -> None:
    sizes = ["--items", "1500", "--items", "500"]
    options = ["--dim", "8", "--k", "50", "--queries", "10", "--json"]
    done = CliRunner().invoke(main, [*sizes, *options], catch_exceptions=False)
    small, tiny = json.loads(done.stdout)["rows"]
    assert (small["kind"], tiny["kind"]) == ("scann", "exact")
    assert small["recall"] >= 0.9
    assert tiny["recall"] == 1
