"""One round of the benchmark in a tiny world: what it prints, and that nothing went wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from shortlist.launch import child_environment, module_command


@pytest.mark.slow
@pytest.mark.timeout(900)  # it trains twice
def test_one_round_under_load_fails_and_mixes_nothing(tmp_path: Path, checkout: Path) -> None:
    what = ("--json", "--rounds", "1", "--together", "--no-nice", "--load", "0.2")
    sizes = ("--items", "400", "--users", "150", "--events", "3000", "--seconds", "2")
    run = subprocess.run(
        module_command("benchmarks.redeploy", *what, *sizes, "--workdir", str(tmp_path)),
        cwd=checkout,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout)
    assert (figures["rounds"], figures["failed_requests"]) == (1, 0), figures["failures"]
    assert figures["mixed_version_responses"] == 0, figures["mixed"]
    assert figures["pages"] > 0
    assert figures["p99_ratio"] > 0
    assert set(figures["job_to_serving_s"]) == {"retrieval_and_ranking"}
