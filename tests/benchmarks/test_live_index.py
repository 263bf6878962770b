from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from benchmarks.live_index import main


@pytest.mark.slow  # builds two indexes
def test_a_slice_with_its_changes_beside_it_finds_what_a_new_base_finds() -> None:
    options = ["--items", "6000", "--dim", "16", "--k", "100", "--queries", "40", "--json"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    document = json.loads(done.stdout)
    published, beside, new = document["states"]
    assert document["loss"] <= 0.005
    assert published["recall"] >= 0.95
    assert (published["beside"], published["dead"]) == (0, 0)
    assert (beside["beside"], beside["dead"]) == (400, 400)
    assert (new["beside"], new["dead"]) == (0, 0)
    assert {state["items"] for state in document["states"]} == {6000}
    assert [state["gone"] for state in document["states"]] == [0, 0, 0]
    assert document["exact_ms"].keys() >= {"1000", "20000"}
