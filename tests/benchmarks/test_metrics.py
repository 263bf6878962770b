from __future__ import annotations

import json

from click.testing import CliRunner

from benchmarks.metrics import main


def test_both_costs_are_measured() -> None:
    done = CliRunner().invoke(main, ["--pages", "50", "--seconds", "0.2"], catch_exceptions=False)
    figures = json.loads(done.output)
    assert figures["counting_us_per_page"] > 0
    assert figures["watching_ms_per_s"] > 0
